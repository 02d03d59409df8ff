// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// pair is a Service with two local backends of which only the first is in use
// until swap.
type pair struct {
	*world
	service     *svc
	first, next *endpoint
	client, vip netip.AddrPort
}

func newPair(t *testing.T, s side, proto uint8) *pair {
	w := newWorld(t, datapath.PacketOptions{})
	p := &pair{
		world: w, client: port(s.client, 40000), vip: port(s.vip, 80),
		first: &endpoint{at: port(s.localPod, 1111), local: true},
		next:  &endpoint{at: port(s.localPod, 2222), local: true},
	}
	p.service = &svc{
		proto: proto, frontends: []netip.AddrPort{p.vip}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{p.first},
	}
	w.addService(p.service)
	return p
}

// swap puts the second backend into the Service's sets instead of the first,
// which drains.
func (p *pair) swap() {
	p.service.endpoints = []*endpoint{p.next}
	p.addService(p.service)
}

// goes checks which backend a client's packet reaches.
func (p *pair) goes(what string, f Frame, to *endpoint) Frame {
	p.t.Helper()
	got := p.read(what, p.in(f), pass)
	if got.Dst != to.at {
		p.t.Fatalf("%s: went to %v, want %v", what, got.Dst, to.at)
	}
	return got
}

// connect opens the flow in both directions; f is the client's first packet.
func (p *pair) connect(f Frame) (seen Frame) {
	p.t.Helper()
	seen = p.goes("first packet", f, p.first)
	p.read("its answer", p.out(answer(seen)), pass)
	p.goes("third packet", goesOn(f), p.first)
	return seen
}

func (p *pair) age(d time.Duration) {
	p.updateFlows(func(f *abi.Flow) { f.SeenNs -= uint64(d) })
}

// A3: a UDP flow leaves a removed backend on its next datagram, with nobody
// sweeping.
func TestA3UDPFlowLeavesRemovedBackend(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, UDP)
		f := opening(UDP, p.client, p.vip)
		p.connect(f)
		p.service.endpoints = nil
		p.addService(p.service)
		p.removeBackend(p.first)
		p.wantRefusal(p.in(f), f)
		p.swap()
		seen := p.goes("after the new backend came", f, p.next)
		reply := p.read("reply", p.out(answer(seen)), pass)
		if reply.Src != p.vip {
			t.Errorf("reply comes from %v", reply.Src)
		}
		if n, h := len(p.flows()), p.hints(); n != 1 || h != 2 {
			t.Errorf("%d flows with %d hints are left, want 1 with 2", n, h)
		}
	}
}

// A frontend that moves from one Service to another takes its UDP flows along on
// their next datagram; a TCP connection stays. One that is nobody's keeps its flows
// until somebody has it.
func TestFlowsOfAFrontendThatMoves(t *testing.T) {
	for _, removed := range []bool{false, true} {
		eachProtocol(t, func(t *testing.T, s side, proto uint8) {
			p := newPair(t, s, proto)
			f := opening(proto, p.client, p.vip)
			p.connect(f)
			if removed {
				check(t, p.maps[abi.MapFrontends].Delete(abi.NewFrontendKey(p.vip.Addr(), p.vip.Port(), proto)))
				p.first.lost++
				p.putBackend(p.service.index, p.first)
				p.goes("nobody has the frontend", goesOn(f), p.first)
				p.goes("and still nobody", goesOn(f), p.first)
			}
			p.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{p.vip}, flags: abi.FlagLoadBalancer,
				endpoints: []*endpoint{p.next},
			})
			p.first.lost++
			p.putBackend(p.service.index, p.first)
			want := p.first
			if proto == UDP {
				want = p.next
			}
			p.goes("another Service has it", goesOn(f), want)
			if n, h := len(p.flows()), p.hints(); n != 1 || h != 2 {
				t.Errorf("%d flows with %d hints are left, want 1 with 2", n, h)
			}
		})
	}
}

// What is lost elsewhere costs a flow one look at its frontend, once.
func TestFlowAsksOnceForItsFrontend(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, UDP)
		f := opening(UDP, p.client, p.vip)
		p.connect(f)
		p.first.lost = 7
		p.putBackend(p.service.index, p.first)
		p.goes("next datagram", goesOn(f), p.first)
		if got := p.flows()[0].Lost; got != 7 {
			t.Errorf("the flow knows of %d losses, want 7", got)
		}
		l := newLookups(t)
		progs, err := datapath.LoadEditedPacketPrograms(p.maps, datapath.PacketOptions{}, l.instrument)
		check(t, err)
		t.Cleanup(func() { _ = progs.Close() })
		p.progs = progs
		p.goes("the one after", goesOn(f), p.first)
		if n := l.take(); n > 5 { // the filter, line, record, record, backend
			t.Errorf("%d look-ups", n)
		}
	}
}

