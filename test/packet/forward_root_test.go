// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

var protocols = map[string]uint8{"TCP": TCP, "UDP": UDP, "SCTP": SCTP}

// eachProtocol runs a test for both families and every protocol.
func eachProtocol(t *testing.T, test func(t *testing.T, s side, proto uint8)) {
	for _, s := range sides {
		for name, proto := range protocols {
			t.Run(fmt.Sprintf("IPv%d/%s", s.family, name), func(t *testing.T) { test(t, s, proto) })
		}
	}
}

// opening is the first packet of a connection.
func opening(proto uint8, src, dst netip.AddrPort) Frame {
	f := Frame{Src: src, Dst: dst, Proto: proto, Payload: []byte("first words")}
	switch proto {
	case TCP:
		f.Flags, f.Payload = SYN, nil
	case SCTP:
		f.Flags = 1 // INIT
	}
	return f
}

// answer is what a backend sends on a packet.
func answer(f Frame) Frame {
	a := Frame{Src: f.Dst, Dst: f.Src, Proto: f.Proto, Payload: []byte("an answer!")}
	switch f.Proto {
	case TCP:
		a.Flags, a.Payload = SYN|ACK, nil
	case SCTP:
		a.Flags = 2 // INIT ACK
	}
	return a
}

// goesOn is a later packet in the direction of f.
func goesOn(f Frame) Frame {
	f.Payload = []byte("and so on, with an odd length")
	switch f.Proto {
	case TCP:
		f.Flags = ACK
	case SCTP:
		f.Flags = 0 // DATA
	}
	return f
}

func TestLocalBackendSeesTheClient(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
		client := port(s.client, 40000)
		for _, f := range []Frame{opening(proto, client, port(s.vip, 80)), goesOn(opening(proto, client, port(s.vip, 80)))} {
			want := f
			want.Dst = port(s.localPod, 8080)
			got := w.want("request", w.in(f), pass, want)

			reply := answer(got)
			want = reply
			want.Src = port(s.vip, 80)
			w.want("reply", w.out(reply), pass, want)
		}
		if n, h := len(w.flows()), w.hints(); n != 1 || h != 2 {
			t.Errorf("%d flows with %d hints, want 1 with 2", n, h)
		}
	})
}

func TestRemoteBackendSeesTheNode(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		any := netip.IPv4Unspecified()
		if s.family == 6 {
			any = netip.IPv6Unspecified()
		}
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{port(any, 30080)}, flags: abi.FlagNodePort,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		request := opening(proto, port(s.client, 40000), port(s.node, 30080))
		for _, f := range []Frame{request, goesOn(request)} {
			seen := w.read("request", w.in(f), redirect)
			if seen.Src.Addr() != s.node || seen.Dst != port(s.remotePod, 8080) || seen.TTL != 63 {
				t.Fatalf("request became %v -> %v, hop limit %d", seen.Src, seen.Dst, seen.TTL)
			}
			if p := seen.Src.Port(); p < 1024 || p > 29999 {
				t.Fatalf("source port %d is outside the range of source NAT", p)
			}
			reply := answer(seen)
			want := reply
			want.Src, want.Dst, want.TTL = port(s.node, 30080), port(s.client, 40000), 63
			w.want("reply", w.in(reply), redirect, want)
		}
		if n := len(w.flows()); n != 1 {
			t.Errorf("%d flows, want 1", n)
		}
	})
}
