// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// shop is a Service with one local backend, in every protocol.
func (w *world) shop(s side) {
	for _, proto := range protocols {
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
	}
}

// Headers before the transport header move it, and stay (pains A40).
func TestA40HeadersInBetween(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		tests := map[string]func(*Frame){
			"IPv4 options":          func(f *Frame) { f.Options = make([]byte, 4) },
			"all of them":           func(f *Frame) { f.Options = make([]byte, 40) },
			"hop by hop":            func(f *Frame) { f.Extensions = []Extension{{0, make([]byte, 6)}} },
			"hop by hop, options":   func(f *Frame) { f.Extensions = []Extension{{0, make([]byte, 14)}, {60, make([]byte, 6)}} },
			"authentication":        func(f *Frame) { f.Extensions = []Extension{{51, make([]byte, 22)}} },
			"routing, arrived":      func(f *Frame) { f.Extensions = []Extension{{43, make([]byte, 6)}} },
			"atomic fragment":       func(f *Frame) { f.Fragment6 = true },
			"VLAN tag":              func(f *Frame) { f.VLANs = []uint16{100} },
			"two VLAN tags":         func(f *Frame) { f.VLANs = []uint16{100, 200} },
			"another traffic class": func(f *Frame) { f.TOS = 0xb8 },
			"no UDP checksum":       func(f *Frame) { f.NoChecksum = f.Proto == UDP },
		}
		for name, change := range tests {
			f := opening(proto, port(s.client, 40000), port(s.vip, 80))
			change(&f)
			if s.family == 4 {
				f.Extensions, f.Fragment6 = nil, false
			} else {
				f.Options = nil
			}
			want := f
			want.Dst = port(s.localPod, 8080)
			w.want(name, w.in(f), pass, want)
		}
	})
}

// A40: what has more headers than are walked goes on, and is counted.
func TestTooManyExtensionsPass(t *testing.T) {
	s := sides[1]
	w := newWorld(t, datapath.PacketOptions{})
	w.shop(s)
	f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
	for range 7 {
		f.Extensions = append(f.Extensions, Extension{60, make([]byte, 6)})
	}
	w.wantUntouched("seven headers", w.in(f), w.frame(f).Bytes())
	if n := w.counters()["ipv6_extensions"]; n != 1 {
		t.Errorf("counted %d times", n)
	}
	other := f
	other.Dst = port(s.other, 80)
	w.wantUntouched("seven headers to somebody else", w.in(other), w.frame(other).Bytes())
	f.Extensions = []Extension{{43, []byte{0, 1, 0, 0, 0, 0}}}
	w.wantUntouched("routing header with segments left", w.in(f), w.frame(f).Bytes())
	if n := w.counters()["ipv6_extensions"]; n != 1 {
		t.Errorf("what is not ours counted, too: %d", n)
	}
}

// A device without link header: the frame's first bytes are the IP header's.
// The kernel's test takes bytes 12 and 13 for the EtherType all the same, so the
// source address is one that looks like it.
func TestNoLinkHeader(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{NoLinkHeader: true})
		w.shop(s)
		client := addr("8.0.2.7")
		if s.family == 6 {
			client = addr("2001:db8:86dd::7")
		}
		f := opening(UDP, port(client, 40000), port(s.vip, 80))
		f.NoLink = true
		r := w.run(w.progs.Ingress, f.Bytes(), false)
		got, err := Read(r.bytes, true)
		check(t, err)
		if r.verdict != pass || got.Dst != port(s.localPod, 8080) {
			t.Errorf("verdict %d, to %v", r.verdict, got.Dst)
		}
	}
}

// A35: what is not ours goes on as it is.
func TestA35NotOursIsUntouched(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true})
	for _, s := range sides {
		w.shop(s)
		icmp := Frame{Src: port(s.client, 0), Dst: port(s.vip, 0), Proto: ICMP, ICMPType: 13}
		if s.family == 6 {
			icmp.Proto, icmp.ICMPType = ICMPv6, 135
		}
		for name, f := range map[string]Frame{
			"another destination":      opening(TCP, port(s.client, 40000), port(s.other, 80)),
			"another port of the node": opening(TCP, port(s.client, 40000), port(s.node, 22)),
			"another protocol":         {Src: port(s.client, 0), Dst: port(s.vip, 0), Proto: 112, Payload: make([]byte, 40)},
			"other ICMP":               icmp,
			"IPIP":                     {Src: port(s.client, 0), Dst: port(s.vip, 0), Proto: 4, Payload: make([]byte, 40)},
			"sent to itself":           opening(UDP, port(s.vip, 40000), port(s.vip, 80)),
		} {
			b := w.frame(f).Bytes()
			w.wantUntouched(name+", in", w.in(f), b)
			w.wantUntouched(name+", out", w.out(f), b)
		}
		other := w.frame(opening(TCP, port(s.client, 40000), port(s.vip, 80)))
		other.DstMAC = [6]byte{2, 9, 9, 9, 9, 9}
		b := other.Bytes()
		w.wantUntouched("a bridged frame for somebody else", w.run(w.progs.Ingress, b, false), b)
	}
	lldp := append(w.frame(Frame{Dst: port(sides[0].vip, 0)}).Bytes()[:12], 0x88, 0xcc)
	lldp = append(lldp, make([]byte, 60)...)
	w.wantUntouched("LLDP", w.run(w.progs.Ingress, lldp, false), lldp)
	if n := len(w.flows()); n != 0 {
		t.Errorf("%d flows were made", n)
	}
}

