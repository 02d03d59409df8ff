// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
)

// audience is a listener to a world's events, and reads its counts.
type audience struct {
	t        *testing.T
	tables   *maps.Tables
	listener *maps.Listener
}

func (w *world) audience() audience {
	w.t.Helper()
	tables, err := maps.New(w.maps)
	check(w.t, err)
	w.t.Cleanup(func() { _ = tables.Close() })
	l, err := tables.Listen(maps.EventFilter{Service: abi.ServiceNone})
	check(w.t, err)
	w.t.Cleanup(func() { _ = l.Close() })
	return audience{w.t, tables, l}
}

// heard returns the events so far.
func (a audience) heard() (all []abi.Event) {
	a.t.Helper()
	for {
		ctx, cancel := context.WithTimeout(a.t.Context(), 100*time.Millisecond)
		var e abi.Event
		err := a.listener.Read(ctx, &e)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			return all
		}
		check(a.t, err)
		all = append(all, e)
	}
}

func tuple(t abi.FlowTuple) [2]netip.AddrPort {
	return [2]netip.AddrPort{
		netip.AddrPortFrom(abi.NetIP(t.Src), abi.Port(t.Sport)),
		netip.AddrPortFrom(abi.NetIP(t.Dst), abi.Port(t.Dport)),
	}
}

// A flow is told once, when it begins, with what its packets become, whoever
// goes on with it; and every packet of it is counted to its Service.
func TestListenersHearOfFlows(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{ServiceCounts: true})
		a := w.audience()
		e := &endpoint{at: port(s.remotePod, 8080)}
		service := &svc{proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, endpoints: []*endpoint{e}}
		w.addService(service)
		f := opening(proto, port(s.client, 40000), port(s.vip, 80))
		there := w.read("request", w.in(f), redirect)
		w.read("answer", w.in(answer(there)), redirect)
		w.read("third", w.in(goesOn(f)), redirect)
		all := a.heard()
		if len(all) != 1 {
			t.Fatalf("%d events of one flow: %+v", len(all), all)
		}
		got := all[0]
		if abi.EventKind(got.Kind) != abi.EventFlow || abi.EventHook(got.Hook) != abi.EventAtIngress ||
			got.Service != service.index || got.Backend != e.index || got.Generation != e.generation || got.Ifindex != uint32(w.uplink) {
			t.Errorf("event %+v", got)
		}
		if tuple(got.Asked) != [2]netip.AddrPort{f.Src, f.Dst} || tuple(got.To) != [2]netip.AddrPort{there.Src, there.Dst} {
			t.Errorf("event of %v that becomes %v", tuple(got.Asked), tuple(got.To))
		}
		counts, err := a.tables.Traffic.Counts()
		check(t, err)
		c := counts[service.index]
		if c.Flows != 1 || c.Packets != [2]uint64{2, 1} || c.Bytes[0] <= c.Bytes[1] || c.Bytes[1] == 0 {
			t.Errorf("counted %+v", c)
		}
		if flow, ok := a.tables.Flows.Load(flowAt(a.tables)); !ok || flow.Service != service.index {
			t.Errorf("the flow reads back as %+v, %v", flow, ok)
		}
	})
}

// flowAt finds the first flow.
func flowAt(t *maps.Tables) uint32 {
	for i := range t.Flows.Len() {
		if _, ok := t.Flows.Load(i); ok {
			return i
		}
	}
	return 0
}

