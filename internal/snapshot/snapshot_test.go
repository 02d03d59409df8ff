// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/model"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is a time that a test moves by hand.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newStore() (*Store, *clock) {
	c := &clock{start}
	return New(c.now), c
}

func name(n string) model.Name { return model.Name{Namespace: "ns", Name: n} }

func service(n, ip string) model.Service {
	return model.Service{
		Name:       name(n),
		ClusterIPs: []netip.Addr{netip.MustParseAddr(ip)},
		Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
	}
}

func slice(n, svc string, addrs ...string) model.EndpointSlice {
	s := model.EndpointSlice{
		Name: name(n), Service: name(svc), Family: model.IPv4,
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: netip.MustParseAddr(a), Ready: true, Serving: true})
	}
	return s
}

func names(ns ...string) []model.Name {
	out := []model.Name{}
	for _, n := range ns {
		out = append(out, name(n))
	}
	return out
}

// signalled reports whether Changed would deliver now, and takes the signal.
func signalled(s *Store) bool {
	select {
	case <-s.Changed():
		return true
	default:
		return false
	}
}

func TestEachEditMarksTheServicesThatItTouches(t *testing.T) {
	tests := []struct {
		name string
		prep func(s *Store)
		edit func(s *Store)
		want []model.Name
	}{
		{"new service", nil, func(s *Store) { s.SetService(service("a", "10.0.0.1")) }, names("a")},
		{"same service again",
			func(s *Store) { s.SetService(service("a", "10.0.0.1")) },
			func(s *Store) { s.SetService(service("a", "10.0.0.1")) }, names()},
		{"changed service",
			func(s *Store) { s.SetService(service("a", "10.0.0.1")) },
			func(s *Store) { s.SetService(service("a", "10.0.0.2")) }, names("a")},
		{"deleted service",
			func(s *Store) { s.SetService(service("a", "10.0.0.1")) },
			func(s *Store) { s.DeleteService(name("a")) }, names("a")},
		{"deleted unknown service", nil, func(s *Store) { s.DeleteService(name("a")) }, names()},
		{"deleted service of which only slices are known",
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) },
			func(s *Store) { s.DeleteService(name("a")) }, names()},
		{"new slice", nil, func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) }, names("a")},
		{"same slice again",
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) },
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) }, names()},
		{"slice with another endpoint",
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) },
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.2")) }, names("a")},
		{"slice moves to another service",
			func(s *Store) { s.SetSlice(slice("x", "b", "10.1.0.1")) },
			func(s *Store) { s.SetSlice(slice("x", "a", "10.1.0.1")) }, names("a", "b")},
		{"deleted slice",
			func(s *Store) { s.SetSlice(slice("a-1", "a", "10.1.0.1")) },
			func(s *Store) { s.DeleteSlice(name("a-1")) }, names("a")},
		{"deleted unknown slice", nil, func(s *Store) { s.DeleteSlice(name("a-1")) }, names()},
		{"deleted and set in one change",
			func(s *Store) { s.SetService(service("a", "10.0.0.1")); s.SetSlice(slice("a-1", "a")) },
			func(s *Store) {
				s.Apply(Change{
					DeleteServices: names("a"), SetServices: []model.Service{service("a", "10.0.0.1")},
					DeleteSlices: names("a-1"), SetSlices: []model.EndpointSlice{slice("a-1", "a")},
				})
			}, names()},
		{"relist without change",
			func(s *Store) { s.SetService(service("a", "10.0.0.1")); s.SetSlice(slice("a-1", "a")) },
			func(s *Store) {
				s.ReplaceServices([]model.Service{service("a", "10.0.0.1")})
				s.ReplaceSlices([]model.EndpointSlice{slice("a-1", "a")})
			}, names()},
		{"relist of services shows a missed deletion, a missed change and a new one",
			func(s *Store) {
				for _, n := range []string{"a", "b", "c"} {
					s.SetService(service(n, "10.0.0.1"))
				}
			},
			func(s *Store) {
				s.ReplaceServices([]model.Service{service("b", "10.0.0.9"), service("c", "10.0.0.1"), service("d", "10.0.0.1")})
			}, names("a", "b", "d")},
		{"relist of slices shows a missed deletion and a missed move",
			func(s *Store) {
				s.SetSlice(slice("1", "a"))
				s.SetSlice(slice("2", "b"))
				s.SetSlice(slice("3", "c"))
			},
			func(s *Store) { s.ReplaceSlices([]model.EndpointSlice{slice("2", "d"), slice("3", "c")}) },
			names("a", "b", "d")},
		{"relist of services leaves a service alone of which there are only slices",
			func(s *Store) { s.SetSlice(slice("1", "a")) },
			func(s *Store) { s.ReplaceServices(nil) }, names()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := newStore()
			if tt.prep != nil {
				tt.prep(s)
			}
			s.Take()
			signalled(s)
			tt.edit(s)
			if got, want := signalled(s), len(tt.want) > 0; got != want {
				t.Errorf("signalled: %v, want %v", got, want)
			}
			d := s.Take()
			if diff := cmp.Diff(tt.want, d.Services); diff != "" {
				t.Error(diff)
			}
			if d.Empty() != (len(tt.want) == 0) || d.Since.IsZero() != d.Empty() {
				t.Errorf("Empty %v, Since %v with %v", d.Empty(), d.Since, d.Services)
			}
		})
	}
}

