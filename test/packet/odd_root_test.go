// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// A40: hop-by-hop and destination options before UDP to an IPv6 NodePort.
func TestA40ExtensionHeadersToANodePort(t *testing.T) {
	s := sides[1]
	w := newWorld(t, datapath.PacketOptions{})
	w.addService(&svc{
		proto: UDP, frontends: []netip.AddrPort{port(netip.IPv6Unspecified(), 30040)}, flags: abi.FlagNodePort,
		endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
	})
	f := opening(UDP, port(s.client, 40000), port(s.node, 30040))
	f.Extensions = []Extension{{0, make([]byte, 6)}, {60, make([]byte, 14)}}
	want := f
	want.Dst = port(s.localPod, 8080)
	seen := w.want("request", w.in(f), pass, want)
	answer := answer(seen)
	answer.Extensions = f.Extensions
	if got := w.read("reply", w.out(answer), pass); got.Src != f.Dst {
		t.Errorf("reply comes from %v", got.Src)
	}
}

// Segments in one piece may be longer than their header can say (BIG TCP): 0.
func TestLengthThatTheHeaderCannotSay(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		f.Payload = make([]byte, 2000)
		b := w.frame(f).Bytes()
		ip := b[etherHeader:]
		at := 2 // total length
		if s.family == 6 {
			at = 4 // payload length
		}
		length := binary.BigEndian.Uint16(ip[at:])
		binary.BigEndian.PutUint16(ip[at:], 0)
		if s.family == 4 {
			sum4(ip)
		}
		w.wantUntouched("one packet that says 0", w.run(w.progs.Ingress, b, false), b)
		r := w.runAs(w.progs.Ingress, b, skb{Ifindex: uint32(w.uplink), GSOSize: 1000, GSOSegs: 2})
		if r.verdict != pass {
			t.Fatalf("IPv%d: verdict %d; counters %v", s.family, r.verdict, w.counters())
		}
		ip = r.bytes[etherHeader:]
		if got := binary.BigEndian.Uint16(ip[at:]); got != 0 {
			t.Errorf("IPv%d: its length is %d now", s.family, got)
		}
		binary.BigEndian.PutUint16(ip[at:], length)
		if s.family == 4 {
			sum4(ip)
		}
		got, err := Read(r.bytes, false)
		check(t, err)
		if got.Dst != port(s.localPod, 8080) {
			t.Errorf("IPv%d: went to %v", s.family, got.Dst)
		}
	}
}

// The header that says how long such a packet is, is none of its segments'.
func TestJumboHeaderIsNotOnTheWay(t *testing.T) {
	s := sides[1]
	w := newWorld(t, datapath.PacketOptions{})
	w.addService(&svc{
		proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
	})
	f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
	w.read("its first packet", w.in(f), redirect)
	f = goesOn(f)
	f.Payload = make([]byte, 2000)
	jumbo := Extension{0, binary.BigEndian.AppendUint32([]byte{0xc2, 4}, 8+20+2000)}
	for _, c := range []struct {
		what    string
		ext     []Extension
		says0   bool
		segment uint32
		tooBig  bool
	}{
		{"jumbo, 1500", []Extension{jumbo}, true, 1440, false},
		{"jumbo, 1501", []Extension{jumbo}, true, 1441, true},
		{"no jumbo header, 1500", nil, true, 1440, false},
		{"no jumbo header, 1501", nil, true, 1441, true},
		{"another header, 1500", []Extension{{0, make([]byte, 6)}}, false, 1432, false},
		{"another header, 1508", []Extension{{0, make([]byte, 6)}}, false, 1440, true},
	} {
		f.Extensions = c.ext
		b := w.frame(f).Bytes()
		if c.says0 {
			binary.BigEndian.PutUint16(b[etherHeader+4:], 0)
		}
		before := w.counters()["too_big"]
		r := w.runAs(w.progs.Ingress, b, skb{Ifindex: uint32(w.uplink), GSOSize: c.segment, GSOSegs: 2})
		if got := w.counters()["too_big"] > before; got != c.tooBig || r.verdict != redirect {
			t.Errorf("%s: too big: %v, want %v; verdict %d", c.what, got, c.tooBig, r.verdict)
		}
	}
}

// sum4 puts the right checksum into an IPv4 header without options.
func sum4(ip []byte) {
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:20]))
}

