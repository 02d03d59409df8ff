// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// Several CPUs at one small table, with few clients or too many, few source
// ports, and ends in between: whatever they did to each other, every flow can be found
// from both sides, and no two look alike to a backend.
func TestFlowTableUnderRace(t *testing.T) {
	t.Run("few clients", func(t *testing.T) { race(t, 300, 64) })
	t.Run("more than fit", func(t *testing.T) { race(t, 3000, 20000) })
}

func race(t *testing.T, clients, snatPorts uint16) {
	w := newWorld(t, datapath.PacketOptions{SNATPorts: [2]uint16{2000, 2000 + snatPorts - 1}})
	s := sides[0]
	w.addService(&svc{
		proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80), port(s.vip, 81)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{
			{at: port(s.remotePod, 1)}, {at: port(s.remotePod, 2)},
			{at: port(s.localPod, 1), local: true}, {at: port(s.localPod, 2), local: true},
		},
	})
	var group sync.WaitGroup
	for worker := range uint64(4) {
		group.Go(func() {
			dice := rand.New(rand.NewPCG(worker, 1))
			err := w.ns.Do(func() error { return w.hammer(dice, s, int(clients), 20000) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.wantWholeFlows()
	replies, requests := map[abi.FlowTuple]bool{}, map[abi.FlowTuple]int{}
	for _, f := range w.flows() {
		if f.Seq%2 != 0 {
			t.Errorf("a record is still being written: %+v", f)
		}
		if replies[f.Tuple[abi.FlowReply]] {
			t.Errorf("two flows share the reply tuple %+v", f.Tuple[abi.FlowReply])
		}
		replies[f.Tuple[abi.FlowReply]] = true
		requests[f.Tuple[abi.FlowRequest]]++
	}
	t.Logf("%d flows of %d requests; counters %v", len(replies), len(requests), w.counters())
}

// hammer opens and ends connections of a few clients.
func (w *world) hammer(dice *rand.Rand, s side, clients, packets int) error {
	for range packets {
		f := w.frame(opening(TCP, port(s.client, uint16(1000+dice.IntN(clients))), port(s.vip, uint16(80+dice.IntN(2)))))
		switch dice.IntN(4) {
		case 0:
			f.Flags = RST
		case 1:
			f.Flags = FIN | ACK
		}
		b := f.Bytes()
		_, err := w.progs.Ingress.Run(&ebpf.RunOptions{
			Data: b, DataOut: make([]byte, len(b)+256), Context: skb{Ifindex: uint32(w.uplink)}, Repeat: 1,
		})
		if err != nil {
			return err
		}
	}
	return nil
}