// A packet that is cut short or lies about its lengths is never translated.
func TestTruncatedPacketsAreLeftAlone(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		f := opening(proto, port(s.client, 40000), port(s.vip, 80))
		whole := w.frame(f).Bytes()
		minimum := etherHeader + 20 // the kernel's test run wants an IP header
		if s.family == 6 {
			minimum = etherHeader + 40
		}
		for n := minimum; n < len(whole); n++ {
			w.wantUntouched("cut", w.run(w.progs.Ingress, whole[:n], false), whole[:n])
		}
		if len(w.flows()) != 0 {
			t.Error("a truncated packet made a flow")
		}
	})
}

// Whatever comes in, what goes out again is well formed, or what came in.
func TestHostilePackets(t *testing.T) {
	dice := rand.New(rand.NewPCG(4, 2026))
	w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true, EchoReply: true})
	for _, s := range sides {
		w.shop(s)
		w.addService(&svc{frontends: []netip.AddrPort{port(s.vip, 0)}, flags: abi.FlagAddress})
	}
	translated, untouched, dropped := 0, 0, 0
	for range 20000 {
		b := hostile(dice, sides[dice.IntN(2)])
		prog := w.progs.Ingress
		if dice.IntN(4) == 0 {
			prog = w.progs.Egress
		}
		before := total(w.counters())
		r := w.run(prog, b, dice.IntN(2) == 0)
		switch {
		case r.verdict == shot:
			dropped++
			if total(w.counters()) == before {
				t.Fatalf("dropped without a reason:\n% x", b)
			}
		case cmp.Equal(r.bytes, b):
			untouched++
		default:
			translated++
			if err := plausible(b, r.bytes); err != nil {
				t.Fatalf("%v:\n% x became\n% x", err, b, r.bytes)
			}
		}
	}
	t.Logf("%d translated, %d untouched, %d dropped", translated, untouched, dropped)
	if translated < 1000 || untouched < 1000 {
		t.Error("the dice are loaded")
	}
}

func total(counters map[string]uint64) (n uint64) {
	for _, v := range counters {
		n += v
	}
	return n
}

// hostile is a packet with something wrong with it, or nothing.
func hostile(dice *rand.Rand, s side) []byte {
	protos := []uint8{TCP, UDP, SCTP, ICMP, ICMPv6, 47}
	f := Frame{
		DstMAC: macNode, SrcMAC: macRouter, Proto: protos[dice.IntN(len(protos))],
		Src: port(s.client, uint16(dice.IntN(4)*20)), Dst: port(s.vip, uint16(79+dice.IntN(3))),
		Flags: uint8(dice.IntN(256)), Payload: make([]byte, dice.IntN(80)),
		ICMPType: uint8(dice.IntN(13)), ID: dice.Uint32(), NoChecksum: dice.IntN(4) == 0,
	}
	switch dice.IntN(6) {
	case 0:
		f.Options = make([]byte, 4*dice.IntN(11))
	case 1:
		f.VLANs = make([]uint16, dice.IntN(4))
	case 2:
		f.Fragment6, f.More, f.Offset = true, dice.IntN(2) == 0, 8*dice.IntN(3)
	case 3:
		for range dice.IntN(8) {
			f.Extensions = append(f.Extensions, Extension{[]uint8{0, 43, 60}[dice.IntN(3)], make([]byte, 6+8*dice.IntN(3))})
		}
	}
	if f.ICMPType == 128 || f.Proto == ICMP || f.Proto == ICMPv6 {
		quoted := opening(UDP, f.Dst, f.Src)
		quoted.NoLink = true
		f.Payload = quoted.Bytes()
	}
	b := f.Bytes()
	for range dice.IntN(3) { // lies
		if dice.IntN(2) == 0 {
			b[etherHeader+dice.IntN(min(60, len(b)-etherHeader))] ^= 1 << dice.IntN(8)
		}
	}
	if dice.IntN(4) == 0 {
		b = b[:min(len(b), etherHeader+40+dice.IntN(60))]
	}
	return b
}

// plausible checks that a right packet is still right, and that of a wrong one
// only the transport checksum is wrong, which no router looks at.
func plausible(before, after []byte) error {
	if _, err := Read(before, false); err == nil {
		_, err := Read(after, false)
		return err
	}
	_, err := ReadHeaders(after[:min(len(after), frameLen(after))])
	return err
}

// frameLen is where the IP packet ends; what follows is padding.
func frameLen(b []byte) int {
	at := etherHeader
	for binary.BigEndian.Uint16(b[at-2:]) == etherVLAN {
		at += 4
	}
	if b[at]>>4 == 4 {
		return at + int(binary.BigEndian.Uint16(b[at+2:]))
	}
	return at + 40 + int(binary.BigEndian.Uint16(b[at+4:]))
}

// The CRC32c of SCTP is kept right for payloads of any length.
func TestSCTPChecksumForEveryLength(t *testing.T) {
	s := sides[0]
	w := newWorld(t, datapath.PacketOptions{})
	w.shop(s)
	for n := range 300 {
		f := opening(SCTP, port(s.client, 40000), port(s.vip, 80))
		f.Payload = clone(make([]byte, n*4))
		for i := range f.Payload {
			f.Payload[i] = byte(i * n)
		}
		if len(f.Payload) >= 2 {
			binary.BigEndian.PutUint16(f.Payload, uint16(n))
		}
		want := f
		want.Dst = port(s.localPod, 8080)
		w.want("request", w.in(f), pass, want)
	}
}