// A packet seen by another CPU after this one had read its clock does not make
// the flow half an eternity old: it goes on, and nobody takes its place.
func TestFlowSeenLaterThanNowIsFresh(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, UDP)
		f := opening(UDP, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.age(-time.Minute)
		p.goes("the flow goes on", goesOn(f), p.first)
		for i := range uint16(2 * testFlows) { // comes by every place of the table
			p.in(opening(UDP, port(s.other, 1000+i), p.vip))
		}
		p.goes("after many others", goesOn(f), p.first)
	}
}

// A14: what drains keeps its flows, and gets no new ones.
func TestA14FlowKeepsDrainingBackend(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		p := newPair(t, s, proto)
		f := opening(proto, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.goes("old flow", goesOn(f), p.first)
		other := f
		other.Src = port(s.client, 40001)
		p.goes("new flow", other, p.next)
	})
}

// kube-proxy leaves a TCP connection to a removed endpoint alone.
func TestA14TCPFlowSurvivesRemovedBackend(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		f := opening(TCP, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.removeBackend(p.first)
		p.goes("old connection", goesOn(f), p.first)
	}
}

// A7: the same client port again. While the connection lives, a SYN is one sent
// again; once it ends or its backend is gone, a new one.
func TestA7SYNOnExistingFlow(t *testing.T) {
	fin := func(f Frame) Frame { f.Flags = FIN | ACK; return f }
	tests := []struct {
		name string
		do   func(p *pair, f, seen Frame)
		kept bool
	}{
		{"sent again at once", func(*pair, Frame, Frame) {}, true},
		{"after the answer was lost", func(p *pair, _, seen Frame) { p.out(answer(seen)) }, true},
		{"on an open connection", func(p *pair, f, seen Frame) { p.out(answer(seen)); p.in(goesOn(f)) }, true},
		{"after the client closed", func(p *pair, f, seen Frame) { p.out(answer(seen)); p.in(fin(f)) }, false},
		{"after the backend closed", func(p *pair, f, seen Frame) { p.out(fin(answer(seen))) }, false},
		{"after a reset", func(p *pair, f, seen Frame) { f.Flags = RST; p.in(f) }, false},
		{"after a long time", func(p *pair, f, seen Frame) { p.age(3 * time.Minute) }, false},
		{"after the backend was removed", func(p *pair, f, seen Frame) { p.removeBackend(p.first) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range sides {
				p := newPair(t, s, TCP)
				f := opening(TCP, p.client, p.vip)
				seen := p.goes("first SYN", f, p.first)
				p.swap()
				test.do(p, f, seen)
				want := p.next
				if test.kept {
					want = p.first
				}
				p.goes("second SYN", f, want)
				if n := len(p.flows()); n != 1 {
					t.Errorf("%d flows are left, want 1", n)
				}
			}
		})
	}
}

// A10: a reset proves nothing. The connection goes on if it goes on, even after
// it fell silent for longer than a reset one is kept.
func TestA10StrayResetKillsNothing(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		f := opening(TCP, p.client, p.vip)
		seen := p.connect(f)
		p.swap()
		rst := f
		rst.Flags = RST
		p.goes("reset", rst, p.first)
		p.age(time.Minute)
		p.goes("data", goesOn(f), p.first)
		if flags := p.flows()[0].Flags; flags&abi.FlowRst != 0 {
			t.Error("the flow still counts as reset")
		}
		reply := p.read("reply", p.out(goesOn(answer(seen))), pass)
		if reply.Src != p.vip {
			t.Errorf("reply comes from %v", reply.Src)
		}
	}
}

// A10: a reset on an established connection that is silent afterwards does not
// cost it its place while there is another.
func TestA10ResetConnectionKeepsItsPlace(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		f := opening(TCP, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.goes("reset", flagged(f, RST), p.first)
		p.age(time.Minute)
		other := opening(TCP, port(s.other, 1000), p.vip)
		for range 2 * testFlows { // comes by every place of the table, and leaves it
			p.in(other)
			p.in(flagged(other, RST))
		}
		p.goes("data", goesOn(f), p.first)
	}
}