func TestListenersHearOfRefusalsAndDrops(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true, ServiceCounts: true, ICMPRate: 1000000, ICMPBurst: 2})
		a := w.audience()
		empty := &svc{proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer}
		local := &svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 81)}, emptyLocal: abi.EmptyDrop,
			flags: abi.FlagLoadBalancer | abi.FlagExternalLocal,
		}
		away := &svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 82)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 53)}},
		}
		none := &svc{index: abi.ServiceNone, frontends: []netip.AddrPort{port(s.vip, 0)}, flags: abi.FlagLoadBalancer | abi.FlagAddress}
		w.addService(empty)
		w.addService(local)
		w.addService(away)
		w.put(abi.MapFrontends, abi.NewFrontendKey(s.vip, 0, 0), abi.Frontend{Service: none.index, Flags: none.flags})

		late := opening(UDP, port(s.client, 40003), port(s.vip, 82))
		late.TTL = 1
		for _, c := range []struct {
			frame   Frame
			service uint32
			kind    abi.EventKind
			reason  string
		}{
			{opening(TCP, port(s.client, 40000), port(s.vip, 80)), empty.index, abi.EventRefused, "no_backend"},
			{opening(TCP, port(s.client, 40001), port(s.vip, 81)), local.index, abi.EventDropped, "no_local_backend"},
			{opening(TCP, port(s.client, 40002), port(s.vip, 99)), none.index, abi.EventRefused, "unknown_port"},
			{late, away.index, abi.EventDropped, "ttl_expired"},
		} {
			w.in(c.frame)
			var got []abi.Event
			for _, e := range a.heard() {
				// The flow of a packet that then is dropped is told, too.
				if abi.EventKind(e.Kind) != abi.EventFlow {
					got = append(got, e)
				}
			}
			if len(got) != 1 {
				t.Errorf("%s: heard %+v", c.reason, got)
				continue
			}
			e := got[0]
			if abi.EventKind(e.Kind) != c.kind || e.Service != c.service || abi.Counter(e.Reason).String() != c.reason ||
				tuple(e.Asked) != [2]netip.AddrPort{c.frame.Src, c.frame.Dst} {
				t.Errorf("%s: heard %+v, want kind %v of Service %d", c.reason, e, c.kind, c.service)
			}
			refusals, err := a.tables.Traffic.Refusals()
			check(t, err)
			if n := refusals[abi.ServiceRefusal{Service: c.service, Reason: e.Reason}]; n != 1 {
				t.Errorf("%s: counted %d times: %v", c.reason, n, refusals)
			}
		}
	}
}

// A packet that is not answered because too many were is refused once: for the
// reason that it has.
func TestWhatIsNotAnsweredIsRefusedOnce(t *testing.T) {
	const times = 20
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{ServiceCounts: true, ICMPRate: 1, ICMPBurst: 1})
		a := w.audience()
		empty := &svc{proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer}
		away := &svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 81)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 53)}},
		}
		w.addService(empty)
		w.addService(away)
		refused := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		late := opening(UDP, port(s.client, 40000), port(s.vip, 81))
		w.read("small enough and early", w.in(late), redirect)
		big := late
		late.TTL, big.DontFrag, big.Payload = 1, s.family == 4, make([]byte, 1600)
		for range times {
			w.in(refused)
			w.in(late)
			w.in(big)
		}
		heard := map[string]int{}
		for _, e := range a.heard() {
			if abi.EventKind(e.Kind) != abi.EventFlow {
				heard[abi.Counter(e.Reason).String()]++
			}
		}
		want := map[string]int{"no_backend": times, "ttl_expired": times, "too_big": times}
		if diff := cmp.Diff(want, heard); diff != "" {
			t.Errorf("IPv%d: events: -want +got\n%s", s.family, diff)
		}
		refusals, err := a.tables.Traffic.Refusals()
		check(t, err)
		counted := map[string]int{}
		for r, n := range refusals {
			counted[abi.Counter(r.Reason).String()] += int(n)
		}
		if diff := cmp.Diff(want, counted); diff != "" {
			t.Errorf("IPv%d: counted to Services: -want +got\n%s", s.family, diff)
		}
		if c := w.counters(); c["icmp_limited"]+c["icmp_sent"] != 3*times || c["icmp_limited"] == 0 {
			t.Errorf("IPv%d: counters %v", s.family, c)
		}
	}
}
