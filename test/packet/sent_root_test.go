// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// What the node itself sends, and the socket hooks leave to packets (SCTP,
// frontends with source ranges), is translated on its way out.
func TestSentByTheNode(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		for _, local := range []bool{true, false} {
			w := newWorld(t, datapath.PacketOptions{})
			pod := &endpoint{at: port(s.remotePod, 8080)}
			if local {
				pod = &endpoint{at: port(s.localPod, 8080), local: true}
			}
			w.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
				endpoints: []*endpoint{pod},
			})
			f := opening(proto, port(s.node, 40000), port(s.vip, 80))
			seen := w.read("request", w.sent(f), redirect)
			if seen.Dst != pod.at {
				t.Errorf("became %v -> %v", seen.Src, seen.Dst)
			}
			reply := answer(seen)
			want := reply
			want.Src, want.Dst = port(s.vip, 80), port(s.node, 40000)
			// It is for the node itself: the stack takes it.
			w.want("reply", w.in(reply), pass, want)
		}
	})
}

// What the node only forwards was looked at when it came in.
func TestForwardedIsNotBalancedAgain(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		w.wantUntouched("forwarded", w.out(f), w.frame(f).Bytes())
	}
}
