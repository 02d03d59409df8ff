// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// wantRefusal checks an ICMP port unreachable from the address that the client
// wrote to, quoting its packet.
func (w *world) wantRefusal(r result, f Frame) {
	w.t.Helper()
	got := w.read("refusal", r, redirect)
	w.wantError(got, f, [2]uint8{3, 3}, [2]uint8{1, 4})
	if got.SrcMAC != macNode || got.DstMAC != macRouter {
		w.t.Errorf("link header %x -> %x was not turned around", got.SrcMAC, got.DstMAC)
	}
}

// wantError checks an ICMP error about a packet: type and code by family.
func (w *world) wantError(got, about Frame, v4, v6 [2]uint8) {
	w.t.Helper()
	proto, kind := uint8(ICMP), v4
	if !about.Is4() {
		proto, kind = ICMPv6, v6
	}
	if got.Proto != proto || [2]uint8{got.ICMPType, got.ICMPCode} != kind {
		w.t.Fatalf("protocol %d, type %d, code %d, want ICMP %v", got.Proto, got.ICMPType, got.ICMPCode, kind)
	}
	if got.Src.Addr() != about.Dst.Addr() || got.Dst.Addr() != about.Src.Addr() {
		w.t.Errorf("error from %v to %v about %v -> %v", got.Src, got.Dst, about.Src, about.Dst)
	}
	quoted, err := ReadQuoted(got.Payload)
	check(w.t, err)
	if quoted.Src != about.Src || quoted.Dst != about.Dst || quoted.Proto != about.Proto {
		w.t.Errorf("quotes %v -> %v, protocol %d; sent %v -> %v", quoted.Src, quoted.Dst, quoted.Proto, about.Src, about.Dst)
	}
}

func TestA22NoEndpointsRefuses(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer})
		f := opening(proto, port(s.client, 40000), port(s.vip, 80))
		w.wantRefusal(w.in(f), f)
		if n := w.counters()["no_backend"]; n != 1 {
			t.Errorf("no_backend counted %d times", n)
		}
		if len(w.flows()) != 0 {
			t.Error("a refused packet made a flow")
		}
	})
}

func TestRefusalQuotesOptions(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{})
	for _, s := range sides {
		w.addService(&svc{proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		f.Options = make([]byte, 40)
		f.Extensions = []Extension{{0, make([]byte, 14)}, {60, make([]byte, 6)}}
		w.wantRefusal(w.in(f), f)
	}
}

func TestRefusalsAreRateLimited(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{ICMPRate: 1, ICMPBurst: 3})
	s := sides[0]
	w.addService(&svc{proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer})
	f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
	refused := 0
	for range 50 {
		if w.in(f).verdict == redirect {
			refused++
		}
	}
	// Every CPU has a bucket of its own, and begins with what one second fills.
	if limited := int(w.counters()["icmp_limited"]); refused == 0 || refused > 8 || limited != 50-refused {
		t.Errorf("%d refusals, %d limited", refused, limited)
	}
}

func TestLocalPolicyWithoutLocalEndpointDrops(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer | abi.FlagExternalLocal,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}}, emptyLocal: abi.EmptyDrop,
		})
		w.wantDrop("outsider", w.in(opening(proto, port(s.client, 40000), port(s.vip, 80))), "no_local_backend")
	})
}

// Clients inside the cluster are not bound by the external policy, and keep
// their address if they are pods (pains A13).
func TestA13LocalPolicyShortCircuitsForPods(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{PodDevice: true})
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer | abi.FlagExternalLocal,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}}, emptyLocal: abi.EmptyDrop,
		})
		f := opening(TCP, port(s.localPod, 40000), port(s.vip, 80))
		want := f
		want.Dst = port(s.remotePod, 8080)
		w.want("pod", w.in(f), pass, want)
	}
}

func TestPodRangesTellPods(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.put(abi.MapPodRanges, abi.NewPodRangeKey(netip.PrefixFrom(s.localPod, s.localPod.BitLen()-8)), uint32(1))
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer | abi.FlagExternalLocal,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}}, emptyLocal: abi.EmptyDrop,
		})
		f := opening(TCP, port(s.localPod.Next(), 40000), port(s.vip, 80))
		want := f
		want.Dst = port(s.remotePod, 8080)
		w.want("pod", w.in(f), pass, want)
		w.wantDrop("outsider", w.in(opening(TCP, port(s.client, 40000), port(s.vip, 80))), "no_local_backend")
	}
}

