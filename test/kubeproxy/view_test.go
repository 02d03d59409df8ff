// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// view is what clients meet on one node, in words that both sides can be
// translated into.
type view struct {
	// ports holds what each Service port does. A list has several elements only
	// where kube-proxy leaves open which it is.
	ports map[plan.PortID][]portView
	// claims holds who asks for each frontend.
	claims map[plan.FrontendKey][]claimant
	// addresses are the VIPs whose unknown ports are refused.
	addresses map[netip.Addr]bool
	// health holds the health checks of Services; several possibilities as
	// with ports.
	health map[healthID][]healthView
}

func newView() view {
	return view{
		ports:     map[plan.PortID][]portView{},
		claims:    map[plan.FrontendKey][]claimant{},
		addresses: map[netip.Addr]bool{},
		health:    map[healthID][]healthView{},
	}
}

// claimant is a Service that asks for a frontend.
type claimant struct {
	service   model.Name
	created   time.Time
	clusterIP bool
}

type healthID struct {
	service model.Name
	family  model.Family
}

type healthView struct {
	port       uint16
	localReady int
}

// portView is one Service port in one family.
type portView struct {
	// frontends are sorted by key.
	frontends []frontendView
	// kept are backends to which established flows go on even though new ones
	// may not go there.
	kept []string
	// hinted is true if topology hints leave out ready endpoints; it is not
	// compared.
	hinted bool
}

// frontendView is one frontend. It is comparable.
type frontendView struct {
	key  plan.FrontendKey
	kind plan.Kind
	// internal and external are what clients inside and outside the cluster
	// get: backends, reject or drop.
	internal, external string
	affinity           time.Duration
	ranges             string
}

const (
	reject = "reject"
	drop   = "drop"
)

// flows are the backends to which established flows go on: those that are kept,
// and those that new flows go to.
func (p portView) flows() string {
	list := slices.Clone(p.kept)
	for _, f := range p.frontends {
		for _, verdict := range []string{f.internal, f.external} {
			if verdict == drop || verdict == reject {
				continue
			}
			for word := range strings.FieldsSeq(verdict) {
				addr, _, _ := strings.Cut(word, "+")
				list = append(list, addr)
			}
		}
	}
	return words(list)
}

func (p portView) equal(o portView) bool {
	return slices.Equal(p.frontends, o.frontends) && p.flows() == o.flows()
}

func (p portView) String() string {
	var b strings.Builder
	for _, f := range p.frontends {
		fmt.Fprintf(&b, "  %v %v\n    internal: %s\n    external: %s\n    affinity: %v, ranges: %s\n",
			f.kind, f.key, f.internal, f.external, f.affinity, f.ranges)
	}
	fmt.Fprintf(&b, "  flows: %s\n", p.flows())
	return b.String()
}

func sortFrontends(list []frontendView) []frontendView {
	slices.SortFunc(list, func(a, b frontendView) int { return a.key.Compare(b.key) })
	return list
}

// words joins a set of words in a fixed order.
func words(list []string) string {
	slices.Sort(list)
	return strings.Join(slices.Compact(list), " ")
}

// winner is Beeline's rule for a frontend that several Services ask for; see
// the package doc of plan. It is a listed difference: kube-proxy walks a Go map
// and lets the last one win, another one after every sync.
func winner(list []claimant) claimant {
	return slices.MinFunc(list, func(a, b claimant) int {
		if a.clusterIP != b.clusterIP {
			if a.clusterIP {
				return -1
			}
			return 1
		}
		return cmp.Or(a.created.Compare(b.created), a.service.Compare(b.service))
	})
}

// granted leaves out the frontends that another Service wins.
func (v view) granted(id plan.PortID, p portView) portView {
	p.frontends = slices.DeleteFunc(slices.Clone(p.frontends), func(f frontendView) bool {
		list := v.claims[f.key]
		return len(list) > 1 && winner(list).service != id.Service
	})
	return p
}

// difference says where ours differs from theirs, "" if nowhere.
func difference(theirs, ours view) string {
	var b strings.Builder
	for id, options := range theirs.ports {
		differs(&b, theirs, id, options, ours.ports[id])
	}
	for id, options := range ours.ports {
		if _, ok := theirs.ports[id]; !ok {
			fmt.Fprintf(&b, "port %v: kube-proxy has none, Beeline has\n%v", id, options[0])
		}
	}
	compareAddresses(&b, theirs.addresses, ours.addresses)
	compareHealth(&b, theirs.health, ours.health)
	return b.String()
}

// differs writes down a port of which none of their possibilities is ours.
func differs(b *strings.Builder, theirs view, id plan.PortID, options, ours []portView) {
	var told strings.Builder
	for i, option := range options {
		option = theirs.granted(id, option)
		if len(ours) == 0 && len(option.frontends) == 0 || len(ours) > 0 && option.equal(ours[0]) {
			return
		}
		fmt.Fprintf(&told, "port %v: kube-proxy has (possibility %d of %d)\n%v", id, i+1, len(options), option)
	}
	b.WriteString(told.String())
	if len(ours) == 0 {
		fmt.Fprintf(b, "port %v: Beeline has none\n", id)
		return
	}
	fmt.Fprintf(b, "port %v: Beeline has\n%v", id, ours[0])
}

func compareAddresses(b *strings.Builder, theirs, ours map[netip.Addr]bool) {
	for addr := range theirs {
		if !ours[addr] {
			fmt.Fprintf(b, "unknown ports of %v: refused by kube-proxy only\n", addr)
		}
	}
	for addr := range ours {
		if !theirs[addr] {
			fmt.Fprintf(b, "unknown ports of %v: refused by Beeline only\n", addr)
		}
	}
}

func compareHealth(b *strings.Builder, theirs, ours map[healthID][]healthView) {
	for id, options := range theirs {
		if len(ours[id]) == 0 || !slices.Contains(options, ours[id][0]) {
			fmt.Fprintf(b, "health check %v: kube-proxy has %v, Beeline has %v\n", id, options, ours[id])
		}
	}
	for id, h := range ours {
		if len(theirs[id]) == 0 {
			fmt.Fprintf(b, "health check %v: kube-proxy has none, Beeline has %v\n", id, h)
		}
	}
}