// In a full table a connection that was reset is the first to go, and nobody
// misses it.
func TestResetConnectionGivesWay(t *testing.T) {
	const flows = 16
	for _, s := range sides {
		w := newWorldOf(t, flows, datapath.PacketOptions{})
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
		open := func(i uint16) Frame { return opening(TCP, port(s.client, 1000+i), port(s.vip, 80)) }
		for i := range uint16(flows) {
			w.read("answer", w.out(answer(w.read("request", w.in(open(i)), pass))), pass)
			w.read("third", w.in(goesOn(open(i))), pass)
		}
		w.wantDrop("one too many", w.in(open(flows)), "flow_table_full")
		w.read("reset", w.in(flagged(open(3), RST)), pass)
		w.read("there is room", w.in(open(flows)), pass)
		w.read("its answer", w.out(answer(Frame{Src: open(flows).Src, Dst: port(s.localPod, 8080), Proto: TCP})), pass)
		w.read("its third", w.in(goesOn(open(flows))), pass)
		w.wantDrop("one too many again", w.in(open(flows+1)), "flow_table_full")
		if n := w.counters()["flow_evicted"]; n != 0 {
			t.Errorf("IPv%d: %d flows count as evicted", s.family, n)
		}
	}
}

// A10: no flow begins with a reset.
func TestA10ResetWithoutFlowIsDropped(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		f := opening(TCP, p.client, p.vip)
		f.Flags = RST | ACK
		p.wantDrop("reset", p.in(f), "flow_stray")
		if len(p.flows()) != 0 {
			t.Error("a reset made a flow")
		}
	}
}

// A16: a connection that nobody remembers goes to a backend, which resets it:
// an answer at once instead of a black hole.
func TestA16UnknownConnectionReachesABackend(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		seen := p.goes("data", goesOn(opening(TCP, p.client, p.vip)), p.first)
		rst := answer(seen)
		rst.Flags = RST
		if got := p.read("its reset", p.out(rst), pass); got.Src != p.vip || got.Flags != RST {
			t.Errorf("reset comes from %v with flags %#x", got.Src, got.Flags)
		}
	}
}

// A16: silence alone ends no TCP connection that nobody needed the place of.
func TestA16IdleTCPConnectionGoesOn(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, TCP)
		f := opening(TCP, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.age(3 * time.Hour)
		p.goes("data", goesOn(f), p.first)
	}
}

func TestSilentUDPFlowIsBalancedAnew(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, UDP)
		f := opening(UDP, p.client, p.vip)
		p.connect(f)
		p.swap()
		p.age(100 * time.Second)
		p.goes("within the time", f, p.first)
		p.age(time.Hour)
		p.goes("after it", f, p.next)
	}
}

// A31: the number of a removed backend may be another Service's by now.
func TestA31ReusedBackendNumberIsNotTheOldBackend(t *testing.T) {
	for _, s := range sides {
		p := newPair(t, s, UDP)
		f := opening(UDP, p.client, p.vip)
		p.connect(f)
		p.swap()
		stranger := &endpoint{at: port(s.localPod, 3333), local: true, index: p.first.index, generation: p.first.generation + 1}
		p.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 81)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{stranger},
		})
		p.goes("next datagram", f, p.next)
	}
}

// A8: one client port, two frontends, one backend that sees the client: it must
// be able to tell the two apart.
func TestA8SameClientPortThroughTwoFrontends(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		pod := &endpoint{at: port(s.localPod, 8080), local: true}
		vips := []netip.AddrPort{port(s.vip, 80), port(s.vip, 81), port(s.vip.Next(), 80)}
		w.addService(&svc{proto: proto, frontends: vips, flags: abi.FlagLoadBalancer, endpoints: []*endpoint{pod}})
		client, seen := port(s.client, 40000), map[netip.AddrPort]netip.AddrPort{}
		for _, vip := range vips {
			r := w.in(opening(proto, client, vip))
			got, err := Read(r.bytes, false)
			check(t, err)
			if got.Dst != pod.at || got.Src.Addr() != s.client {
				t.Fatalf("to %v: became %v -> %v", vip, got.Src, got.Dst)
			}
			if before, ok := seen[got.Src]; ok {
				t.Fatalf("flows to %v and %v look alike: both from %v", before, vip, got.Src)
			}
			seen[got.Src] = vip
		}
		for src, vip := range seen {
			got := w.read("reply", w.out(Frame{Src: pod.at, Dst: src, Proto: proto}), pass)
			if got.Src != vip || got.Dst != client {
				t.Errorf("reply to the flow of %v became %v -> %v", vip, got.Src, got.Dst)
			}
		}
	})
}