func TestServiceReturnsItsSlicesSortedAndSurvivesWithoutThem(t *testing.T) {
	s, _ := newStore()
	s.SetSlice(slice("a-2", "a", "10.1.0.2"))
	s.SetSlice(slice("a-1", "a", "10.1.0.1"))
	s.SetSlice(slice("a-3", "a", "10.1.0.3"))
	if svc, got := s.Service(name("a")); svc != nil || len(got) != 3 {
		t.Fatalf("before the Service: %v, %d slices", svc, len(got))
	}
	s.SetService(service("a", "10.0.0.1"))
	s.DeleteSlice(name("a-2"))
	svc, got := s.Service(name("a"))
	want := []model.EndpointSlice{slice("a-1", "a", "10.1.0.1"), slice("a-3", "a", "10.1.0.3")}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || svc == nil {
		t.Errorf("%v\n%s", svc, diff)
	}

	s.ReplaceSlices(nil)
	if svc, got := s.Service(name("a")); svc == nil || len(got) != 0 {
		t.Errorf("after the slices went: %v, %v", svc, got)
	}
	s.DeleteService(name("a"))
	if svc, got := s.Service(name("a")); svc != nil || got != nil {
		t.Errorf("after all went: %v, %v", svc, got)
	}
	if len(s.services) != 0 || len(s.owners) != 0 {
		t.Errorf("left behind: %v, %v", s.services, s.owners)
	}
}

func TestWhatAReaderHoldsDoesNotChange(t *testing.T) {
	s, _ := newStore()
	s.SetService(service("a", "10.0.0.1"))
	s.SetSlice(slice("a-1", "a", "10.1.0.1"))
	svc, slices := s.Service(name("a"))
	s.SetService(service("a", "10.0.0.2"))
	s.SetSlice(slice("a-0", "a", "10.1.0.0"))
	s.SetSlice(slice("a-1", "a", "10.1.0.9"))
	if svc.ClusterIPs[0] != netip.MustParseAddr("10.0.0.1") ||
		len(slices) != 1 || slices[0].Endpoints[0].Addr != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("changed under the reader: %v %v", svc, slices)
	}
}

func TestNamesListsOnlyExistingServices(t *testing.T) {
	s, _ := newStore()
	s.SetService(service("b", "10.0.0.2"))
	s.SetService(service("a", "10.0.0.1"))
	s.SetService(service("c", "10.0.0.3"))
	s.SetSlice(slice("c-1", "c"))
	s.SetSlice(slice("d-1", "d"))
	s.DeleteService(name("c"))
	if diff := cmp.Diff(names("a", "b"), s.Names()); diff != "" {
		t.Error(diff)
	}
}

