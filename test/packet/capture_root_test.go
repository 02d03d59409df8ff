// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/capture"
	"github.com/beeline-net/beeline/internal/datapath"
)

// camera is a capture of a world's two programs, on the programs themselves: they
// run without a device here.
type camera struct {
	t *testing.T
	*capture.Capture
}

func (w *world) camera(f capture.Filter, ends ...capture.End) camera {
	w.t.Helper()
	if f.Snap == 0 {
		f.Snap = 2048
	}
	c, err := capture.New(w.maps[abi.MapCounters], f)
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, c.Close()) })
	check(w.t, c.SetEnds(ends))
	check(w.t, c.Follow(w.targets(w.uplink, w.progs)))
	if c.Beside() {
		w.t.Skip("this kernel lets nobody be on a program (EPERM); TestCaptureOnDevices does without")
	}
	return camera{w.t, c}
}

func (w *world) targets(ifindex int, progs *datapath.PacketPrograms) []capture.Target {
	return []capture.Target{
		{ID: programID(w.t, progs.Ingress), Ifindex: ifindex},
		{ID: programID(w.t, progs.Egress), Ifindex: ifindex, Egress: true},
	}
}

func programID(t *testing.T, p *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := p.Info()
	check(t, err)
	id, ok := info.ID()
	if !ok {
		t.Fatal("this kernel does not tell the ids of programs")
	}
	return id
}

// taken returns what was captured since it was called last.
func (c camera) taken() (all []capture.Packet) {
	c.t.Helper()
	for range 2 { // the second has what the first has held back
		some, err := c.Read()
		check(c.t, err)
		all = append(all, some...)
	}
	return append(all, c.Rest()...)
}

// one returns the only packet that was captured.
func (c camera) one(what string) capture.Packet {
	c.t.Helper()
	all := c.taken()
	if len(all) != 1 {
		c.t.Fatalf("%s: %d packets were captured, want 1: %+v", what, len(all), all)
	}
	return all[0]
}

func end(at netip.AddrPort, proto uint8) capture.End {
	return abi.NewFrontendKey(at.Addr(), at.Port(), proto)
}

// Both ends of a run are what went into the program and what came out of it,
// byte for byte.
func TestCaptureIsWhatThePacketsAre(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		c := w.camera(capture.Filter{Ends: true}, end(port(s.vip, 80), proto))
		asked := w.frame(goesOn(opening(proto, port(s.client, 40000), port(s.vip, 80))))
		asked.Payload = bytes.Repeat([]byte("0123456789"), 120) // longer than the copy of its headers
		first := w.frame(opening(proto, port(s.client, 40000), port(s.vip, 80)))
		see := func(what string, prog *ebpf.Program, f Frame, verdict int) Frame {
			t.Helper()
			r := w.run(prog, f.Bytes(), true)
			got := w.read(what, r, verdict)
			p := c.one(what)
			if diff := cmp.Diff(f.Bytes(), p.Before.Bytes); diff != "" {
				t.Errorf("%s, before: -sent +captured\n%s", what, diff)
			}
			if diff := cmp.Diff(r.bytes, p.After.Bytes); diff != "" {
				t.Errorf("%s, after: -left +captured\n%s", what, diff)
			}
			want := capture.Packet{Outcome: capture.Translated, Ifindex: uint32(w.uplink), Outgoing: prog == w.progs.Egress}
			if p.Outcome != want.Outcome || p.Ifindex != want.Ifindex || p.Outgoing != want.Outgoing || len(p.Counted) > 0 {
				t.Errorf("%s: captured as %+v", what, p)
			}
			if p.Before.Src != f.Src || p.Before.Dst != f.Dst || p.After.Src != got.Src || p.After.Dst != got.Dst {
				t.Errorf("%s: captured as %v", what, p)
			}
			return got
		}
		seen := see("first", w.progs.Ingress, first, redirect)
		see("later", w.progs.Ingress, asked, redirect)
		see("reply", w.progs.Ingress, w.frame(answer(seen)), redirect)
		e := w.frame(icmpError(s.other, seen, icmpKinds["unreachable"], 1000))
		r := w.run(w.progs.Ingress, e.Bytes(), true)
		w.read("error", r, redirect)
		p := c.one("error")
		if !bytes.Equal(p.Before.Bytes, e.Bytes()) || !bytes.Equal(p.After.Bytes, r.bytes) ||
			p.Before.Quoted == nil || p.Before.Quoted.Dst != seen.Dst || p.After.Quoted == nil || p.After.Quoted.Dst != port(s.vip, 80) {
			t.Errorf("error: captured as %+v", p)
		}
	})
}

