// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// dice draws from pools that are small, so that Services claim each other's
// addresses and have each other as endpoints.
type dice struct{ *rand.Rand }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// some draws up to n values.
func some[T any](d dice, n int, from ...T) (drawn []T) {
	for range d.IntN(n + 1) {
		drawn = append(drawn, pick(d, from...))
	}
	return drawn
}

var (
	crowd  = []string{"a", "b", "c", "d"}
	claims = addrs("192.0.2.1", "192.0.2.2", "10.0.0.1", "172.18.0.2", "2001:db8::1", "127.0.0.1")
	hosts  = addrs("10.1.0.1", "10.1.0.2", "10.1.0.3", "172.18.0.2", "192.0.2.1", "10.0.0.2", "fd00:1::1", "fd00:1::2")
)

// event is one thing that a source says about one object.
type event struct {
	object string
	tell   func(*snapshot.Store)
}

func (d dice) event() event {
	n := pick(d, crowd...)
	i := d.IntN(3)
	sliceName := name(fmt.Sprintf("%s-%d", n, i))
	switch roll := d.IntN(20); {
	case roll < 5:
		s := d.service(n)
		return event{"Service " + n, func(st *snapshot.Store) { st.SetService(s) }}
	case roll < 7:
		return event{"Service " + n, func(st *snapshot.Store) { st.DeleteService(name(n)) }}
	case roll < 14:
		s := d.slice(sliceName, name(pick(d, n, pick(d, crowd...))))
		return event{"slice " + sliceName.Name, func(st *snapshot.Store) { st.SetSlice(s) }}
	case roll < 16:
		return event{"slice " + sliceName.Name, func(st *snapshot.Store) { st.DeleteSlice(sliceName) }}
	case roll < 18:
		c := model.ServiceCIDR{Name: model.Name{Name: pick(d, crowd...)}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16")}}
		return event{"ServiceCIDR " + c.Name.Name, func(st *snapshot.Store) { st.SetServiceCIDR(c) }}
	}
	node := model.Node{Name: "here", Zone: pick(d, "", "z"), Addresses: some(d, 2, addrs("172.18.0.2", "172.18.0.3", "2001:db8::1")...)}
	return event{"node", func(st *snapshot.Store) { st.SetNode(node) }}
}

func (d dice) service(n string) model.Service {
	s := service(n, "10.0.0.1", external(), func(s *model.Service) {
		s.Created = pick(d, time.Time{}, time.Unix(1, 0))
		s.Type = pick(d, model.ClusterIP, model.NodePort, model.LoadBalancer)
		s.ClusterIPs = pick(d, addrs("10.0.0.1"), addrs("10.0.0.2", "fd00::2"), addrs("fd00::3"), addrs("10.0.0.3"))
		s.ExternalIPs = some(d, 2, claims...)
		s.LoadBalancerIPs = some(d, 2, claims...)
		s.InternalLocal, s.ExternalLocal = d.IntN(3) == 0, d.IntN(2) == 0
		s.AffinityTimeout = pick(d, 0, time.Hour)
		s.SourceRanges = some(d, 1, netip.MustParsePrefix("10.0.0.0/8"))
	})
	s.Ports = []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80, NodePort: pick(d, uint16(0), 30080)}}
	if d.IntN(3) == 0 {
		s.Ports = append(s.Ports, model.ServicePort{Name: "dns", Protocol: pick(d, model.TCP, model.UDP), Port: 53, NodePort: pick(d, uint16(0), 30053)})
	}
	return s
}

func (d dice) slice(n, service model.Name) model.EndpointSlice {
	s := model.EndpointSlice{Name: n, Service: service, Family: pick(d, model.IPv4, model.IPv4, model.IPv6)}
	s.Ports = []model.EndpointPort{
		{Name: "http", Protocol: model.TCP, Port: pick(d, uint16(80), 8080, 30080)},
		{Name: "dns", Protocol: model.UDP, Port: 53},
	}
	for _, addr := range some(d, 4, hosts...) {
		s.Endpoints = append(s.Endpoints, model.Endpoint{
			Addr: addr, Node: pick(d, "here", "there", ""),
			Ready: d.IntN(3) > 0, Serving: d.IntN(3) > 0, Terminating: d.IntN(3) == 0,
		})
	}
	return s
}