// A transport header that lies about its length is nothing that a backend could
// read: dropped and counted, with a flow and without. Nobody else's is looked at.
func TestTransportHeadersThatLie(t *testing.T) {
	for _, s := range sides {
		for name, lie := range map[string]struct {
			proto uint8
			at    int
			bytes []byte
		}{
			"TCP header too short":            {TCP, 12, []byte{4 << 4}},
			"TCP header longer than a packet": {TCP, 12, []byte{15 << 4}},
			"UDP length too short":            {UDP, 4, []byte{0, 7}},
			"UDP length too long":             {UDP, 4, []byte{0, 200}},
		} {
			w := newWorld(t, datapath.PacketOptions{})
			w.shop(s)
			good := opening(lie.proto, port(s.client, 40000), port(s.vip, 80))
			l4 := etherHeader + 20
			if s.family == 6 {
				l4 = etherHeader + 40
			}
			tell := func(f Frame) []byte {
				b := w.frame(f).Bytes()
				copy(b[l4+lie.at:], lie.bytes)
				return b
			}
			for i, what := range []string{"without a flow", "with a flow"} {
				r := w.run(w.progs.Ingress, tell(good), false)
				if n := w.counters()["malformed"]; r.verdict != shot || n != uint64(i+1) {
					t.Errorf("IPv%d, %s, %s: verdict %d; counters %v", s.family, name, what, r.verdict, w.counters())
				}
				w.read("a good one", w.in(good), pass)
			}
			other := good
			other.Dst = port(s.node, 22)
			b := tell(other)
			w.wantUntouched("the node's own affair", w.run(w.progs.Ingress, b, false), b)
		}
	}
}

// Nobody answers an ICMP error with another one: where it cannot go on, it is
// dropped for the reason that it has.
func TestNoErrorAboutAnError(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		e := &endpoint{at: port(s.remotePod, 8080)}
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, endpoints: []*endpoint{e},
		})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		seen := w.read("request", w.in(f), redirect)
		seen.NoLink = true
		unreachable := Frame{Src: port(s.remotePod, 0), Dst: port(s.node, 0), Proto: ICMP, ICMPType: 3, ICMPCode: 3, TTL: 1, Payload: seen.Bytes()}
		if s.family == 6 {
			unreachable.Proto, unreachable.ICMPType, unreachable.ICMPCode = ICMPv6, 1, 4
		}
		w.wantDrop("an error at its last hop", w.in(unreachable), "ttl_expired")
		if c := w.counters(); c["ttl_expired"] != 1 || c["rewrite_failed"]+c["icmp_sent"] != 0 {
			t.Errorf("IPv%d: counters %v", s.family, c)
		}
	}
}

// A process of this node asks for a Service that only the packet path serves (its
// source ranges, SCTP), and gets another process of this node. Both see the
// Service's address in place of each other; packets that leave are turned around.
func TestOneProcessOfTheNodeAsksAnother(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		server, client, vip := port(s.node, 8080), port(s.node, 40000), port(s.vip, 80)
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{vip}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: server, local: true}},
		})
		leaves := func(what string, f Frame) Frame {
			t.Helper()
			f.DstMAC, f.SrcMAC = macRouter, macNode
			r := w.run(w.progs.Egress, f.Bytes(), false)
			got := w.read(what, r, redirect)
			if got.DstMAC != macNode || got.SrcMAC != macRouter {
				t.Errorf("%s: link header %x %x", what, got.DstMAC, got.SrcMAC)
			}
			w.wantUntouched(what+", which comes in again", w.run(w.progs.Ingress, r.bytes, false), r.bytes)
			return got
		}
		f := opening(proto, client, vip)
		for range 2 { // the second one has a flow
			seen := leaves("request", f)
			if seen.Dst != server || seen.Src.Addr() != s.vip {
				t.Fatalf("became %v -> %v", seen.Src, seen.Dst)
			}
			reply := leaves("reply", answer(seen))
			if reply.Src != vip || reply.Dst != client {
				t.Fatalf("reply became %v -> %v", reply.Src, reply.Dst)
			}
			f = goesOn(f)
		}
		if n := len(w.flows()); n != 1 {
			t.Errorf("%d flows", n)
		}
	})
}

// The same with real sockets.
func TestOneProcessOfTheNodeReachesAnother(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		w.serve(w.node1, s.node)
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			vip := port(s.vip, 80)
			w.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{vip}, flags: abi.FlagLoadBalancer,
				endpoints: []*endpoint{{at: port(s.node, podPort), local: true}},
			})
			backend, seen, err := exchangeFrom(w.node1, network, vip, []byte("hello"))
			if err != nil || backend != port(s.node, podPort) || seen.Addr() != s.vip {
				t.Errorf("IPv%d %s: answered by %v, which saw %v: %v; counters %v", s.family, network, backend, seen, err, w.counters())
			}
		}
	}
}

// What has a VLAN tag is for the VLAN's own device, whose routes may be others,
// where there is one; else the tag is in nobody's way.
func TestTaggedPacketsOfAVLANWithADevice(t *testing.T) {
	for _, leave := range []bool{false, true} {
		for _, s := range sides {
			w := newWorld(t, datapath.PacketOptions{LeaveTagged: leave})
			w.shop(s)
			f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
			tagged := f
			tagged.VLANs = []uint16{100}
			if leave {
				w.wantUntouched("tagged", w.in(tagged), w.frame(tagged).Bytes())
			} else if got := w.read("tagged", w.in(tagged), pass); got.Dst != port(s.localPod, 8080) {
				t.Errorf("tagged: went to %v", got.Dst)
			}
			if got := w.read("without a tag", w.in(f), pass); got.Dst != port(s.localPod, 8080) {
				t.Errorf("without a tag: went to %v", got.Dst)
			}
		}
	}
}