func TestA33SourceRanges(t *testing.T) {
	eachProtocol(t, func(t *testing.T, s side, proto uint8) {
		w := newWorld(t, datapath.PacketOptions{})
		open := &svc{
			proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer | abi.FlagSourceRanges,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		}
		w.addService(open)
		allowed := netip.PrefixFrom(s.client, s.client.BitLen()-4)
		w.put(abi.MapSourceRanges, abi.NewSourceRangeKey(open.index, allowed), uint32(1))
		w.put(abi.MapSourceRanges, abi.NewSourceRangeKey(open.index+1, netip.PrefixFrom(s.other, 0)), uint32(1))

		f := opening(proto, port(s.client, 40000), port(s.vip, 80))
		want := f
		want.Dst = port(s.localPod, 8080)
		w.want("inside the range", w.in(f), pass, want)
		w.wantDrop("outside", w.in(opening(proto, port(s.other, 40000), port(s.vip, 80))), "source_range")
	})
}

func TestUnknownPort(t *testing.T) {
	for _, s := range sides {
		for _, refuse := range []bool{true, false} {
			w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: refuse})
			w.addService(&svc{frontends: []netip.AddrPort{port(s.vip, 0)}, flags: abi.FlagAddress | abi.FlagClusterIP})
			f := opening(TCP, port(s.client, 40000), port(s.vip, 81))
			if refuse {
				w.wantRefusal(w.in(f), f)
			} else {
				w.wantUntouched("unknown port", w.in(f), w.frame(f).Bytes())
			}
		}
	}
}

func TestClusterIPFromOutside(t *testing.T) {
	for _, s := range sides {
		for _, closed := range []bool{false, true} {
			w := newWorld(t, datapath.PacketOptions{CloseClusterIPs: closed, DetectLocal4: true, DetectLocal6: true})
			w.addService(&svc{
				proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagClusterIP,
				endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
			})
			r := w.in(opening(TCP, port(s.client, 40000), port(s.vip, 80)))
			if closed {
				w.wantDrop("outsider", r, "cluster_ip_outside")
				continue
			}
			if seen := w.read("outsider", r, redirect); seen.Src.Addr() != s.node || seen.Dst != port(s.remotePod, 8080) {
				t.Errorf("became %v -> %v", seen.Src, seen.Dst)
			}
		}
	}
}

// Which source the backend sees, case by case of the truth table.
func TestMasquerade(t *testing.T) {
	type opts = datapath.PacketOptions
	tests := []struct {
		name  string
		opts  opts
		flags uint32
		local bool
		from  func(side) netip.Addr
		nat   bool
	}{
		{"ClusterIP from a pod", opts{PodDevice: true, DetectLocal4: true, DetectLocal6: true}, abi.FlagClusterIP, false, pods, false},
		{"ClusterIP, masqueradeAll", opts{PodDevice: true, MasqueradeAll: true}, abi.FlagClusterIP, false, pods, true},
		{"NodePort-like from a pod", opts{PodDevice: true}, abi.FlagLoadBalancer, false, pods, true},
		{"external, remote backend", opts{}, abi.FlagLoadBalancer, false, clients, true},
		{"external, local backend", opts{}, abi.FlagLoadBalancer, true, clients, false},
		{"external, local backend, as kube-proxy", opts{MasqueradeLocal: true}, abi.FlagLoadBalancer, true, clients, true},
		{"ClusterIP from outside, local backend", opts{DetectLocal4: true, DetectLocal6: true}, abi.FlagClusterIP, true, clients, true},
		{"policy Local", opts{MasqueradeLocal: true}, abi.FlagLoadBalancer | abi.FlagExternalLocal, true, clients, false},
		{"hairpin", opts{PodDevice: true}, abi.FlagClusterIP, true, func(s side) netip.Addr { return s.localPod }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, s := range sides {
				w := newWorld(t, test.opts)
				e := &endpoint{at: port(s.remotePod, 8080)}
				if test.local {
					e = &endpoint{at: port(s.localPod, 8080), local: true}
				}
				w.addService(&svc{proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: test.flags, endpoints: []*endpoint{e}})
				from := test.from(s)
				verdict := pass
				if test.nat {
					verdict = redirect
				}
				seen := w.read(test.name, w.in(opening(TCP, port(from, 40000), port(s.vip, 80))), verdict)
				source := from
				if test.nat {
					source = s.node
					if test.local { // by way of the device that pods are on
						source = seen.Src.Addr()
					}
				}
				if seen.Dst != e.at || seen.Src.Addr() != source {
					t.Errorf("IPv%d: became %v -> %v", s.family, seen.Src, seen.Dst)
				}
				if test.nat == (seen.Src.Addr() == from) {
					t.Errorf("IPv%d: backend sees %v", s.family, seen.Src)
				}
				reply := answer(seen)
				out := w.progs.Egress
				if test.nat {
					out = w.progs.Ingress
				}
				back := w.run(out, w.frame(reply).Bytes(), true)
				got, err := Read(back.bytes, false)
				check(t, err)
				if got.Src != port(s.vip, 80) || got.Dst != port(from, 40000) {
					t.Errorf("IPv%d: reply became %v -> %v", s.family, got.Src, got.Dst)
				}
			}
		})
	}
}