// interleave puts events in another order that tells the same story of each
// object.
func (d dice) interleave(events []event) []event {
	stories := map[string][]event{}
	var objects []string // with one mention for each event
	for _, e := range events {
		stories[e.object] = append(stories[e.object], e)
		objects = append(objects, e.object)
	}
	d.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
	mixed := make([]event, 0, len(events))
	for _, o := range objects {
		mixed = append(mixed, stories[o][0])
		stories[o] = stories[o][1:]
	}
	return mixed
}

// tell plays events to a new agent. It looks now and then, and is in step from
// some moment on.
func (d dice) tell(t *testing.T, config plan.Config, events []event) *world {
	w := newWorld(t, config)
	inStep := d.IntN(len(events) + 1)
	for i, e := range events {
		if i == inStep {
			w.synced()
		}
		e.tell(w.store)
		if d.IntN(3) == 0 {
			w.pass()
		}
	}
	w.synced()
	w.pass()
	check(t, w.loop.reconcile.Drain(t.Context()))
	return w
}

// FuzzOrderLeavesNoTrace goes from events to tables: in whatever order and
// portions they come, the tables mean the same in the end, and once everything
// is deleted nothing is left in them.
func FuzzOrderLeavesNoTrace(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		config := plan.Config{NodeName: "here", AllowExternalIPs: true, RefuseUnknownPorts: d.IntN(2) == 0}
		config.NodePortAddresses.Primary = d.IntN(2) == 0
		events := make([]event, 40)
		for i := range events {
			events[i] = d.event()
		}
		first := d.tell(t, config, events)
		want := first.content()
		for i := range 3 {
			w := d.tell(t, config, d.interleave(events))
			if diff := cmp.Diff(want, w.content()); diff != "" {
				t.Fatalf("another order, other tables (-first +other):\n%s", diff)
			}
			if diff := cmp.Diff(first.loop.planner.Problems(), w.loop.planner.Problems()); diff != "" {
				t.Fatalf("another order, other problems (-first +other):\n%s", diff)
			}
			if i == 0 {
				d.removeAll(t, w)
			}
		}
	})
}

// removeAll deletes every object, in any order, and looks into the tables.
func (d dice) removeAll(t *testing.T, w *world) {
	t.Helper()
	var deletions []event
	for _, n := range crowd {
		deletions = append(deletions, event{tell: func(s *snapshot.Store) { s.DeleteService(name(n)) }},
			event{tell: func(s *snapshot.Store) { s.DeleteServiceCIDR(model.Name{Name: n}) }})
		for i := range 3 {
			deletions = append(deletions, event{tell: func(s *snapshot.Store) { s.DeleteSlice(name(fmt.Sprintf("%s-%d", n, i))) }})
		}
	}
	d.Shuffle(len(deletions), func(i, j int) { deletions[i], deletions[j] = deletions[j], deletions[i] })
	for _, e := range deletions {
		e.tell(w.store)
		if d.IntN(3) == 0 {
			w.pass()
		}
	}
	w.pass()
	check(t, w.loop.reconcile.Drain(t.Context()))
	empty := newWorld(t, plan.Config{})
	empty.synced()
	check(t, empty.loop.reconcile.Drain(t.Context()))
	if diff := cmp.Diff(empty.content(), w.content()); diff != "" {
		t.Fatalf("left in the tables (-empty +got):\n%s", diff)
	}
	if diff := cmp.Diff(empty.usage(), w.usage()); diff != "" {
		t.Fatalf("in use (-empty +got):\n%s", diff)
	}
	bits := func(tables *maps.Tables) (set []uint32) {
		for bit := range tables.Filter.Len() {
			if tables.Filter.Has(bit) {
				set = append(set, bit)
			}
		}
		return set
	}
	if diff := cmp.Diff(bits(empty.tables), bits(w.tables)); diff != "" {
		t.Fatalf("in the filter (-empty +got):\n%s", diff)
	}
}