func TestNode(t *testing.T) {
	s, _ := newStore()
	n := model.Node{Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	s.SetNode(n)
	if d := s.Take(); !d.Node || d.Empty() || len(d.Services) != 0 {
		t.Errorf("new node: %+v", d)
	}
	s.SetNode(n)
	if d := s.Take(); !d.Empty() {
		t.Errorf("same node: %+v", d)
	}
	n.Draining = true
	s.SetNode(n)
	if d := s.Take(); !d.Node || !s.Node().Draining {
		t.Errorf("changed node: %+v", d)
	}
}

// Nothing waits for the network, and nobody takes an unknown one for an empty one.
func TestNetwork(t *testing.T) {
	s, _ := newStore()
	for _, p := range []Part{Services, Slices, Node} {
		s.Synced(p)
	}
	<-s.Changed()
	if _, known := s.Network(); known || !s.HasSynced() {
		t.Errorf("before anybody has told: known %v, synced %v", known, s.HasSynced())
	}
	s.SetNetwork(model.Network{})
	if _, known := s.Network(); !known || !s.Take().Network {
		t.Error("an empty network is no news")
	}
	n := model.Network{Devices: []model.Device{{Index: 2, Name: "eth0"}}}
	s.SetNetwork(n)
	<-s.Changed()
	if d := s.Take(); !d.Network || d.Empty() || d.Node || len(d.Services) != 0 || d.Since.IsZero() {
		t.Errorf("new network: %+v", d)
	}
	s.SetNetwork(n)
	if d := s.Take(); !d.Empty() {
		t.Errorf("same network: %+v", d)
	}
	if got, _ := s.Network(); len(got.Devices) != 1 {
		t.Errorf("network: %+v", got)
	}
}

func TestServiceCIDRs(t *testing.T) {
	s, _ := newStore()
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, p := range texts {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	cidr := func(n string, texts ...string) model.ServiceCIDR {
		return model.ServiceCIDR{Name: model.Name{Name: n}, CIDRs: prefixes(texts...)}
	}
	for _, tt := range []struct {
		name    string
		edit    func()
		changed bool
		want    []netip.Prefix
	}{
		{"none", func() {}, false, nil},
		{"one, dual stack", func() { s.SetServiceCIDR(cidr("kubernetes", "fd00::/112", "10.96.0.0/16")) }, true, prefixes("10.96.0.0/16", "fd00::/112")},
		{"the same again", func() { s.SetServiceCIDR(cidr("kubernetes", "fd00::/112", "10.96.0.0/16")) }, false, prefixes("10.96.0.0/16", "fd00::/112")},
		{"two that share one", func() { s.SetServiceCIDR(cidr("more", "10.96.0.0/16", "10.97.0.0/16")) }, true, prefixes("10.96.0.0/16", "10.97.0.0/16", "fd00::/112")},
		{"the other still has the shared one", func() { s.DeleteServiceCIDR(model.Name{Name: "kubernetes"}) }, true, prefixes("10.96.0.0/16", "10.97.0.0/16")},
		{"unknown", func() { s.DeleteServiceCIDR(model.Name{Name: "kubernetes"}) }, false, prefixes("10.96.0.0/16", "10.97.0.0/16")},
		{"all", func() { s.ReplaceServiceCIDRs([]model.ServiceCIDR{cidr("last", "10.0.0.0/8")}) }, true, prefixes("10.0.0.0/8")},
		{"all again", func() { s.ReplaceServiceCIDRs([]model.ServiceCIDR{cidr("last", "10.0.0.0/8")}) }, false, prefixes("10.0.0.0/8")},
		{"nothing", func() { s.ReplaceServiceCIDRs(nil) }, true, nil},
	} {
		tt.edit()
		d := s.Take()
		if d.ServiceCIDRs != tt.changed || d.Empty() == tt.changed || d.Since.IsZero() == tt.changed || signalled(s) != tt.changed {
			t.Errorf("%s: %+v", tt.name, d)
		}
		if diff := cmp.Diff(tt.want, s.ServiceCIDRs(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestSyncedOnceEveryPartIs(t *testing.T) {
	s, _ := newStore()
	for i, p := range []Part{Node, Services, Slices} {
		if s.HasSynced() {
			t.Fatalf("synced after %d parts", i)
		}
		s.Synced(p)
		if !signalled(s) {
			t.Errorf("%v synced without a signal", p)
		}
	}
	if !s.HasSynced() {
		t.Errorf("not synced: %v", s.Unsynced())
	}
	s.Synced(Node)
	if signalled(s) {
		t.Error("signal though nothing is new")
	}
}

func TestUnsyncedNamesTheMissingParts(t *testing.T) {
	s, _ := newStore()
	s.Synced(Slices)
	if diff := cmp.Diff("[services node]", fmt.Sprint(s.Unsynced())); diff != "" {
		t.Error(diff)
	}
}

func TestDeltaDatesTheEarliestChange(t *testing.T) {
	s, c := newStore()
	c.t = start.Add(time.Second)
	s.SetService(service("a", "10.0.0.1"))
	c.t = start.Add(2 * time.Second)
	s.SetService(service("b", "10.0.0.1"))
	s.SetService(service("a", "10.0.0.1"))
	if d := s.Take(); !d.Since.Equal(start.Add(time.Second)) {
		t.Errorf("since %v", d.Since)
	}
	c.t = start.Add(3 * time.Second)
	s.SetNode(model.Node{Name: "n"})
	if d := s.Take(); !d.Since.Equal(start.Add(3 * time.Second)) {
		t.Errorf("since %v after the second", d.Since)
	}
}

func TestTriggersCountEachCauseOnce(t *testing.T) {
	s, _ := newStore()
	at := func(n, addr string, trigger time.Time) {
		v := slice(n, "a", addr)
		v.Trigger = trigger
		s.SetSlice(v)
	}
	t1, t2 := start.Add(time.Second), start.Add(2*time.Second)
	at("old", "10.1.0.1", start.Add(-time.Hour)) // before this process
	at("none", "10.1.0.1", time.Time{})
	at("one", "10.1.0.1", t1)
	at("one", "10.1.0.1", t2) // nothing but the date is new
	at("two", "10.1.0.1", t1)
	at("two", "10.1.0.2", t1) // changed, but not by that cause
	at("two", "10.1.0.3", t2)
	s.DeleteSlice(name("two"))
	if diff := cmp.Diff([]Trigger{{model.IPv4, t1}, {model.IPv4, t1}, {model.IPv4, t2}}, s.Take().Triggers); diff != "" {
		t.Error(diff)
	}
	if got := s.Take().Triggers; got != nil {
		t.Errorf("left: %v", got)
	}
}

// TestEqualitySeesEveryField breaks when the model grows a field that the
// comparison does not know, which would hide its changes.
func TestEqualitySeesEveryField(t *testing.T) {
	check := func(t *testing.T, zero any, equal func(a, b reflect.Value) bool, except ...string) {
		typ := reflect.TypeOf(zero)
		for i := range typ.NumField() {
			a, b := reflect.New(typ), reflect.New(typ)
			if !equal(a, b) {
				t.Fatalf("%v: the zero value is unlike itself", typ)
			}
			b.Elem().Field(i).Set(nonzero(t, typ.Field(i).Type))
			ignored := len(except) > 0 && except[0] == typ.Field(i).Name
			if equal(a, b) != ignored {
				t.Errorf("%v.%s: equal %v", typ, typ.Field(i).Name, !ignored)
			}
		}
	}
	check(t, model.Service{}, func(a, b reflect.Value) bool {
		return equalService(a.Interface().(*model.Service), b.Interface().(*model.Service))
	})
	check(t, model.EndpointSlice{}, func(a, b reflect.Value) bool {
		return equalSlice(a.Interface().(*model.EndpointSlice), b.Interface().(*model.EndpointSlice))
	}, "Trigger")
	check(t, model.Endpoint{}, func(a, b reflect.Value) bool {
		return equalEndpoint(*a.Interface().(*model.Endpoint), *b.Interface().(*model.Endpoint))
	})
	check(t, model.Device{}, func(a, b reflect.Value) bool {
		return equalDevice(*a.Interface().(*model.Device), *b.Interface().(*model.Device))
	})
	check(t, model.Network{}, func(a, b reflect.Value) bool {
		return equalNetwork(a.Interface().(*model.Network), b.Interface().(*model.Network))
	})
	check(t, model.Node{}, func(a, b reflect.Value) bool {
		return equalNode(a.Interface().(*model.Node), b.Interface().(*model.Node))
	})
}

func nonzero(t *testing.T, typ reflect.Type) reflect.Value {
	v := reflect.New(typ).Elem()
	switch typ {
	case reflect.TypeFor[time.Time]():
		return reflect.ValueOf(start)
	case reflect.TypeFor[netip.Addr]():
		return reflect.ValueOf(netip.MustParseAddr("192.0.2.1"))
	case reflect.TypeFor[model.Name]():
		return reflect.ValueOf(name("x"))
	case reflect.TypeFor[model.Drain]():
		return reflect.ValueOf(model.Drain{Reset: true})
	}
	switch typ.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("x")
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(1)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Slice:
		return reflect.MakeSlice(typ, 1, 1)
	default:
		t.Fatalf("no example value of %v", typ)
	}
	return v
}

// TestReaderEndsUpWithWhatTheWritersLeft lets writers race a reader that does
// only what deltas tell it: its copy must equal the Store's final content.
func TestReaderEndsUpWithWhatTheWritersLeft(t *testing.T) {
	s := New(time.Now)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for range 3000 {
				randomEdit(s, rnd)
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()

	type view struct {
		svc    *model.Service
		slices []model.EndpointSlice
	}
	copied := map[model.Name]view{}
	take := func() {
		for _, n := range s.Take().Services {
			svc, slices := s.Service(n)
			copied[n] = view{svc, slices}
			if svc == nil && len(slices) == 0 {
				delete(copied, n)
			}
		}
	}
	for running := true; running; {
		select {
		case <-s.Changed():
			take()
		case <-done:
			running = false
		}
	}
	take()
	want := map[model.Name]view{}
	for n, e := range s.services {
		want[n] = view{e.service, e.slices}
	}
	opts := cmp.Options{cmp.AllowUnexported(view{}), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}
	if diff := cmp.Diff(want, copied, opts); diff != "" {
		t.Error(diff)
	}
}

func randomEdit(s *Store, rnd *rand.Rand) {
	svc := string(rune('a' + rnd.IntN(8)))
	sl := fmt.Sprint(rnd.IntN(16))
	addr := fmt.Sprintf("10.1.0.%d", rnd.IntN(4))
	switch rnd.IntN(8) {
	case 0, 1:
		s.SetService(service(svc, addr))
	case 2:
		s.DeleteService(name(svc))
	case 3, 4, 5:
		s.SetSlice(slice(sl, svc, addr))
	case 6:
		s.DeleteSlice(name(sl))
	case 7:
		if rnd.IntN(10) == 0 {
			s.ReplaceSlices([]model.EndpointSlice{slice(sl, svc, addr)})
		}
	}
}

func BenchmarkRelist(b *testing.B) {
	services := make([]model.Service, 10_000)
	slices := make([]model.EndpointSlice, 10_000)
	for i := range services {
		services[i] = service(fmt.Sprint(i), "10.0.0.1")
		slices[i] = slice(fmt.Sprint(i), fmt.Sprint(i),
			"10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7", "10.1.0.8", "10.1.0.9")
	}
	s := New(time.Now)
	for b.Loop() {
		s.ReplaceServices(services)
		s.ReplaceSlices(slices)
	}
}

// Whoever is made for the ranges waits for them, but not for ever: nobody has to
// tell them.
func TestRangesAreKnownOnceToldOrAllElseIs(t *testing.T) {
	known := func(s *Store) bool {
		select {
		case <-s.RangesKnown():
			return true
		default:
			return false
		}
	}
	told := New(time.Now)
	told.SetServiceCIDR(model.ServiceCIDR{Name: model.Name{Name: "one"}})
	if known(told) {
		t.Error("one range is not all")
	}
	told.ReplaceServiceCIDRs(nil)
	told.ReplaceServiceCIDRs(nil)
	if !known(told) {
		t.Error("told that there are none, and not known")
	}
	silent := New(time.Now)
	for part := range partCount {
		if known(silent) {
			t.Errorf("known before %v", part)
		}
		silent.Synced(part)
	}
	if !known(silent) {
		t.Error("all else is known: nothing more need come")
	}
}
