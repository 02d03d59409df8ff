// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/test/packet"
)

// subject is one scenario: a kind of packet, a program, and how many flows.
type subject struct {
	name   string
	packet packet.Frame
	// reply: the client is the destination.
	reply bool
	flows uint32
	prog  *ebpf.Program
	want  int32 // verdict
	// fresh: before every round the table is emptied.
	fresh bool

	// request makes the subject's flows; nil if there are none.
	harness, nothing, request *ebpf.Collection
	ns                        []float64
}

func (s *subject) family() string {
	if s.packet.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

const (
	pass     = -1 // TC_ACT_UNSPEC
	backends = 100
)

// bench holds the kernel's side: tables with one Service in each family, and
// the programs.
type bench struct {
	maps  map[string]*ebpf.Map
	progs *datapath.PacketPrograms
	// instructions of the programs, by name.
	instructions map[string]int
}

func runPackets(rounds, packets int, save bool) (err error) {
	b, err := newBench()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	subjects, err := b.subjects()
	if err != nil {
		return err
	}
	for range rounds {
		for _, s := range subjects {
			if err := b.round(s, packets); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	last, err := lastFigures()
	if err != nil {
		return err
	}
	now := figures{Machine: machine(), Nanoseconds: map[string]nanoseconds{}, Instructions: b.instructions}
	var order []string
	for _, s := range subjects {
		f := figure{s.name, s.ns}
		order = append(order, s.name)
		now.Nanoseconds[s.name] = nanoseconds{int(math.Round(f.median())), int(math.Round(slices.Min(f.ns)))}
	}
	if save {
		err = now.save()
	}
	return errors.Join(err, now.print(order, last))
}

type family struct {
	client, vip, pod, other netip.AddrPort
	headers                 int
}

var families = map[string]family{
	"IPv4": {ap("203.0.0.0:1024"), ap("198.51.100.1:80"), ap("10.1.0.1:8080"), ap("192.0.2.9:80"), 54},
	"IPv6": {ap("[2001:db8::]:1024"), ap("[2001:db8:1::1]:80"), ap("[fd00:1::1]:8080"), ap("[2001:db8:2::9]:80"), 74},
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func newBench() (*bench, error) {
	specs, err := abi.MapSpecs()
	if err != nil {
		return nil, err
	}
	specs[abi.MapFlows].MaxEntries = tableSize
	specs[abi.MapFlowIndex].MaxEntries = tableSize / 2
	b := &bench{maps: map[string]*ebpf.Map{}, instructions: map[string]int{}}
	for name, spec := range specs {
		if b.maps[name], err = ebpf.NewMap(spec); err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
	}
	service := uint32(1)
	for _, f := range families {
		if err := b.service(service, f); err != nil {
			return nil, err
		}
		service++
	}
	b.progs, err = datapath.LoadEditedPacketPrograms(b.maps, datapath.PacketOptions{}, func(spec *ebpf.CollectionSpec) error {
		for name, p := range spec.Programs {
			b.instructions[name] = len(p.Instructions)
		}
		return nil
	})
	return b, err
}

func (b *bench) close() error {
	err := b.progs.Close()
	for _, m := range b.maps {
		err = errors.Join(err, m.Close())
	}
	return err
}

// service writes a Service whose backends differ by port.
func (b *bench) service(index uint32, f family) error {
	var errs []error
	put := func(name string, key, value any) { errs = append(errs, b.maps[name].Put(key, value)) }
	for i := range uint32(backends) {
		n := index*backends + i
		put(abi.MapBackends, n, abi.Backend{
			Addr: abi.Addr(f.pod.Addr()), Port: abi.Port(f.pod.Port()), Sets: 3, Service: index, Generation: n, Local: 1,
			State: uint8(abi.BackendActive),
		})
		put(abi.MapSlots, n, abi.Slot{Backend: n})
	}
	put(abi.MapSets, abi.SetIndex(index, abi.SetCluster), abi.SetWord(index*backends, backends))
	bit := abi.FilterBit(abi.Addr(f.vip.Addr()))
	put(abi.MapVIPFilter, bit/64, uint64(1)<<(bit%64))
	put(abi.MapFrontends, abi.NewFrontendKey(f.vip.Addr(), f.vip.Port(), packet.TCP),
		abi.Frontend{Service: index, Flags: abi.FlagLoadBalancer})
	return errors.Join(errs...)
}

func (b *bench) subjects() (all []*subject, err error) {
	for _, name := range []string{"IPv4", "IPv6"} {
		f := families[name]
		request := packet.Frame{Src: f.client, Dst: f.vip, Proto: packet.TCP, Flags: packet.ACK}
		reply := packet.Frame{Src: f.pod, Dst: f.client, Proto: packet.TCP, Flags: packet.ACK}
		others := request
		others.Dst = f.other
		all = append(all,
			&subject{name: name + ": not ours, ingress", packet: others, flows: 1 << 14, prog: b.progs.Ingress, want: pass},
			&subject{name: name + ": not ours, egress (forwarded)", packet: others, flows: 1 << 14, prog: b.progs.Egress, want: pass})
		for _, n := range flowCounts {
			all = append(all, &subject{name: name + ": established, " + countName(n), packet: request, flows: n, prog: b.progs.Ingress, want: pass})
		}
		for _, n := range flowCounts {
			all = append(all, &subject{name: name + ": reply, " + countName(n), packet: reply, reply: true, flows: n, prog: b.progs.Egress, want: pass})
		}
		request.Flags = packet.SYN
		all = append(all, &subject{name: name + ": new flow", packet: request, flows: 1 << 19, prog: b.progs.Ingress, want: pass, fresh: true})
	}
	for _, s := range all {
		if s.harness, err = loadHarnessFor(s, s.prog, !s.fresh); err != nil {
			return nil, err
		}
		if s.nothing, err = loadHarnessFor(s, nil, !s.fresh); err != nil {
			return nil, err
		}
		if s.fresh || s.packet.Dst == families["IPv4"].other || s.packet.Dst == families["IPv6"].other {
			continue
		}
		asks := *s
		if s.reply {
			asks.reply, asks.packet.Src, asks.packet.Dst = false, s.packet.Dst, families[s.family()].vip
		}
		if s.request, err = loadHarnessFor(&asks, b.progs.Ingress, false); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// loadHarnessFor makes a harness that jumps into prog, or to a program that
// does nothing. The order of flows is either that of making or a mixed one.
func loadHarnessFor(s *subject, prog *ebpf.Program, mixed bool) (*ebpf.Collection, error) {
	spec, err := loadHarness()
	if err != nil {
		return nil, err
	}
	var v harnessVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return nil, err
	}
	// Offsets of the low half of the client's address, its port, IPv4's id.
	addr, port, id := uint32(14+14), uint32(14+20), uint32(14+4)
	if s.reply {
		addr, port = 14+18, 14+22
	}
	if !s.packet.Is4() {
		addr, port, id = 14+22, 14+40, 0
		if s.reply {
			addr, port = 14+38, 14+42
		}
	}
	frame := s.packet
	if id != 0 {
		frame.ID = 0xffff // the complement of the address's low half
	}
	var mix uint8
	if mixed {
		mix = 1
	}
	var headers [64]byte
	copy(headers[:], frame.Bytes())
	err = errors.Join(v.AddrOffset.Set(addr), v.PortOffset.Set(port), v.IdOffset.Set(id),
		v.FlowMask.Set(s.flows-1), v.Mixed.Set(mix), v.Headers.Set(headers))
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	if prog == nil {
		prog = coll.Programs["nothing"]
	}
	return coll, coll.Maps["target"].Put(uint32(0), prog)
}

// skb says that a packet is one that the node forwards.
type skb struct {
	_              [36]byte
	IngressIfindex uint32
	_              [152]byte
}

// round measures a subject once, less what the harness costs.
func (b *bench) round(s *subject, packets int) error {
	if s.fresh {
		if err := b.emptyFlows(); err != nil {
			return err
		}
		packets = int(s.flows)
	} else if err := b.makeFlows(s); err != nil {
		return err
	}
	frame := s.packet.Bytes()
	frame = append(frame, make([]byte, max(0, 100-len(frame)))...)
	own, _, err := cost(s.nothing.Programs["harness"], frame, skb{IngressIfindex: 1}, packets)
	if err != nil {
		return err
	}
	all, verdict, err := cost(s.harness.Programs["harness"], frame, skb{IngressIfindex: 1}, packets)
	if err != nil {
		return err
	}
	if int32(verdict) != s.want {
		return fmt.Errorf("verdict %d, want %d", int32(verdict), s.want)
	}
	s.ns = append(s.ns, all-own)
	return nil
}

// makeFlows fills the table with the subject's flows. Any packet of a Service
// makes one if there is none.
func (b *bench) makeFlows(s *subject) error {
	if s.request == nil {
		return nil
	}
	if err := b.emptyFlows(); err != nil {
		return err
	}
	frame := append(s.packet.Bytes(), make([]byte, 100)...)
	_, _, err := cost(s.request.Programs["harness"], frame, nil, int(s.flows))
	return err
}

func (b *bench) emptyFlows() error {
	for _, name := range []string{abi.MapFlows, abi.MapFlowIndex} {
		mem, err := b.maps[name].Memory()
		if err != nil {
			return fmt.Errorf("map %s into memory: %w", name, err)
		}
		if _, err := mem.WriteAt(make([]byte, mem.Size()), 0); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	return nil
}