// A8: a connection that one side has closed, or that saw a reset which may be
// anybody's, keeps its place at the backend: another that would look alike gets
// another port. One that is over gives it away.
func TestA8HalfClosedConnectionKeepsItsReplyTuple(t *testing.T) {
	tests := []struct {
		name string
		do   func(p *pair, f, seen Frame)
		kept bool
	}{
		{"the client closed", func(p *pair, f, _ Frame) { p.in(flagged(f, FIN|ACK)) }, true},
		{"the backend closed", func(p *pair, _, seen Frame) { p.out(flagged(answer(seen), FIN|ACK)) }, true},
		{"a stray reset", func(p *pair, f, _ Frame) { p.in(flagged(f, RST)) }, true},
		{"both closed", func(p *pair, f, seen Frame) {
			p.in(flagged(f, FIN|ACK))
			p.out(flagged(answer(seen), FIN|ACK))
		}, false},
		{"a reset long ago", func(p *pair, f, _ Frame) { p.in(flagged(f, RST)); p.age(2 * time.Hour) }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range sides {
				p := newPair(t, s, TCP)
				p.service.frontends = append(p.service.frontends, port(s.vip, 81))
				p.addService(p.service)
				f := opening(TCP, p.client, p.vip)
				seen := p.connect(f)
				test.do(p, f, seen)
				r := p.in(opening(TCP, p.client, port(s.vip, 81)))
				if r.verdict != pass && r.verdict != redirect { // the latter with another source
					t.Fatalf("IPv%d: another: verdict %d", s.family, r.verdict)
				}
				got, err := Read(r.bytes, false)
				check(t, err)
				if kept := got.Src != seen.Src; kept != test.kept {
					t.Errorf("IPv%d: kept %v, want %v: the other one comes from %v", s.family, kept, test.kept, got.Src)
				}
				if !test.kept {
					continue
				}
				if back := p.read("data", p.out(goesOn(answer(seen))), pass); back.Src != p.vip {
					t.Errorf("IPv%d: the old one's data comes from %v", s.family, back.Src)
				}
			}
		})
	}
}

func flagged(f Frame, flags uint8) Frame {
	f.Flags = flags
	return f
}

// A9: the answer to a connection whose source port is a NodePort, because
// somebody's masquerading left it alone, is no request to that NodePort. The
// stack gets it, and resets it if it belongs to nobody.
func TestA9ConnectionFromANodePortsNumber(t *testing.T) {
	for _, s := range sides {
		any := netip.IPv4Unspecified()
		if s.family == 6 {
			any = netip.IPv6Unspecified()
		}
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(any, 30880)}, flags: abi.FlagNodePort,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		for _, flags := range []uint8{SYN | ACK, ACK, FIN | ACK, RST} {
			f := Frame{Src: port(s.client, 8080), Dst: port(s.node, 30880), Proto: TCP, Flags: flags}
			w.wantUntouched("answer", w.in(f), w.frame(f).Bytes())
		}
		w.read("request", w.in(opening(TCP, port(s.client, 8080), port(s.node, 30880))), redirect)
	}
}

// During a takeover connections that netfilter translates stay with it.
func TestUnknownConnectionsLeftToTheStack(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{LeaveUnknown: true})
		w.shop(s)
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		w.wantUntouched("old connection", w.in(goesOn(f)), w.frame(goesOn(f)).Bytes())
		want := f
		want.Dst = port(s.localPod, 8080)
		w.want("new connection", w.in(f), pass, want)
	}
}

// A9: source NAT takes no port that somebody reserved.
func TestA9SourceNATAvoidsReservedPorts(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{SNATPorts: [2]uint16{6400, 6463}})
	s := sides[0]
	w.put(abi.MapReservedPorts, uint32(100), ^uint64(1<<5)) // all but 6405
	w.addService(&svc{
		proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
	})
	found := false
	for i := range uint16(100) {
		r := w.in(opening(TCP, port(s.client, 40000+i), port(s.vip, 80)))
		if r.verdict == shot { // 16 tries of 64 ports do not always find it
			continue
		}
		got := w.read("request", r, redirect)
		if got.Src.Port() != 6405 {
			t.Fatalf("took port %d", got.Src.Port())
		}
		if found {
			t.Fatal("two flows have the one port")
		}
		found = true
	}
	if !found || w.counters()["snat_no_port"] != 99 {
		t.Errorf("found %v, counters %v", found, w.counters())
	}
	if n, h := len(w.flows()), w.hints(); n != 1 || h != 2 {
		t.Errorf("%d flows with %d hints are left, want 1 with 2", n, h)
	}
}

