// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

func (w *world) keep(proto uint8, src, dst netip.AddrPort) {
	w.put(abi.MapKeptFlows, abi.NewFlowTuple(proto, src, dst), uint32(1))
}

// During a takeover UDP flows that netfilter translates stay with it, and so do
// answers to its source NAT that come to a NodePort's number.
func TestFlowsOfNetfilterStayWithIt(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{Handover: datapath.Handover{KeepFlows: true}})
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(anyAddr(s), 30880)}, flags: abi.FlagNodePort,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		old, young := opening(UDP, port(s.client, 40000), port(s.vip, 80)), opening(UDP, port(s.client, 40001), port(s.vip, 80))
		answer := opening(UDP, port(s.remotePod, 8080), port(s.node, 30880))
		w.keep(UDP, old.Src, old.Dst)
		w.keep(UDP, answer.Src, answer.Dst)
		w.wantUntouched("old flow", w.in(old), w.frame(old).Bytes())
		w.wantUntouched("answer to netfilter's source NAT", w.in(answer), w.frame(answer).Bytes())
		want := young
		want.Dst = port(s.localPod, 8080)
		w.want("new flow", w.in(young), pass, want)
		if n := len(w.flows()); n != 1 {
			t.Errorf("%d flows, want one for the new client", n)
		}
	}
}

// In a rollback the flows that there are go on and no other begins.
func TestARollbackBeginsNoFlows(t *testing.T) {
	for _, s := range sides {
		for _, proto := range []uint8{TCP, UDP} {
			w := newWorld(t, datapath.PacketOptions{})
			w.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
				endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
			})
			first, second := opening(proto, port(s.client, 40000), port(s.vip, 80)), opening(proto, port(s.client, 40001), port(s.vip, 80))
			want := first
			want.Dst = port(s.localPod, 8080)
			w.want("before", w.in(first), pass, want)
			w.load(datapath.PacketOptions{Handover: datapath.Handover{RefuseNew: true}})
			later, want := goesOn(first), goesOn(first)
			want.Dst = port(s.localPod, 8080)
			w.want("the same flow", w.in(later), pass, want)
			w.wantUntouched("another flow", w.in(second), w.frame(second).Bytes())
			w.wantUntouched("the middle of another", w.in(goesOn(second)), w.frame(goesOn(second)).Bytes())
			if n := len(w.flows()); n != 1 {
				t.Errorf("%d flows, want the first client's", n)
			}
		}
	}
}

// A client that uses a port again begins a connection of the other proxy's: its
// next packets must not be taken for those of the one that has ended.
func TestARollbackForgetsAConnectionThatBeginsAgain(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		w.read("before", w.in(f), pass)
		end := goesOn(f)
		end.Flags = FIN | ACK
		w.read("its end", w.in(end), pass)
		w.load(datapath.PacketOptions{Handover: datapath.Handover{RefuseNew: true}})
		w.wantUntouched("it begins again", w.in(f), w.frame(f).Bytes())
		w.wantUntouched("and goes on", w.in(goesOn(f)), w.frame(goesOn(f)).Bytes())
		if n := len(w.flows()); n != 0 {
			t.Errorf("%d flows are left", n)
		}
	}
}

// netfilter's source NAT may take a port that was ours before.
func TestARollbackForgetsAConnectionWhosePortIsTaken(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.remotePod, 8080)}},
		})
		f := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		there := w.read("before", w.in(f), redirect)
		back := answer(there)
		w.read("its answer", w.in(back), redirect)
		end := goesOn(f)
		end.Flags = FIN | ACK
		w.read("its end", w.in(end), redirect)
		w.load(datapath.PacketOptions{Handover: datapath.Handover{RefuseNew: true}})
		data := back
		data.Flags = ACK
		w.read("what is under way still", w.in(data), redirect)
		w.wantUntouched("an answer to another", w.in(back), w.frame(back).Bytes())
		w.wantUntouched("and what follows", w.in(data), w.frame(data).Bytes())
	}
}

// anyAddr stands for the node's own addresses in a NodePort's key.
func anyAddr(s side) netip.Addr {
	if s.family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