// What a packet comes to, and why.
func TestCaptureSaysWhatBecameOfAPacket(t *testing.T) {
	for _, s := range sides {
		t.Run(fmt.Sprintf("IPv%d", s.family), func(t *testing.T) {
			w := newWorld(t, datapath.PacketOptions{})
			w.addService(&svc{proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer})
			w.addService(&svc{
				proto: TCP, frontends: []netip.AddrPort{port(s.vip, 81)}, flags: abi.FlagLoadBalancer | abi.FlagExternalLocal,
				endpoints: []*endpoint{{at: port(s.remotePod, 8080)}}, emptyLocal: abi.EmptyDrop,
			})
			c := w.camera(capture.Filter{Address: netip.PrefixFrom(s.client, s.client.BitLen())})
			for _, q := range []struct {
				name    string
				to      netip.AddrPort
				outcome capture.Outcome
				reason  string
			}{
				{"no endpoint", port(s.vip, 80), capture.Answered, "no_backend"},
				{"none here", port(s.vip, 81), capture.Dropped, "no_local_backend"},
			} {
				f := w.frame(opening(TCP, port(s.client, 40000), q.to))
				r := w.run(w.progs.Ingress, f.Bytes(), false)
				p := c.one(q.name)
				var why []string
				for _, counter := range p.Counted {
					why = append(why, counter.String())
				}
				if p.Outcome != q.outcome || !slices.Contains(why, q.reason) || !bytes.Equal(p.Before.Bytes, f.Bytes()) {
					t.Errorf("%s: %v for %v: %+v", q.name, p.Outcome, why, p)
				}
				if q.outcome == capture.Dropped && len(p.After.Bytes) > 0 ||
					q.outcome == capture.Answered && !bytes.Equal(p.After.Bytes, r.bytes) {
					t.Errorf("%s: after it there is % x, left was % x", q.name, p.After.Bytes, r.bytes)
				}
			}
		})
	}
}

// film is a capture of everything that is attached in a cluster of namespaces.
func (w *wired) film(f capture.Filter, ends ...capture.End) camera {
	w.t.Helper()
	return w.filmOf(f, ends)
}

// filmOf is film, of more programs, too.
func (w *wired) filmOf(f capture.Filter, ends []capture.End, more ...capture.Target) camera {
	w.t.Helper()
	if f.Snap == 0 {
		f.Snap = 2048
	}
	c, err := capture.New(w.maps[abi.MapCounters], f)
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, c.Close()) })
	check(w.t, c.SetEnds(ends))
	targets := slices.Concat(w.targets(w.index("eth0"), w.progs), w.targets(w.index("pod"), w.podProgs), more)
	check(w.t, w.node1.Do(func() error { return c.Follow(targets) }))
	w.t.Logf("beside the programs: %v", c.Beside())
	return camera{w.t, c}
}

// Real packets on real devices: what a client asks a NodePort for and what it is
// answered, before and after; errors, drops and refusals.
func TestCaptureOnDevices(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			for name, pod := range map[string]*endpoint{
				"local":  {at: port(s.localPod, podPort), local: true},
				"remote": {at: port(s.remotePod, podPort)},
			} {
				t.Run(fmt.Sprintf("IPv%d %s %s", s.family, network, name), func(t *testing.T) {
					w.t = t
					at := w.nodePortService(s.side, proto, 0, pod)
					if _, _, err := w.exchange(network, at, nil); err != nil { // neighbours are known then
						t.Fatal(err)
					}
					c := w.film(capture.Filter{Ends: true}, end(at, proto))
					c.t = t
					words := []byte("words that are found again")
					if _, _, err := w.exchange(network, at, words); err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond) // what is still on its way
					wantConversation(t, c.taken(), at, pod.at, words)
				})
			}
		}
	}
}

