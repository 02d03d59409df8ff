// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// ranges are Service ranges: the tests' VIPs are in them, and clients are not.
var ranges = []netip.Prefix{
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:ffff::/64"),
}

// A23, A38: an address of a Service range that no Service has is dropped for
// new connections, from outside, from pods and from this node; nothing else is. As
// with kube-proxy that is done behind everybody's translation, when a packet
// leaves: what another proxy serves has another destination by then.
func TestA38UnassignedServiceAddress(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true, ServiceRanges: ranges})
	for _, s := range sides {
		w.shop(s)
		free := s.vip.Next()
		for _, proto := range []uint8{TCP, UDP, SCTP} {
			f := opening(proto, port(s.client, 40000), port(free, 80))
			before := w.counters()["unassigned_cluster_ip"]
			w.wantUntouched("another proxy may have it", w.in(f), w.frame(f).Bytes())
			w.wantDrop("nobody had it", w.out(f), "unassigned_cluster_ip")
			w.wantDrop("from the node", w.sent(f), "unassigned_cluster_ip")
			if n := w.counters()["unassigned_cluster_ip"] - before; n != 2 {
				t.Errorf("counted %d times, want 2", n)
			}
			for _, dst := range []netip.Addr{s.other, s.localPod, s.remotePod} {
				beyond := f
				beyond.Dst = port(dst, 80)
				b := w.frame(beyond).Bytes()
				w.wantUntouched("outside of the ranges", w.in(beyond), b)
				w.wantUntouched("outside of the ranges, forwarded", w.out(beyond), b)
				w.wantUntouched("outside of the ranges, from the node", w.sent(beyond), b)
			}
			claimed := f
			claimed.Dst = port(s.vip, 80)
			w.wantUntouched("a Service's, which the stack was left to forward", w.out(claimed), w.frame(claimed).Bytes())
		}
		old := goesOn(opening(TCP, port(s.client, 40000), port(free, 80)))
		w.wantUntouched("no new connection", w.in(old), w.frame(old).Bytes())
		w.wantUntouched("no new connection, forwarded", w.out(old), w.frame(old).Bytes())
		ping := Frame{Src: port(s.client, 0), Dst: port(free, 0), Proto: ICMP, ICMPType: 8, Payload: []byte("ping")}
		if s.family == 6 {
			ping.Proto, ping.ICMPType = ICMPv6, 128
		}
		w.wantUntouched("ping", w.in(ping), w.frame(ping).Bytes())
		w.wantUntouched("the node's own ping", w.sent(ping), w.frame(ping).Bytes())
		w.wantDrop("ping that leaves", w.out(ping), "unassigned_cluster_ip")

		// An address of the node's own in that range is the node's.
		w.localAddr(free, abi.LocalAddrHere)
		own := opening(TCP, port(s.client, 40000), port(free, 80))
		w.wantUntouched("the node's own", w.in(own), w.frame(own).Bytes())
		w.wantUntouched("the node's own, forwarded", w.out(own), w.frame(own).Bytes())

		// Somebody's external address in that range has a filter bit, and an
		// unknown port there is in the range still.
		other := free.Next()
		w.filter(other)
		unknown := opening(TCP, port(s.client, 40000), port(other, 80))
		w.wantUntouched("unknown port", w.in(unknown), w.frame(unknown).Bytes())
		for what, r := range map[string]result{"forwarded": w.out(unknown), "from the node": w.sent(unknown)} {
			if r.verdict != shot {
				t.Errorf("IPv%d, unknown port, %s: verdict %d", s.family, what, r.verdict)
			}
		}
	}
}

// Switched off, or not told of any range: untouched.
func TestNoServiceRanges(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{})
	for _, s := range sides {
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		w.wantUntouched("no ranges", w.in(f), w.frame(f).Bytes())
	}
}

// D1 (CVE-2020-8558): nothing from outside names this node's loopback, even
// where NodePorts are served on it and the kernel would route it.
func TestMartians(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{})
	for _, s := range sides {
		loopback, any := addr("127.0.0.1"), netip.IPv4Unspecified()
		if s.family == 6 {
			loopback, any = netip.IPv6Loopback(), netip.IPv6Unspecified()
		}
		w.shop(s)
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(any, 30080)}, flags: abi.FlagNodePort,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
		to := opening(TCP, port(s.client, 40000), port(loopback, 30080))
		w.wantDrop("to loopback", w.in(to), "martian")
		w.localAddr(loopback, abi.LocalAddrHere|abi.LocalAddrNodePort)
		for name, f := range map[string]Frame{
			"to a NodePort on loopback": to,
			"to a listener on loopback": opening(UDP, port(s.client, 40000), port(loopback, 53)),
			"from loopback":             opening(TCP, port(loopback, 40000), port(s.other, 22)),
			"from loopback to a VIP":    opening(TCP, port(loopback, 40000), port(s.vip, 80)),
		} {
			before := w.counters()["martian"]
			w.wantDrop(name, w.in(f), "martian")
			if got := w.counters()["martian"]; got != before+1 {
				t.Errorf("%s: counted %d times", name, got-before)
			}
		}
	}
	if n := len(w.flows()); n != 0 {
		t.Errorf("%d flows were made", n)
	}
}

// A9, D7: nor a port that is a NodePort, from whichever range these are taken.
func TestA9SourceNATAvoidsNodePorts(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{SNATPorts: [2]uint16{30000, 30003}})
	for _, s := range sides {
		any := netip.IPv4Unspecified()
		if s.family == 6 {
			any = netip.IPv6Unspecified()
		}
		for _, p := range []uint16{30000, 30001, 30003} {
			w.addService(&svc{proto: TCP, frontends: []netip.AddrPort{port(any, p)}, flags: abi.FlagNodePort})
		}
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		for i := range uint16(50) {
			r := w.in(opening(TCP, port(s.client, 40000+i), port(s.vip, 80)))
			if r.verdict == shot {
				continue // 16 tries do not always find it
			}
			if got := w.read("request", r, redirect); got.Src.Port() != 30002 {
				t.Fatalf("took port %d", got.Src.Port())
			}
		}
	}
	if n := len(w.flows()); n != 2 {
		t.Errorf("%d flows, want one of each family", n)
	}
}
