// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// udpNodePort makes a NodePort and returns a datagram from the client to it.
func (w *world) udpNodePort(s side, nodePort uint16) Frame {
	any := netip.IPv4Unspecified()
	if s.family == 6 {
		any = netip.IPv6Unspecified()
	}
	w.addService(&svc{
		proto: UDP, frontends: []netip.AddrPort{port(any, nodePort)}, flags: abi.FlagNodePort,
		endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
	})
	return opening(UDP, port(s.client, 8080), port(s.node, nodePort))
}

// A9: a datagram to a socket of this node that is connected to who sends it is no
// request, whatever NodePort the socket has for its port. To one that is not
// connected the NodePort is what it is for kube-proxy: before it.
func TestA9DatagramToAConnectedSocketOfANodePortsNumber(t *testing.T) {
	for i, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		f := w.udpNodePort(s, uint16(30880+i))
		for _, connected := range []bool{true, false} {
			var c net.Conn
			check(t, w.ns.Do(func() (err error) {
				local := net.UDPAddrFromAddrPort(f.Dst)
				if connected {
					c, err = net.DialUDP("udp", local, net.UDPAddrFromAddrPort(f.Src))
				} else {
					c, err = net.ListenUDP("udp", local)
				}
				return err
			}))
			if connected {
				w.wantUntouched("an answer", w.in(f), w.frame(f).Bytes())
				other := f
				other.Src = port(s.other, 8080)
				w.read("another's request", w.in(other), pass)
				if n := len(w.flows()); n != 1 {
					t.Errorf("IPv%d: %d flows, want that of the request", s.family, n)
				}
			} else {
				want := f
				want.Dst = port(s.localPod, 8080)
				w.want("a request", w.in(f), pass, want)
			}
			check(t, c.Close())
		}
	}
}

// A9: nor is one that answers what netfilter has sent from the node's address and
// that port. What came to the port before there was a Service (A38) is no answer.
func TestA9DatagramToAMasqueradedFlowOfANodePortsNumber(t *testing.T) {
	for i, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		answer := w.udpNodePort(s, uint16(30890+2*i))
		w.track(s, port(s.localPod, 5000), answer.Src, answer.Src, answer.Dst)
		w.wantUntouched("an answer", w.in(answer), w.frame(answer).Bytes())

		early := w.udpNodePort(s, uint16(30891+2*i))
		w.track(s, early.Src, early.Dst, early.Dst, early.Src)
		want := early
		want.Dst = port(s.localPod, 8080)
		w.want("a request", w.in(early), pass, want)
	}
}

// track tells the kernel's connection tracking of a UDP flow.
func (w *world) track(s side, src, dst, replySrc, replyDst netip.AddrPort) {
	w.t.Helper()
	tuple := func(src, dst netip.AddrPort) netlink.IPTuple {
		return netlink.IPTuple{
			SrcIP: src.Addr().AsSlice(), SrcPort: src.Port(), DstIP: dst.Addr().AsSlice(), DstPort: dst.Port(), Protocol: UDP,
		}
	}
	family := netlink.InetFamily(netlink.FAMILY_V4)
	if s.family == 6 {
		family = netlink.FAMILY_V6
	}
	flow := &netlink.ConntrackFlow{
		FamilyType: uint8(family), Forward: tuple(src, dst), Reverse: tuple(replySrc, replyDst), TimeOut: 60,
	}
	check(w.t, w.ns.Do(func() error {
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, family, flow); err != nil {
			return fmt.Errorf("track %v -> %v: %w", src, dst, err)
		}
		return nil
	}))
}

// A38: what a client sends before its Service is there leaves no trace that
// would keep the Service from it afterwards: TCP connects with the next SYN, UDP
// with the next datagram, on every kind of address.
func TestA38FirstPacketBeforeTheService(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true, ServiceRanges: ranges})
		any, pod := netip.IPv4Unspecified(), port(s.localPod, 8000)
		if s.family == 6 {
			any = netip.IPv6Unspecified()
		}
		for at, flags := range map[netip.AddrPort]uint32{
			port(s.vip, 80):         abi.FlagClusterIP,
			port(s.vip.Next(), 80):  abi.FlagLoadBalancer,
			port(s.node, 30038):     abi.FlagNodePort,
			port(s.other.Next(), 1): abi.FlagExternalIP,
		} {
			f := opening(proto, port(s.client, 40000), at)
			w.wantUntouched("before", w.in(f), w.frame(f).Bytes())
			if at.Addr() == s.vip {
				w.wantDrop("goes no further", w.out(f), "unassigned_cluster_ip")
			}
			key := at
			if flags == abi.FlagNodePort {
				key = port(any, at.Port())
			}
			pod = port(s.localPod, pod.Port()+1)
			w.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{key}, flags: flags, endpoints: []*endpoint{{at: pod, local: true}},
			})
			if got := w.read("after", w.in(f), pass); got.Dst != pod {
				t.Errorf("to %v: went to %v", at, got.Dst)
			}
		}
	})
}
