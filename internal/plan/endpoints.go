// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// endpoint is one address and port behind a Service port.
type endpoint struct {
	*model.Endpoint
	addr  netip.AddrPort
	local bool
	// inCluster and inLocal: the sets it is a member of.
	inCluster, inLocal bool
}

// fallback reports whether it may be used if nothing ready is left (KEP-1669).
func (e *endpoint) fallback() bool { return e.Serving && e.Terminating }

// usable reports whether it could be in a set of some node.
func (e *endpoint) usable() bool { return e.Ready || e.fallback() }

// portName is how slices and Services name a port: the name within the Service,
// and the protocol.
type portName struct {
	name     string
	protocol model.Protocol
}

// gather returns the endpoints of a port in one family, sorted by address,
// without duplicates. The slices must be sorted by name.
func gather(all []model.EndpointSlice, family model.Family, port portName, nodeName string) []endpoint {
	var eps []endpoint
	for i := range all {
		slice := &all[i]
		if slice.Family != family {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == 0 || p.Name != port.name || p.Protocol != port.protocol {
				continue
			}
			eps = slices.Grow(eps, len(slice.Endpoints))
			for j := range slice.Endpoints {
				ep := &slice.Endpoints[j]
				if refusal(ep.Addr, family) != "" {
					continue
				}
				eps = append(eps, endpoint{
					Endpoint: ep,
					addr:     netip.AddrPortFrom(ep.Addr.Unmap(), p.Port),
					local:    nodeName != "" && ep.Node == nodeName,
				})
			}
		}
	}
	return unique(eps)
}

// refusal says why an address in a slice of that family is no backend, or "".
func refusal(addr netip.Addr, family model.Family) string {
	if why := special(addr); why != "" {
		return why
	}
	if model.FamilyOf(addr) != family {
		return "not " + family.String() + " as its slice says"
	}
	return ""
}

// unique sorts endpoints by address and keeps one for each. An endpoint that
// moves may be in two slices for a while, and a new pod may have the address of
// one that is still terminating: one that is not terminating wins, otherwise the
// first (kube-proxy: endpointslicecache.go, addEndpoints; where it leaves the
// outcome open, the last slice by name decides here).
func unique(all []endpoint) []endpoint {
	slices.SortStableFunc(all, func(a, b endpoint) int { return a.addr.Compare(b.addr) })
	kept := all[:0]
	for _, e := range all {
		if n := len(kept); n == 0 || kept[n-1].addr != e.addr {
			kept = append(kept, e)
		} else if !e.Terminating {
			kept[n-1] = e
		}
	}
	return kept
}

// vantage is from where endpoints are judged.
type vantage struct{ node, zone string }

// categorise marks each endpoint with the sets it belongs to, and reports
// whether any endpoint of the cluster is usable at all. The two sets fall back
// to terminating endpoints independently; only the cluster set knows topology
// (kube-proxy: topology.go, CategorizeEndpoints).
func categorise(eps []endpoint, from vantage) (usable bool) {
	var ready, localReady bool
	for i := range eps {
		usable = usable || eps[i].usable()
		ready = ready || eps[i].Ready
		localReady = localReady || eps[i].Ready && eps[i].local
	}
	near := nearness(eps, from)
	for i := range eps {
		e := &eps[i]
		if ready {
			e.inCluster = e.Ready && near(e)
		} else {
			e.inCluster = e.fallback()
		}
		if localReady {
			e.inLocal = e.local && e.Ready
		} else {
			e.inLocal = e.local && e.fallback()
		}
	}
	return usable
}

// nearness returns the filter that topology hints ask for. Hints count only if
// every ready endpoint has one and one of them names this node, or else its
// zone (kube-proxy: topology.go, topologyModeFromHints).
func nearness(eps []endpoint, from vantage) func(*endpoint) bool {
	sameNode := func(e *endpoint) bool { return slices.Contains(e.ForNodes, from.node) }
	sameZone := func(e *endpoint) bool { return slices.Contains(e.ForZones, from.zone) }
	allNodes, allZones := true, true
	var someNode, someZone bool
	for i := range eps {
		e := &eps[i]
		if !e.Ready {
			continue
		}
		allNodes = allNodes && len(e.ForNodes) > 0
		allZones = allZones && len(e.ForZones) > 0
		someNode = someNode || sameNode(e)
		someZone = someZone || sameZone(e)
	}
	switch {
	case allNodes && someNode:
		return sameNode
	case allZones && someZone:
		return sameZone
	}
	return func(*endpoint) bool { return true }
}
