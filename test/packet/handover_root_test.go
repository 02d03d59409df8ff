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

// anyAddr stands for the node's own addresses in a NodePort's key.
func anyAddr(s side) netip.Addr {
	if s.family == 4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
