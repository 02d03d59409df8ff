// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/model"
)

// dice draws from pools that are small, so that everything collides.
type dice struct{ *rand.Rand }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

// some draws up to n values.
func some[T any](d dice, n int, from ...T) []T {
	var drawn []T
	for range d.IntN(n + 1) {
		drawn = append(drawn, pick(d, from...))
	}
	return drawn
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

var (
	serviceNames = []string{"a", "b", "c", "d", "e"}
	clusterIPs   = [][]netip.Addr{
		addrs("10.96.0.1"), addrs("10.96.0.2"), addrs("10.96.0.2", "fd00::2"), addrs("fd00::3", "10.96.0.3"), addrs("fd00::4"),
		addrs("169.254.169.254"), nil,
	}
	// everywhere are addresses of every kind; Services and endpoints share them.
	everywhere = addrs("10.96.0.1", "10.96.0.2", "fd00::2", "192.0.2.1", "192.0.2.2", "2001:db8::1",
		"172.18.0.2", "172.18.0.3", "10.244.1.1", "10.244.1.2", "fd00:1::1", "127.0.0.1", "::", "224.0.0.1")
	numbers = []uint16{0, 80, 81, 8080, 30080}
)

func (d dice) service(name string) *model.Service {
	if d.chance(20) {
		return nil
	}
	s := &model.Service{
		Name:                model.Name{Namespace: "ns", Name: name},
		Created:             pick(d, time.Time{}, time.Unix(1, 0), time.Unix(2, 0), time.Unix(2, 0).UTC()),
		Type:                pick(d, model.ClusterIP, model.NodePort, model.LoadBalancer),
		ClusterIPs:          pick(d, clusterIPs...),
		ExternalIPs:         some(d, 2, everywhere...),
		LoadBalancerIPs:     some(d, 2, everywhere...),
		SourceRanges:        some(d, 2, netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("::/0")),
		InternalLocal:       d.chance(30),
		ExternalLocal:       d.chance(40),
		AffinityTimeout:     pick(d, 0, time.Hour),
		HealthCheckNodePort: pick(d, uint16(0), 32000),
	}
	for range d.IntN(4) {
		s.Ports = append(s.Ports, model.ServicePort{
			Name: pick(d, "", "http", "dns"), Protocol: pick(d, model.TCP, model.TCP, model.UDP),
			Port: pick(d, numbers...), NodePort: pick(d, 0, 30080, 30081, uint16(8080)),
		})
	}
	return s
}

func (d dice) endpoint() model.Endpoint {
	return model.Endpoint{
		Addr: pick(d, everywhere...), Ready: d.chance(60), Serving: d.chance(70), Terminating: d.chance(30),
		Node: pick(d, "here", "there", ""), ForZones: some(d, 1, "z1", "z2"), ForNodes: some(d, 1, "here", "there"),
	}
}

func (d dice) slices(name string) []model.EndpointSlice {
	var all []model.EndpointSlice
	for i := range d.IntN(4) {
		s := model.EndpointSlice{
			Name:    model.Name{Namespace: "ns", Name: fmt.Sprintf("%s-%d", name, i)},
			Service: model.Name{Namespace: "ns", Name: name},
			Family:  pick(d, model.IPv4, model.IPv4, model.IPv6),
		}
		for range d.IntN(3) {
			s.Ports = append(s.Ports, model.EndpointPort{
				Name: pick(d, "", "http", "dns"), Protocol: pick(d, model.TCP, model.UDP), Port: pick(d, numbers...),
			})
		}
		for range d.IntN(5) {
			s.Endpoints = append(s.Endpoints, d.endpoint())
		}
		all = append(all, s)
	}
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (d dice) node() model.Node {
	return model.Node{Name: pick(d, "here", "there"), Zone: pick(d, "z1", "z2", ""), Addresses: some(d, 3, everywhere[4:9]...)}
}

func (d dice) config() Config {
	return Config{
		NodeName:           pick(d, "", "here"),
		AllowExternalIPs:   d.chance(80),
		RefuseUnknownPorts: d.chance(50),
		NodePortAddresses:  NodePortAddresses{Primary: d.chance(50)},
		Strict: Strict{
			Enabled:   d.chance(30),
			Protected: addrs("192.0.2.2"),
			ExternalIPs: []netip.Prefix{
				netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("172.18.0.0/16"),
			},
		},
	}
}

// input is everything that a planner was told last.
type input struct {
	config   Config
	node     model.Node
	services map[string]*model.Service
	slices   map[string][]model.EndpointSlice
}

// scratch tells it to a new planner, in random order.
func (in *input) scratch(d dice) *Planner {
	p := New(in.config)
	tell := []func(){func() { p.SetNode(in.node) }}
	for _, name := range serviceNames {
		shuffled := slices.Clone(in.slices[name])
		d.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		tell = append(tell, func() { p.Update(model.Name{Namespace: "ns", Name: name}, in.services[name], shuffled) })
	}
	d.Shuffle(len(tell), func(i, j int) { tell[i], tell[j] = tell[j], tell[i] })
	for _, f := range tell {
		f()
	}
	return p
}

func (in *input) update(p *Planner, name string) []Service {
	return p.Update(model.Name{Namespace: "ns", Name: name}, in.services[name], in.slices[name])
}

// watched is a planner whose answers are kept as a reconciler keeps them.
type watched struct {
	*Planner
	plans map[model.Name]Service
}

func (w watched) apply(t *testing.T, changed []Service) {
	t.Helper()
	for i, s := range changed {
		if i > 0 && changed[i-1].Name.Compare(s.Name) >= 0 {
			t.Errorf("changes not sorted: %v before %v", changed[i-1].Name, s.Name)
		}
		if old, ok := w.plans[s.Name]; ok && old.Equal(s) {
			t.Errorf("%v is said to have changed", s.Name)
		}
		w.plans[s.Name] = s
		if s.Empty() {
			delete(w.plans, s.Name)
		}
	}
}

// step changes something at random.
func (in *input) step(t *testing.T, d dice, w watched) {
	name := pick(d, serviceNames...)
	switch n := d.IntN(100); {
	case n < 5:
		in.config = d.config()
		w.apply(t, w.SetConfig(in.config))
	case n < 15:
		in.node = d.node()
		w.apply(t, w.SetNode(in.node))
	case n < 55:
		in.slices[name] = d.slices(name)
		w.apply(t, in.update(w.Planner, name))
	default:
		in.services[name] = d.service(name)
		w.apply(t, in.update(w.Planner, name))
	}
}

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// FuzzPlanner lets anything happen in any order: what is planned in the end
// depends on what was told last, and on nothing else.
func FuzzPlanner(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		in := &input{config: d.config(), services: map[string]*model.Service{}, slices: map[string][]model.EndpointSlice{}}
		w := watched{New(in.config), map[model.Name]Service{}}
		for range 30 {
			in.step(t, d, w)
			checkAgainstScratch(t, w, in.scratch(d))
			checkSound(t, w.Planner)
			checkIdle(t, w.Planner, in)
		}
		removeAll(t, w)
	})
}