// A4: a flood of opened connections may use up the table, but takes nothing
// from those that are established.
func TestA4FloodDoesNotEvictEstablished(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		var old []Frame
		seen := map[int]Frame{}
		for i := range 100 {
			f := opening(TCP, port(s.client, uint16(1000+i)), port(s.vip, 80))
			seen[i] = w.read("request", w.in(f), redirect)
			w.read("answer", w.in(answer(seen[i])), redirect)
			w.read("third", w.in(goesOn(f)), redirect)
			old = append(old, f)
		}
		for i := range 5 * testFlows {
			w.in(opening(TCP, port(s.other, uint16(1000+i)), port(s.vip, 80)))
		}
		if n := w.counters()["flow_evicted"]; n == 0 {
			t.Errorf("the flood evicted nothing: %v", w.counters())
		}
		for i, f := range old {
			got := w.read("established", w.in(goesOn(f)), redirect)
			if got.Src != seen[i].Src || got.Dst != seen[i].Dst {
				t.Fatalf("flow %d was %v -> %v and is %v -> %v", i, seen[i].Src, seen[i].Dst, got.Src, got.Dst)
			}
			w.read("its reply", w.in(goesOn(answer(seen[i]))), redirect)
		}
		w.wantWholeFlows()
	}
}

// A table full of flows that nobody has answered refuses none: where both lines
// of a tuple are full, one of the flows named there makes room.
func TestNoFlowIsRefusedWhileAnyMayGo(t *testing.T) {
	const packets = 150000
	s := sides[0]
	w := newWorld(t, datapath.PacketOptions{})
	w.addService(&svc{
		proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
	})
	client := s.client
	check(t, w.ns.Do(func() error {
		for i := range packets {
			if i%60000 == 0 {
				client = client.Next()
			}
			b := w.frame(opening(UDP, port(client, uint16(1000+i%60000)), port(s.vip, 80))).Bytes()
			verdict, err := w.progs.Ingress.Run(&ebpf.RunOptions{
				Data: b, DataOut: make([]byte, len(b)+256), Context: skb{Ifindex: uint32(w.uplink)}, Repeat: 1,
			})
			if err != nil {
				return err
			}
			if int32(verdict) != redirect {
				return fmt.Errorf("datagram %d: verdict %d; counters %v", i, int32(verdict), w.counters())
			}
		}
		return nil
	}))
	c := w.counters()
	if c["flow_table_full"]+c["snat_no_port"] != 0 || c["flow_evicted"] < packets-testFlows {
		t.Errorf("counters %v", c)
	}
	w.wantWholeFlows()
	w.wantNothingHeld()
}

// A table full of established flows refuses new ones, counts them, and leaves
// the old ones alone.
func TestFullTableRefuses(t *testing.T) {
	s := sides[0]
	w := newWorld(t, datapath.PacketOptions{})
	w.addService(&svc{
		proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
	})
	open := map[uint16]bool{}
	for i := range uint16(4 * testFlows) {
		f := opening(TCP, port(s.client, 1000+i), port(s.vip, 80))
		r := w.in(f)
		if r.verdict == shot {
			continue
		}
		open[1000+i] = true
		w.read("answer", w.out(answer(w.read("request", r, pass))), pass)
		w.read("third", w.in(goesOn(f)), pass)
	}
	c := w.counters()
	if c["flow_table_full"] == 0 || c["flow_evicted"] != 0 || len(open) < testFlows*9/10 {
		t.Errorf("%d flows of %d fit; counters %v", len(open), testFlows, c)
	}
	for p := range open {
		w.read("established", w.in(goesOn(opening(TCP, port(s.client, p), port(s.vip, 80)))), pass)
	}
	w.wantWholeFlows()
	if n := len(w.flows()); n != len(open) {
		t.Errorf("%d records for %d flows", n, len(open))
	}
}

// wantWholeFlows checks that every flow can be found from both sides, and that
// the index names nothing else.
func (w *world) wantWholeFlows() {
	w.t.Helper()
	if n, h := len(w.flows()), w.hints(); h != 2*n {
		w.t.Errorf("%d flows have %d hints", n, h)
	}
}