// A24: a process of this node sees its clients as they are. From the node's own
// address the stack would take no packet.
func TestA24NoSourceNATToTheNodeItself(t *testing.T) {
	for _, opts := range []datapath.PacketOptions{{PodDevice: true}, {MasqueradeLocal: true}, {MasqueradeAll: true}} {
		for _, s := range sides {
			w := newWorld(t, opts)
			w.localAddr(s.node, abi.LocalAddrHere|abi.LocalAddrNodePort)
			e := &endpoint{at: port(s.node, 8080), local: true}
			w.addService(&svc{proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, endpoints: []*endpoint{e}})
			seen := w.read("request", w.in(opening(TCP, port(s.client, 40000), port(s.vip, 80))), pass)
			if seen.Dst != e.at || seen.Src.Addr() != s.client {
				t.Errorf("IPv%d, %+v: became %v -> %v", s.family, opts, seen.Src, seen.Dst)
			}
		}
	}
}

func pods(s side) netip.Addr    { return s.localPod.Next() }
func clients(s side) netip.Addr { return s.client }

func TestAffinityKeepsTheBackend(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		service := &svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, affinity: 100,
			endpoints: []*endpoint{
				{at: port(s.localPod, 1), local: true},
				{at: port(s.localPod, 2), local: true},
				{at: port(s.localPod, 3), local: true},
			},
		}
		w.addService(service)
		var first netip.AddrPort
		for i := range uint16(20) {
			f := w.read("request", w.in(opening(TCP, port(s.client, 40000+i), port(s.vip, 80))), pass)
			if i == 0 {
				first = f.Dst
			}
			if f.Dst != first {
				t.Fatalf("connection %d went to %v, the first to %v", i, f.Dst, first)
			}
		}
	}
}

// Who was refused is pinned to nothing.
func TestAffinityOfARefusedFlow(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{SNATPorts: [2]uint16{6400, 6400}})
		w.service = ^uint32(0) // the next is 0, a Service like others
		service := &svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, affinity: 100,
			endpoints: []*endpoint{{at: port(s.remotePod, 1)}},
		}
		w.addService(service)
		pinned := func(client netip.Addr) bool {
			var pin abi.Affinity
			err := w.maps[abi.MapAffinities].Lookup(abi.AffinityKey{Client: abi.Addr(client), Service: service.index}, &pin)
			return err == nil && pin.Backend == service.endpoints[0].index
		}
		w.read("the first", w.in(opening(TCP, port(s.client, 40000), port(s.vip, 80))), redirect)
		w.wantDrop("the second", w.in(opening(TCP, port(s.other, 40000), port(s.vip, 80))), "snat_no_port")
		if !pinned(s.client) || pinned(s.other) {
			t.Errorf("IPv%d: pinned: the first %v, the second %v", s.family, pinned(s.client), pinned(s.other))
		}
	}
}

func TestEcho(t *testing.T) {
	for _, s := range sides {
		for _, c := range []struct {
			name          string
			enabled, full bool
			verdict       int
		}{
			{"with a backend", true, true, redirect},
			{"without", true, false, pass},
			{"switched off", false, true, pass},
		} {
			w := newWorld(t, datapath.PacketOptions{EchoReply: c.enabled, RefuseUnknownPorts: true})
			service := &svc{proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer}
			if c.full {
				service.endpoints = []*endpoint{{at: port(s.localPod, 8080), local: true}}
			}
			w.addService(service)
			address := *service
			address.flags, address.frontends = abi.FlagAddress, []netip.AddrPort{port(s.vip, 0)}
			w.addService(&address)
			ping := Frame{
				Src: port(s.client, 0), Dst: port(s.vip, 0), Proto: ICMP, ICMPType: 8,
				ICMPRest: 0x00070001, Payload: []byte("are you there"),
			}
			want := ping
			if s.family == 6 {
				ping.Proto, ping.ICMPType = ICMPv6, 128
				want = ping
			}
			if c.verdict == redirect {
				want.Src, want.Dst = ping.Dst, ping.Src
				want.ICMPType = 0
				if s.family == 6 {
					want.ICMPType = 129
				}
			}
			w.want("ping "+c.name, w.in(ping), c.verdict, want)
		}
	}
}