// wantConversation checks that there are a request and a reply with the words,
// and nothing else than a client's conversation with a backend through a
// frontend.
func wantConversation(t *testing.T, all []capture.Packet, frontend, backend netip.AddrPort, words []byte) {
	t.Helper()
	requests, replies := 0, 0
	for _, p := range all {
		request := p.Before.Dst == frontend && p.After.Dst == backend
		reply := p.Before.Src == backend && p.After.Src == frontend
		if p.Outcome != capture.Translated || !request && !reply {
			t.Errorf("captured: %v, %v, then %v", p.Outcome, p.Before.Ends, p.After.Ends)
		}
		for what, side := range map[string]capture.Side{"before": p.Before, "after": p.After} {
			got, err := ReadHeaders(side.Bytes)
			if err != nil || got.Src != side.Src || got.Dst != side.Dst {
				t.Errorf("%s: %v, %v, captured as %v: % x", what, got, err, side.Ends, side.Bytes)
			}
		}
		if !bytes.Contains(p.Before.Bytes, words) || !bytes.Contains(p.After.Bytes, words) {
			continue
		}
		if request {
			requests++
		} else {
			replies++
		}
	}
	if requests != 1 || replies != 1 {
		t.Errorf("%d requests and %d replies with the words among %d packets", requests, replies, len(all))
	}
}

func TestCaptureOnDevicesOfWhatFails(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		closed := &endpoint{at: port(s.localPod, 9), local: true}
		far := &endpoint{at: port(s.remotePod, podPort)}
		for _, q := range []struct {
			name    string
			at      netip.AddrPort
			outcome capture.Outcome
			reason  string
		}{
			{"no endpoint", w.nodePortService(s.side, UDP, 0), capture.Answered, "no_backend"},
			{"none here", w.nodePortService(s.side, UDP, abi.FlagExternalLocal, far), capture.Dropped, "no_local_backend"},
			{"nobody listens", w.nodePortService(s.side, UDP, 0, closed), capture.Translated, ""},
		} {
			t.Run(fmt.Sprintf("IPv%d %s", s.family, q.name), func(t *testing.T) {
				w.t = t
				c := w.film(capture.Filter{Ends: true}, end(q.at, UDP))
				c.t = t
				if _, _, err := w.exchange("udp", q.at, []byte("hello")); err == nil {
					t.Fatal("an answer")
				}
				all := c.taken()
				if len(all) == 0 {
					t.Fatal("nothing was captured")
				}
				first := all[0]
				var why []string
				for _, counter := range first.Counted {
					why = append(why, counter.String())
				}
				if first.Outcome != q.outcome || first.Before.Dst != q.at || q.reason != "" && !slices.Contains(why, q.reason) {
					t.Errorf("%v for %v: %+v", first.Outcome, why, first)
				}
				if (q.outcome == capture.Dropped) != (len(first.After.Bytes) == 0) {
					t.Errorf("after: % x", first.After.Bytes)
				}
				if q.reason != "" {
					return
				}
				if last := all[len(all)-1]; len(all) != 2 || last.Before.Quoted == nil || last.Before.Quoted.Dst != closed.at ||
					last.After.Quoted == nil || last.After.Quoted.Dst != q.at {
					t.Errorf("no error of the pod, translated back: %+v", last)
				}
			})
		}
	}
}

