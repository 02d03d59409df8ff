// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/reconcile"
)

// serverBook knows where the API servers are, also from earlier agents.
type serverBook interface {
	Learn([]netip.AddrPort)
	Learned() []netip.AddrPort
}

// apiServers sees to it that the Service of the API servers never runs out of
// endpoints while it exists. An API server takes itself out when it ends and
// the last one may be the one that would have told of the next; a node that
// believed it would cut off every pod, and perhaps itself, for good (pains A11).
// It is an exception for this one Service, and kube-proxy makes none.
type apiServers struct {
	log  *slog.Logger
	book serverBook // nil: only what this agent has seen
	good []model.EndpointSlice
	kept bool // said so
}

// newAPIServers begins with what the kernel has of an earlier agent, if nobody
// has kept a list.
func newAPIServers(book serverBook, kernel *reconcile.Reconciler, log *slog.Logger) *apiServers {
	a := &apiServers{log: log, book: book}
	if book != nil && len(book.Learned()) == 0 {
		book.Learn(kernel.Endpoints(kubernetesService))
	}
	return a
}

// endpoints returns the slices to go by: those there are, or the last that had
// an endpoint.
func (a *apiServers) endpoints(service *model.Service, found []model.EndpointSlice) []model.EndpointSlice {
	switch {
	case service == nil:
		return found
	case !slices.ContainsFunc(found, usable):
		return a.keep(service, found)
	case a.kept:
		a.kept = false
		a.log.Info("the API servers' Service has endpoints again")
	}
	a.good = found
	if a.book != nil {
		a.book.Learn(addresses(found))
	}
	return found
}

func (a *apiServers) keep(service *model.Service, found []model.EndpointSlice) []model.EndpointSlice {
	if a.good == nil && a.book != nil {
		a.good = synthetic(service, a.book.Learned())
	}
	if a.good == nil {
		return found
	}
	if !a.kept {
		a.kept = true
		a.log.Warn("the API servers' Service has no endpoints; keeping its last ones", "endpoints", addresses(a.good))
	}
	return a.good
}

func usable(s model.EndpointSlice) bool {
	return slices.ContainsFunc(s.Endpoints, func(e model.Endpoint) bool { return e.Ready })
}

// addresses are where the endpoints that are ready listen.
func addresses(all []model.EndpointSlice) (found []netip.AddrPort) {
	for _, s := range all {
		for _, e := range s.Endpoints {
			for _, p := range s.Ports {
				if e.Ready && p.Protocol == model.TCP {
					found = append(found, netip.AddrPortFrom(e.Addr, p.Port))
				}
			}
		}
	}
	return found
}

// synthetic makes slices of addresses, one each. They serve the Service's first
// port: it has one.
func synthetic(service *model.Service, all []netip.AddrPort) (made []model.EndpointSlice) {
	if len(service.Ports) == 0 {
		return nil
	}
	for _, a := range all {
		made = append(made, model.EndpointSlice{
			Name:      model.Name{Namespace: service.Name.Namespace, Name: "learned " + a.String()},
			Service:   service.Name,
			Family:    model.FamilyOf(a.Addr()),
			Ports:     []model.EndpointPort{{Name: service.Ports[0].Name, Protocol: model.TCP, Port: a.Port()}},
			Endpoints: []model.Endpoint{{Addr: a.Addr(), Ready: true, Serving: true}},
		})
	}
	return made
}