// checkAgainstScratch compares with what a planner makes of the same input
// without its past, and with what its answers add up to.
func checkAgainstScratch(t *testing.T, w watched, scratch *Planner) {
	t.Helper()
	got, want := slices.Collect(w.Services()), slices.Collect(scratch.Services())
	if diff := cmp.Diff(want, got, byValue); diff != "" {
		t.Fatalf("not as from scratch (-scratch +incremental):\n%s", diff)
	}
	if diff := cmp.Diff(scratch.Problems(), w.Problems(), byValue); diff != "" {
		t.Fatalf("problems not as from scratch (-scratch +incremental):\n%s", diff)
	}
	told := slices.SortedFunc(mapValues(w.plans), func(a, b Service) int { return a.Name.Compare(b.Name) })
	if diff := cmp.Diff(got, told, byValue); diff != "" {
		t.Fatalf("answers do not add up to the plans (-plans +answers):\n%s", diff)
	}
}

func mapValues[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// checkIdle tells the same once more.
func checkIdle(t *testing.T, p *Planner, in *input) {
	t.Helper()
	for _, name := range serviceNames {
		if changed := in.update(p, name); len(changed) > 0 {
			t.Fatalf("the same %v again changes %d plans", name, len(changed))
		}
	}
	if changed := p.SetNode(in.node); len(changed) > 0 {
		t.Fatalf("the same node again changes %d plans", len(changed))
	}
	if changed := p.SetConfig(in.config); len(changed) > 0 {
		t.Fatalf("the same configuration again changes %d plans", len(changed))
	}
}

// checkSound checks what must hold for any plans: keys belong to one port, no
// set member is a frontend, lists are in order, sets are as the states say.
func checkSound(t *testing.T, p *Planner) {
	t.Helper()
	owner := map[FrontendKey]PortID{}
	for s := range p.Services() {
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				if other, taken := owner[f.FrontendKey]; taken {
					t.Fatalf("%v belongs to %v and %v", f.FrontendKey, other, port.ID)
				}
				owner[f.FrontendKey] = port.ID
			}
		}
	}
	for s := range p.Services() {
		if !slices.IsSortedFunc(s.Ports, func(a, b Port) int { return a.ID.Compare(b.ID) }) {
			t.Fatalf("%v: ports not sorted", s.Name)
		}
		for _, port := range s.Ports {
			checkPort(t, p, port, owner)
		}
	}
}

func checkPort(t *testing.T, p *Planner, port Port, owner map[FrontendKey]PortID) {
	t.Helper()
	members := map[int]bool{}
	for _, set := range []Set{port.Cluster, port.Local} {
		for i, m := range set.Members {
			members[m] = true
			if i > 0 && set.Members[i-1] >= m {
				t.Fatalf("%v: members not ascending", port.ID)
			}
			for _, key := range p.scene.appendReached(nil, port.Backends[m].Addr, port.ID.Protocol) {
				if other, loop := owner[key]; loop {
					t.Fatalf("%v: backend %v is a frontend of %v", port.ID, key, other)
				}
			}
		}
	}
	for i, b := range port.Backends {
		if i > 0 && port.Backends[i-1].Addr.Compare(b.Addr) >= 0 {
			t.Fatalf("%v: backends not sorted", port.ID)
		}
		if members[i] != (b.State != Draining) {
			t.Fatalf("%v: backend %v is %v, member %v", port.ID, b.Addr, b.State, members[i])
		}
		if special(b.Addr.Addr()) != "" || model.FamilyOf(b.Addr.Addr()) != port.ID.Family {
			t.Fatalf("%v: backend %v", port.ID, b.Addr)
		}
	}
	for _, m := range port.Local.Members {
		if !port.Backends[m].Local {
			t.Fatalf("%v: %v is in the local set", port.ID, port.Backends[m].Addr)
		}
	}
}

// removeAll takes everything away: nothing is left, not even inside.
func removeAll(t *testing.T, w watched) {
	t.Helper()
	for _, name := range serviceNames {
		w.apply(t, w.Update(model.Name{Namespace: "ns", Name: name}, nil, nil))
	}
	if len(w.plans) > 0 {
		t.Fatalf("%d plans left", len(w.plans))
	}
	if n := len(w.services) + len(w.claims) + len(w.targets.first) + len(w.targets.more) + len(w.problems); n > 0 {
		t.Fatalf("%d records left inside", n)
	}
}
