// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
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

// The first datagrams of one flow on two CPUs at once: one flow comes of it, and
// all of them go to its backend. Where this machine's hypervisor puts a CPU aside
// at that moment, the other one may give up: dropped and counted.
func TestFirstDatagramsAtOnce(t *testing.T) {
	const rounds, workers = 5000, 2
	w := newWorldOf(t, 8192, datapath.PacketOptions{})
	s := sides[0]
	service := &svc{proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer}
	for i := range uint16(8) {
		service.endpoints = append(service.endpoints, &endpoint{at: port(s.localPod, 1+i), local: true})
	}
	w.addService(service)
	var group sync.WaitGroup
	var arrived atomic.Int64
	seen := [workers][rounds]netip.AddrPort{}
	for worker := range workers {
		group.Go(func() {
			err := w.ns.Do(func() error {
				for i := range rounds {
					b := w.frame(opening(UDP, port(s.client, uint16(1024+i)), port(s.vip, 80))).Bytes()
					opts := ebpf.RunOptions{
						Data: b, DataOut: make([]byte, len(b)+256), Context: skb{Ifindex: uint32(w.uplink)}, Repeat: 1,
					}
					arrived.Add(1)
					for arrived.Load() < int64(workers*(i+1)) && !t.Failed() {
					}
					verdict, err := w.progs.Ingress.Run(&opts)
					if err != nil {
						return err
					}
					if int32(verdict) == shot {
						continue
					}
					if int32(verdict) != pass {
						return fmt.Errorf("datagram %d: verdict %d; counters %v", i, int32(verdict), w.counters())
					}
					f, err := Read(opts.DataOut, false)
					if err != nil {
						return err
					}
					seen[worker][i] = f.Dst
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	torn, dropped := 0, 0
	for i := range rounds {
		switch a, b := seen[0][i], seen[1][i]; {
		case !a.IsValid() || !b.IsValid():
			dropped++
		case a != b:
			torn++
		}
	}
	if busy := int(w.counters()["flow_busy"]); dropped != busy || busy > rounds/100 {
		t.Errorf("%d datagrams were dropped, %d because a CPU was away", dropped, busy)
	}
	requests := map[abi.FlowTuple]int{}
	for _, f := range w.flows() {
		requests[f.Tuple[abi.FlowRequest]]++
	}
	if n := len(w.flows()); torn > 0 || n != rounds || len(requests) != rounds {
		t.Errorf("of %d flows %d went to two backends; %d records with %d requests; counters %v",
			rounds, torn, n, len(requests), w.counters())
	}
	w.wantWholeFlows()
	w.wantNothingHeld()
}

// A39: of what two CPUs see of one flow at the same moment nothing is lost.
func TestA39NoFlagIsLost(t *testing.T) {
	const rounds = 3000
	w := newWorldOf(t, 8192, datapath.PacketOptions{})
	s := sides[0]
	pod := port(s.localPod, 8080)
	w.addService(&svc{
		proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
		endpoints: []*endpoint{{at: pod, local: true}},
	})
	request := func(i int, flags uint8) []byte {
		return w.frame(Frame{Src: port(s.client, uint16(1024+i)), Dst: port(s.vip, 80), Proto: TCP, Flags: flags}).Bytes()
	}
	reply := func(i int, flags uint8) []byte {
		return w.frame(Frame{Src: pod, Dst: port(s.client, uint16(1024+i)), Proto: TCP, Flags: flags}).Bytes()
	}
	run := func(prog *ebpf.Program, b []byte) error {
		verdict, err := prog.Run(&ebpf.RunOptions{
			Data: b, DataOut: make([]byte, len(b)+256), Context: skb{Ifindex: uint32(w.uplink), IngressIfindex: uint32(w.uplink)}, Repeat: 1,
		})
		if err == nil && int32(verdict) != pass {
			err = fmt.Errorf("verdict %d", int32(verdict))
		}
		return err
	}
	check(t, w.ns.Do(func() error {
		for i := range rounds {
			if err := errors.Join(run(w.progs.Ingress, request(i, SYN)), run(w.progs.Egress, reply(i, SYN|ACK)), run(w.progs.Ingress, request(i, ACK))); err != nil {
				return err
			}
		}
		return nil
	}))
	var group sync.WaitGroup
	var arrived atomic.Int64
	for worker := range 2 {
		group.Go(func() {
			err := w.ns.Do(func() error {
				for i := range rounds {
					prog, b := w.progs.Ingress, request(i, FIN|ACK)
					if worker == 1 {
						prog, b = w.progs.Egress, reply(i, FIN|ACK)
					}
					arrived.Add(1)
					for arrived.Load() < int64(2*(i+1)) && !t.Failed() {
					}
					if err := run(prog, b); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	const want = abi.FlowUsed | abi.FlowReplied | abi.FlowAssured | abi.FlowFinRequest | abi.FlowFinReply
	flows := w.flows()
	for _, f := range flows {
		if f.Flags&want != want {
			t.Fatalf("flags %#x, want all of %#x", f.Flags, want)
		}
	}
	if len(flows) != rounds {
		t.Errorf("%d flows, want %d", len(flows), rounds)
	}
}

// wantNothingHeld checks that nobody still holds a line of the index, and that
// each knows how many of its hints are elsewhere.
func (w *world) wantNothingHeld() {
	w.t.Helper()
	hints, away := 0, uint64(0)
	for i := range w.maps[abi.MapFlowIndex].MaxEntries() {
		var line abi.FlowLine
		check(w.t, w.maps[abi.MapFlowIndex].Lookup(i, &line))
		if line.Away > uint64(w.maps[abi.MapFlows].MaxEntries()) {
			w.t.Errorf("line %d is held, or counts wrongly: %#x", i, line.Away)
		}
		away += line.Away
		for _, h := range line.Hint {
			if h != 0 {
				hints++
			}
		}
	}
	if away > uint64(hints) {
		w.t.Errorf("%d of %d hints are away", away, hints)
	}
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
		if requests[f.Tuple[abi.FlowRequest]] > 1 {
			t.Errorf("two flows share the request tuple %+v", f.Tuple[abi.FlowRequest])
		}
	}
	w.wantNothingHeld()
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
