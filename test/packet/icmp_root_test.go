// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// icmpKinds are the errors that a connection may depend on.
var icmpKinds = map[string]struct{ v4, v6 [2]uint8 }{
	"too big":       {[2]uint8{3, 4}, [2]uint8{2, 0}},
	"time exceeded": {[2]uint8{11, 0}, [2]uint8{3, 0}},
	"unreachable":   {[2]uint8{3, 1}, [2]uint8{1, 0}},
}

// icmpError is what a router says about a packet, quoting n bytes of it.
func icmpError(from netip.Addr, about Frame, kind struct{ v4, v6 [2]uint8 }, n int) Frame {
	quoted := about
	quoted.NoLink = true
	b := quoted.Bytes()
	f := Frame{
		Src: port(from, 0), Dst: port(about.Src.Addr(), 0), Proto: ICMP,
		ICMPType: kind.v4[0], ICMPCode: kind.v4[1], ICMPRest: 1400, Payload: b[:min(n, len(b))],
	}
	if !about.Is4() {
		f.Proto, f.ICMPType, f.ICMPCode = ICMPv6, kind.v6[0], kind.v6[1]
	}
	return f
}

// A15: errors find their way through the translation in both directions, with
// the quoted packet as their receiver knows it.
func TestA15ICMPErrors(t *testing.T) {
	for name, kind := range icmpKinds {
		for _, remote := range []bool{false, true} {
			eachProtocol(t, func(t *testing.T, s side, proto uint8) {
				t.Run(fmt.Sprintf("%s/remote=%v", name, remote), func(t *testing.T) {
					w := newWorld(t, datapath.PacketOptions{})
					pod := &endpoint{at: port(s.localPod, 8080), local: true}
					verdict, back := pass, w.progs.Egress
					if remote {
						pod = &endpoint{at: port(s.remotePod, 8080)}
						verdict, back = redirect, w.progs.Ingress
					}
					w.addService(&svc{
						proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
						endpoints: []*endpoint{pod},
					})
					asked := opening(proto, port(s.client, 40000), port(s.vip, 80))
					seen := w.read("request", w.in(asked), verdict)
					header := 40
					if s.family == 4 {
						header = 20
					}
					for _, quote := range []int{header + 8, 1000} {
						// A router behind us about what the backend was sent.
						e := icmpError(s.other, seen, kind, quote)
						r := w.run(back, w.frame(e).Bytes(), true)
						got := w.read("error about the request", r, verdict)
						w.wantTranslatedError(got, e, port(s.client, 0), asked)
						if got.Src.Addr() != s.vip {
							t.Errorf("error comes from %v, which the client does not know", got.Src)
						}

						// A router before the client about what it was sent.
						replied := Frame{Src: asked.Dst, Dst: asked.Src, Proto: proto, Payload: []byte("some bytes")}
						e = icmpError(s.other, replied, kind, quote)
						got = w.read("error about the reply", w.in(e), verdict)
						about := replied
						about.Src, about.Dst = seen.Dst, seen.Src
						w.wantTranslatedError(got, e, port(pod.at.Addr(), 0), about)
						want := s.other
						if remote {
							want = seen.Src.Addr()
						}
						if got.Src.Addr() != want {
							t.Errorf("error comes from %v, want %v", got.Src, want)
						}
					}
				})
			})
		}
	}
}

// wantTranslatedError checks receiver and quotation; the checksum of the message
// was verified by Read.
func (w *world) wantTranslatedError(got, sent Frame, to netip.AddrPort, about Frame) {
	w.t.Helper()
	if got.Dst != to || got.ICMPType != sent.ICMPType || got.ICMPCode != sent.ICMPCode || got.ICMPRest != sent.ICMPRest {
		w.t.Errorf("type %d code %d rest %d to %v", got.ICMPType, got.ICMPCode, got.ICMPRest, got.Dst)
	}
	quoted, err := ReadQuoted(got.Payload)
	check(w.t, err)
	if quoted.Src != about.Src || quoted.Dst != about.Dst {
		w.t.Errorf("quotes %v -> %v, want %v -> %v", quoted.Src, quoted.Dst, about.Src, about.Dst)
	}
	if len(got.Payload) != len(sent.Payload) {
		w.t.Errorf("quotes %d bytes, was %d", len(got.Payload), len(sent.Payload))
	}
	if about.Proto == SCTP || len(got.Payload) < 100 && about.Proto == TCP && len(got.Payload) <= 48 {
		return // its checksum is not quoted, or does not cover addresses
	}
	// A quoted transport checksum still fits, if the whole packet is quoted.
	about.NoLink = true
	about.TTL = quoted.TTL
	if whole := about.Bytes(); len(got.Payload) == len(whole) && !bytes.Equal(got.Payload, whole) {
		w.t.Errorf("quotes\n% x, want\n% x", got.Payload, whole)
	}
}

func TestICMPErrorsOfOthersPass(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		for name, kind := range icmpKinds {
			e := icmpError(s.other, Frame{Src: port(s.node, 5000), Dst: port(s.client, 53), Proto: UDP}, kind, 1000)
			w.wantUntouched(name, w.in(e), w.frame(e).Bytes())
			w.wantUntouched(name, w.out(e), w.frame(e).Bytes())
		}
	}
}

// What is too big for the way out is told to its sender, about the packet that
// it sent.
func TestTooBigForTheWay(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		f.DontFrag = s.family == 4
		w.read("small", w.in(f), redirect)
		f.Payload = make([]byte, 1600)
		got := w.read("too big", w.in(f), redirect)
		w.wantError(got, f, [2]uint8{3, 4}, [2]uint8{2, 0})
		if got.ICMPRest != 1500 {
			t.Errorf("tells an MTU of %d", got.ICMPRest)
		}
		if w.counters()["too_big"] != 1 {
			t.Errorf("counters %v", w.counters())
		}
	}
}

func TestTimeToLive(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		f.TTL = 1
		w.wantError(w.read("last hop", w.in(f), redirect), f, [2]uint8{11, 0}, [2]uint8{3, 0})
	}
}
