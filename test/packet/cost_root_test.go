// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// lookups counts the calls that a program makes to look something up in a map:
// every such call goes by way of a function that counts.
type lookups struct {
	t *testing.T
	m *ebpf.Map
}

const countedLookup = "counted_lookup"

func newLookups(t *testing.T) *lookups {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	check(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return &lookups{t, m}
}

// instrument is for LoadEditedPacketPrograms.
func (l *lookups) instrument(spec *ebpf.CollectionSpec) error {
	pointer := &btf.Pointer{Target: &btf.Void{}}
	function := asm.Instructions{
		btf.WithFuncMetadata(asm.Mov.Reg(asm.R6, asm.R1).WithSymbol(countedLookup), &btf.Func{
			Name: countedLookup, Linkage: btf.StaticFunc,
			Type: &btf.FuncProto{Return: pointer, Params: []btf.FuncParam{{Name: "map", Type: pointer}, {Name: "key", Type: pointer}}},
		}),
		asm.Mov.Reg(asm.R7, asm.R2),
		asm.LoadMapValue(asm.R3, l.m.FD(), 0),
		asm.Mov.Imm(asm.R4, 1),
		asm.AddAtomic.Mem(asm.R3, asm.R4, asm.DWord, 0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.FnMapLookupElem.Call(),
		asm.Return(),
	}
	for _, prog := range spec.Programs {
		for i, ins := range prog.Instructions {
			if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnMapLookupElem) {
				call := asm.Call.Label(countedLookup)
				call.Metadata = ins.Metadata
				prog.Instructions[i] = call.WithReference(countedLookup)
			}
		}
		// The kernel wants to know a line for the first instruction.
		own := append(asm.Instructions{}, function...)
		own[0] = own[0].WithSource(prog.Instructions[0].Source())
		prog.Instructions = append(prog.Instructions, own...)
	}
	return nil
}

// take returns how many there were since the last time.
func (l *lookups) take() uint64 {
	l.t.Helper()
	var b [8]byte
	check(l.t, l.m.Lookup(uint32(0), &b))
	check(l.t, l.m.Put(uint32(0), uint64(0)))
	return binary.NativeEndian.Uint64(b[:])
}

// What a packet costs in map look-ups. That of somebody else costs one at most,
// unless this node sends it itself and begins something with it: it may be for a
// Service, so the filter is asked, too.
func TestLookupsPerPacket(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{RefuseUnknownPorts: true, ServiceRanges: ranges})
	l := newLookups(t)
	progs, err := datapath.LoadEditedPacketPrograms(w.maps, datapath.PacketOptions{RefuseUnknownPorts: true, ServiceRanges: ranges}, l.instrument)
	check(t, err)
	t.Cleanup(func() { _ = progs.Close() })
	w.progs = progs
	for _, s := range sides {
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 8080), local: true}},
		})
		opens := opening(TCP, port(s.client, 40000), port(s.vip, 80))
		other := opening(TCP, port(s.client, 40000), port(s.other, 80))
		own := opening(TCP, port(s.node, 40000), port(s.other, 80))
		count := func(what string, most uint64, run func()) {
			t.Helper()
			l.take()
			run()
			n := l.take()
			t.Logf("IPv%d, %s: %d", s.family, what, n)
			if n > most {
				t.Errorf("IPv%d, %s: %d look-ups, more than %d", s.family, what, n, most)
			}
			if n == 0 {
				t.Errorf("IPv%d, %s: nothing was counted", s.family, what)
			}
		}
		count("not ours, comes in", 1, func() { w.in(other) })
		count("not ours, goes on", 1, func() { w.in(goesOn(other)) })
		count("not ours, forwarded out", 1, func() { w.out(other) })
		count("not ours, the node's own beginning", 2, func() { w.sent(own) })
		count("new flow", 23, func() { w.in(opens) })
		count("established", 4, func() { w.in(goesOn(opens)) })
		count("reply", 3, func() { w.out(answer(Frame{Src: opens.Src, Dst: port(s.localPod, 8080), Proto: TCP, Flags: SYN})) })
	}
}

// The size of the programs, as compiled: what grows costs every packet, the
// verifier or the instruction cache, and is to be meant. Raise a bound in the
// commit that needs it, and say why.
func TestInstructions(t *testing.T) {
	most := map[string]int{"beeline_ingress": 8400, "beeline_egress": 8400}
	w := newWorld(t, datapath.PacketOptions{})
	progs, err := datapath.LoadEditedPacketPrograms(w.maps, datapath.PacketOptions{}, func(spec *ebpf.CollectionSpec) error {
		for name, prog := range spec.Programs {
			n := len(prog.Instructions)
			t.Logf("%s: %d instructions", name, n)
			if n > most[name] {
				t.Errorf("%s: %d instructions, more than %d", name, n, most[name])
			}
		}
		return nil
	})
	check(t, err)
	check(t, progs.Close())
}
