// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// spec is a Service port in short; what is left out is the usual.
type spec struct {
	port      string   // name
	frontends []string // "10.0.0.1:80"; "0.0.0.0:30080" is a NodePort
	backends  []string // "10.1.0.1:8080", and after a space what is special: "local", "terminating", "draining"
	local     bool     // external traffic policy Local
	inLocal   bool     // internal traffic policy Local
	affinity  time.Duration
	protocol  model.Protocol
	ranges    []string // source ranges of all frontends but NodePorts
}

// service makes the plan of a Service as package plan would.
func serviceOf(name string, specs ...spec) plan.Service {
	s := plan.Service{Name: model.Name{Namespace: "ns", Name: name}}
	for _, sp := range specs {
		s.Ports = append(s.Ports, portOf(s.Name, sp))
	}
	slices.SortFunc(s.Ports, func(a, b plan.Port) int { return a.ID.Compare(b.ID) })
	return s
}

func withAddresses(s plan.Service, addrs ...string) plan.Service {
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

func portOf(name model.Name, sp spec) plan.Port {
	if sp.protocol == 0 {
		sp.protocol = model.TCP
	}
	p := plan.Port{ID: plan.PortID{Service: name, Port: sp.port, Protocol: sp.protocol, Family: model.IPv4}}
	for _, f := range sp.frontends {
		at := netip.MustParseAddrPort(f)
		p.ID.Family = model.FamilyOf(at.Addr())
		kind := plan.ClusterIP
		ranges := prefixes(sp.ranges...)
		if at.Addr().IsUnspecified() {
			kind, ranges = plan.NodePort, nil
		}
		p.Frontends = append(p.Frontends, plan.Frontend{
			FrontendKey: plan.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: sp.protocol},
			Kind:        kind, InternalLocal: sp.inLocal, ExternalLocal: sp.local, AffinityTimeout: sp.affinity,
			SourceRanges: ranges,
		})
	}
	for _, b := range sp.backends {
		addr, special, _ := strings.Cut(b, " ")
		state := plan.Active
		switch special {
		case "terminating":
			state = plan.Terminating
		case "draining":
			state = plan.Draining
		}
		p.Backends = append(p.Backends, plan.Backend{Addr: netip.MustParseAddrPort(addr), State: state, Local: special == "local"})
	}
	slices.SortFunc(p.Backends, func(a, b plan.Backend) int { return a.Addr.Compare(b.Addr) })
	fillSets(&p, !sp.local || !sp.inLocal, sp.local || sp.inLocal)
	return p
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

func fillSets(p *plan.Port, cluster, local bool) {
	usable := false
	for i, b := range p.Backends {
		if b.State == plan.Draining {
			continue
		}
		usable = true
		if cluster {
			p.Cluster.Members = append(p.Cluster.Members, i)
		}
		if local && b.Local {
			p.Local.Members = append(p.Local.Members, i)
		}
	}
	if local && len(p.Local.Members) == 0 && usable {
		p.Local.Empty = plan.Drop
	}
}

// generator makes random desired states: a fixed pool of frontends wanders
// between a few Services.
type generator struct {
	*rand.Rand
	holders map[string]int // frontend -> Service number, -1 for none
}

func newGenerator(seed uint64) *generator {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 7)), holders: map[string]int{}}
	for i := range 6 {
		g.holders[fmt.Sprintf("10.0.0.%d:80", i/2+1)] = -1
		g.holders[fmt.Sprintf("10.0.0.%d:443", i/2+1)] = -1
	}
	g.holders["[fd00::1]:80"] = -1
	g.holders["0.0.0.0:30080"] = -1
	return g
}

const generatedServices = 5

// change returns the plans of Services that a random change concerns.
func (g *generator) change() []plan.Service {
	changed := map[int]bool{g.IntN(generatedServices): true}
	for range g.IntN(4) {
		keys := g.frontends(-2)
		key := keys[g.IntN(len(keys))]
		if was := g.holders[key]; was >= 0 {
			changed[was] = true
		}
		g.holders[key] = g.IntN(generatedServices+1) - 1
		if is := g.holders[key]; is >= 0 {
			changed[is] = true
		}
	}
	var plans []plan.Service
	// In order: a service draws random numbers, and a seed must mean one history.
	for _, i := range slices.Sorted(maps.Keys(changed)) {
		plans = append(plans, g.service(i))
	}
	slices.SortFunc(plans, func(a, b plan.Service) int { return a.Name.Compare(b.Name) })
	g.Shuffle(len(plans), func(i, j int) { plans[i], plans[j] = plans[j], plans[i] })
	return plans
}

// frontends returns those of a Service, sorted; -2 means all.
func (g *generator) frontends(service int) []string {
	var keys []string
	for key, holder := range g.holders {
		if holder == service || service == -2 {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (g *generator) service(i int) plan.Service {
	byPort := map[string]*spec{}
	for _, f := range g.frontends(i) {
		at := netip.MustParseAddrPort(f)
		name := fmt.Sprint("p", at.Port(), model.FamilyOf(at.Addr()))
		if g.IntN(8) == 0 {
			name += "-renamed"
		}
		if byPort[name] == nil {
			byPort[name] = g.spec(name)
		}
		byPort[name].frontends = append(byPort[name].frontends, f)
	}
	var specs []spec
	for _, f := range g.frontends(i) {
		for name, s := range byPort {
			if slices.Contains(s.frontends, f) {
				specs = append(specs, *s)
				delete(byPort, name)
			}
		}
	}
	s := serviceOf(fmt.Sprint("s", i), specs...)
	if len(specs) > 0 && g.IntN(2) == 0 {
		s = withAddresses(s, "10.0.0.1") // shared with others
	}
	return s
}

func (g *generator) spec(name string) *spec {
	s := &spec{port: name, local: g.IntN(3) == 0, inLocal: g.IntN(3) == 0}
	if g.IntN(4) == 0 {
		s.affinity = time.Duration(g.IntN(3)) * time.Hour
	}
	if g.IntN(3) == 0 {
		for _, r := range []string{"192.0.2.0/24", "192.0.2.128/25", "198.51.100.0/24", "128.0.0.0/1"} {
			if g.IntN(2) == 0 {
				s.ranges = append(s.ranges, r)
			}
		}
	}
	for i := range 6 {
		if g.IntN(2) == 0 {
			special := []string{"", "", "local", "terminating", "draining"}[g.IntN(5)]
			s.backends = append(s.backends, fmt.Sprintf("10.1.0.%d:8080 %s", i+1, special))
		}
	}
	return s
}