// A filter keeps what it names and nothing else; and there is nothing when
// nobody captures any more.
func TestCaptureFilters(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	s := wires[0]
	pod := func() *endpoint { return &endpoint{at: port(s.localPod, podPort), local: true} }
	a, b, none := w.nodePortService(s.side, UDP, 0, pod()), w.nodePortService(s.side, UDP, 0, pod()), w.nodePortService(s.side, UDP, 0)
	send := func() {
		for _, at := range []netip.AddrPort{a, b, none} {
			_, _, _ = w.exchange("udp", at, []byte("hello"))
		}
		_, _, _ = w.exchange("udp", port(s.node, 4), []byte("nobody's business"))
	}
	send()
	for name, test := range map[string]struct {
		filter    capture.Filter
		ends      []capture.End
		min, most int // packets in all: without a Service more may be about
		has, not  []netip.AddrPort
	}{
		"everything of Services": {capture.Filter{}, nil, 5, 5, []netip.AddrPort{a, b, none}, []netip.AddrPort{port(s.node, 4)}},
		"everything":             {capture.Filter{Untouched: true}, nil, 8, 100, []netip.AddrPort{a, b, none, port(s.node, 4)}, nil},
		"a Service":              {capture.Filter{Ends: true}, []capture.End{end(a, UDP)}, 2, 2, []netip.AddrPort{a}, []netip.AddrPort{b, none}},
		"another protocol":       {capture.Filter{Ends: true}, []capture.End{end(a, TCP)}, 0, 0, nil, []netip.AddrPort{a}},
		"a backend":              {capture.Filter{Ends: true}, []capture.End{end(pod().at, UDP)}, 4, 4, []netip.AddrPort{a, b}, []netip.AddrPort{none}},
		"an address":             {capture.Filter{Address: netip.PrefixFrom(s.localPod, 24)}, nil, 4, 4, []netip.AddrPort{a, b}, []netip.AddrPort{none}},
		"another address":        {capture.Filter{Address: netip.MustParsePrefix("10.9.0.0/24")}, nil, 0, 0, nil, []netip.AddrPort{a}},
		"a reason":               {capture.Filter{Reasons: []abi.Counter{counter(t, "no_backend")}}, nil, 1, 1, []netip.AddrPort{none}, []netip.AddrPort{a, b}},
		"another reason":         {capture.Filter{Reasons: []abi.Counter{counter(t, "malformed")}}, nil, 0, 0, nil, []netip.AddrPort{none}},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			c := w.film(test.filter, test.ends...)
			send()
			got := c.taken()
			asked := map[netip.AddrPort]bool{}
			for _, p := range got {
				asked[p.Before.Dst] = true
			}
			if len(got) < test.min || len(got) > test.most {
				t.Errorf("%d packets, want %d to %d: %+v", len(got), test.min, test.most, got)
			}
			for _, at := range test.has {
				if !asked[at] {
					t.Errorf("nothing to %v", at)
				}
			}
			for _, at := range test.not {
				if asked[at] {
					t.Errorf("something to %v", at)
				}
			}
			check(t, c.Follow(nil))
			send()
			if got := c.taken(); len(got) > 0 {
				t.Errorf("after its end: %+v", got)
			}
		})
	}
}

func counter(t *testing.T, name string) abi.Counter {
	t.Helper()
	for i := range abi.Counters {
		if abi.Counter(i).String() == name {
			return abi.Counter(i)
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

// What finds no room is counted, and nobody waits for it.
func TestCaptureCountsWhatItLoses(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	s := wires[0]
	at := w.nodePortService(s.side, UDP, 0)
	c := w.film(capture.Filter{Ends: true, Snap: capture.MaxSnap}, end(at, UDP))
	const sent = 3000
	check(t, w.client.Do(func() error {
		conn, err := net.ListenPacket("udp", ":0")
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		for range sent {
			if _, err := conn.WriteTo(make([]byte, 1400), net.UDPAddrFromAddrPort(at)); err != nil {
				return err
			}
		}
		return nil
	}))
	time.Sleep(100 * time.Millisecond) // what is still on its way
	lost, err := c.Lost()
	check(t, err)
	if kept := len(c.taken()); lost == 0 || kept == 0 || int(lost)+kept != sent {
		t.Errorf("%d kept and %d lost, of %d", kept, lost, sent)
	}
}

// A device without link headers, whose packets get one, so that one file holds
// all: to a backend behind a device that has them, and to one of this node.
func TestCaptureWithoutLinkHeader(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	d := w.tun("tun0")
	for _, s := range wires {
		peer, own := addr("10.9.0.2"), "10.9.0.1/24"
		if s.family == 6 {
			peer, own = addr("fd09::2"), "fd09::1/64"
		}
		check(t, w.node1.Address("tun0", own))
		for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
			at := w.nodePortService(s.side, UDP, 0, e)
			words := []byte("words that are found again")
			ask := func(from uint16) {
				d.send(Frame{Src: port(peer, from), Dst: at, Proto: UDP, Payload: words})
				d.receive(s.node)
			}
			ask(4000) // neighbours are known then
			c := w.filmOf(capture.Filter{Ends: true}, []capture.End{end(at, UDP)}, w.targets(w.index("tun0"), d.progs)...)
			ask(4001)
			wantConversation(t, c.taken(), at, e.at, words)
			check(t, c.Follow(nil))
		}
	}
}
