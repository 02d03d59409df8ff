// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// dryRunReads are the maps of the node that a dry run looks at. Whatever else
// the programs know it gets an own copy of, empty, so that counters and tokens
// of the node stay what they are. It writes none of these: every store to them
// is behind config_dry_run.
var dryRunReads = []string{
	abi.MapVIPFilter, abi.MapFrontends, abi.MapSets, abi.MapSlots, abi.MapBackends,
	abi.MapLocalAddrs, abi.MapPodRanges, abi.MapSourceRanges, abi.MapEgressAddrs, abi.MapReservedPorts,
	abi.MapFlows, abi.MapFlowIndex, abi.MapAffinities, abi.MapKeptFlows,
}

// DryRun asks the packet programs what they would do with a packet, on the
// node's live tables, without any trace of it left behind.
type DryRun struct {
	coll *ebpf.Collection
	// Tags of the loaded programs, by direction: "ingress" and "egress".
	Tags map[string]string
}

// DryVerdict is what a tc program returns.
type DryVerdict int32

// The verdicts that our programs give.
const (
	DryPass     DryVerdict = -1 // TC_ACT_UNSPEC: on to the next program, then the stack
	DryDrop     DryVerdict = 2  // TC_ACT_SHOT
	DryRedirect DryVerdict = 7  // TC_ACT_REDIRECT: straight to a device
)

// DryResult is what would become of a packet.
type DryResult struct {
	Verdict DryVerdict
	// Packet is what it would have been turned into.
	Packet []byte
	Trace  abi.Trace
	// Counters are those that would have been incremented.
	Counters []abi.Counter
}

// NewDryRun loads the programs with the given settings against open maps.
func NewDryRun(maps map[string]*ebpf.Map, opts PacketOptions) (*DryRun, error) {
	return newDryRun(maps, func(spec *ebpf.CollectionSpec) error { return opts.apply(spec, maps) })
}

// DryRunOf loads the programs with the settings of those that run on a device.
func DryRunOf(maps map[string]*ebpf.Map, dev DeviceProgram) (*DryRun, error) {
	return newDryRun(maps, func(spec *ebpf.CollectionSpec) error {
		return dev.copySettings(spec)
	})
}

// copySettings gives the programs of spec the settings of the one on the device.
func (dev DeviceProgram) copySettings(spec *ebpf.CollectionSpec) error {
	live, err := settingsOf(dev.ID)
	if err != nil {
		return err
	}
	if rodata := spec.Maps[rodataMap]; rodata == nil || len(live) != int(rodata.ValueSize) {
		return fmt.Errorf("the settings of program %d have another layout: it is another version's", dev.ID)
	}
	for _, v := range spec.Variables {
		if v.SectionName == rodataMap {
			v.Value = slices.Clone(live[v.Offset : v.Offset+v.Size()])
		}
	}
	return nil
}

func newDryRun(maps map[string]*ebpf.Map, configure func(*ebpf.CollectionSpec) error) (*DryRun, error) {
	spec, err := loadTc()
	if err != nil {
		return nil, fmt.Errorf("read packet programs: %w", err)
	}
	dropUnused(spec)
	read := map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		if m := maps[name]; m != nil && slices.Contains(dryRunReads, name) {
			s.MaxEntries = m.MaxEntries()
			read[name] = m
		}
	}
	if err := configure(spec); err != nil {
		return nil, fmt.Errorf("settings of the dry run: %w", err)
	}
	var v tcVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return nil, fmt.Errorf("settings of the dry run: %w", err)
	}
	if err := v.ConfigDryRun.Set(flag(true)); err != nil {
		return nil, fmt.Errorf("settings of the dry run: %w", err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: read})
	if err != nil {
		return nil, fmt.Errorf("load packet programs for a dry run: %w", explain(err))
	}
	d := &DryRun{coll: coll, Tags: map[string]string{}}
	for dir, symbol := range symbols() {
		info, err := coll.Programs[symbol].Info()
		if err != nil {
			coll.Close()
			return nil, fmt.Errorf("dry run: %w", err)
		}
		d.Tags[string(dir)] = info.Tag
	}
	return d, nil
}

// dropUnused leaves out the maps that a header declares and no program uses.
func dropUnused(spec *ebpf.CollectionSpec) {
	used := map[string]bool{}
	for _, p := range spec.Programs {
		for i := range p.Instructions {
			used[p.Instructions[i].Reference()] = true
		}
	}
	for name := range spec.Maps {
		if !used[name] && !strings.HasPrefix(name, ".") {
			delete(spec.Maps, name)
		}
	}
}

// symbols are the programs' names in the object.
func symbols() map[direction]string {
	return map[direction]string{ingress: tcProgBeelineIngress, egress: tcProgBeelineEgress}
}

// Close unloads it.
func (d *DryRun) Close() error {
	d.coll.Close()
	return nil
}

// packetContext is the part of struct __sk_buff that a run may set.
type packetContext struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [148]byte
}

// Run asks about a packet that has come in by a device, or, for direction
// "egress", one that this node's own sockets send out by it. It must run in the
// network namespace of that device.
func (d *DryRun) Run(dir string, ifindex int, packet []byte) (DryResult, error) {
	prog := d.coll.Programs[symbols()[direction(dir)]]
	if prog == nil {
		return DryResult{}, fmt.Errorf("dry run: direction %q", dir)
	}
	trace := d.coll.Variables["trace"]
	if err := trace.Set(abi.Trace{}); err != nil {
		return DryResult{}, fmt.Errorf("dry run: %w", err)
	}
	before, err := d.counters()
	if err != nil {
		return DryResult{}, err
	}
	const growth = 256 // an ICMP answer is longer than what it answers
	opts := ebpf.RunOptions{
		Data: packet, DataOut: make([]byte, len(packet)+growth),
		Context: packetContext{Ifindex: uint32(ifindex)}, Repeat: 1,
	}
	runtime.LockOSThread() // tokens are by CPU; a thread that stays is answered alike
	verdict, err := prog.Run(&opts)
	runtime.UnlockOSThread()
	if err != nil {
		return DryResult{}, fmt.Errorf("dry run on device %d: %w", ifindex, err)
	}
	r := DryResult{Verdict: DryVerdict(int32(verdict)), Packet: opts.DataOut}
	if err := trace.Get(&r.Trace); err != nil {
		return DryResult{}, fmt.Errorf("dry run: %w", err)
	}
	after, err := d.counters()
	if err != nil {
		return DryResult{}, err
	}
	for c := range after {
		if after[c] != before[c] {
			r.Counters = append(r.Counters, abi.Counter(c))
		}
	}
	return r, nil
}

func (d *DryRun) counters() (sums [abi.Counters]uint64, err error) {
	for i := range sums {
		var perCPU []uint64
		if err := d.coll.Maps[abi.MapCounters].Lookup(uint32(i), &perCPU); err != nil {
			return sums, fmt.Errorf("dry run: counter %v: %w", abi.Counter(i), err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return sums, nil
}

// Settings reads back what a program on a device was loaded with, apart from
// limits, timeouts and the seed.
func (dev DeviceProgram) Settings() (o PacketOptions, err error) {
	spec, err := loadTc()
	if err != nil {
		return o, fmt.Errorf("read packet programs: %w", err)
	}
	if err := dev.copySettings(spec); err != nil {
		return o, err
	}
	var v tcVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return o, fmt.Errorf("settings of program %d: %w", dev.ID, err)
	}
	var clusterIPOutside bool
	err = errors.Join(
		getFlag(v.ConfigNoLinkHeader, &o.NoLinkHeader), getFlag(v.ConfigPodDevice, &o.PodDevice),
		getFlag(v.ConfigRefuseUnknownPorts, &o.RefuseUnknownPorts),
		getFlag(v.ConfigDetectLocal4, &o.DetectLocal4), getFlag(v.ConfigDetectLocal6, &o.DetectLocal6),
		getFlag(v.ConfigMasqueradeAll, &o.MasqueradeAll), getFlag(v.ConfigMasqueradeLocal, &o.MasqueradeLocal),
		getFlag(v.ConfigClusterIpOutside, &clusterIPOutside),
		getFlag(v.ConfigLeaveUnknown, &o.LeaveUnknown), getFlag(v.ConfigRefuseNew, &o.Handover.RefuseNew),
		o.readServiceRanges(&v),
	)
	o.CloseClusterIPs = !clusterIPOutside
	return o, err
}

// readServiceRanges is the reverse of applyServiceRanges.
func (o *PacketOptions) readServiceRanges(v *tcVariableSpecs) error {
	var base, mask [serviceRanges]abi.IP
	var n uint32
	err := errors.Join(v.ConfigServiceRangeBase.Get(&base), v.ConfigServiceRangeMask.Get(&mask), v.ConfigServiceRangeCount.Get(&n))
	if err != nil {
		return err
	}
	for i := range min(int(n), serviceRanges) {
		ones := 0
		for _, word := range mask[i].Word {
			ones += bits.OnesCount32(word)
		}
		addr := abi.NetIP(base[i])
		o.ServiceRanges = append(o.ServiceRanges, netip.PrefixFrom(addr, ones-(128-addr.BitLen())))
	}
	return nil
}

func getFlag(v *ebpf.VariableSpec, to *bool) error {
	var value uint8
	err := v.Get(&value)
	*to = value != 0
	return err
}

// rodataMap is where compiled settings are.
const rodataMap = ".rodata"

// settingsOf reads the settings that a program in the kernel was loaded with.
func settingsOf(id ebpf.ProgramID) ([]byte, error) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, fmt.Errorf("program %d: %w", id, err)
	}
	defer func() { _ = prog.Close() }()
	info, err := prog.Info()
	if err != nil {
		return nil, fmt.Errorf("program %d: %w", id, err)
	}
	ids, _ := info.MapIDs()
	for _, mapID := range ids {
		value, err := rodataOf(mapID)
		if err != nil || value != nil {
			return value, err
		}
	}
	return nil, fmt.Errorf("program %d has no settings", id)
}

// rodataOf is the content of a map of settings, nil if it is another map.
func rodataOf(id ebpf.MapID) ([]byte, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", id, err)
	}
	defer func() { _ = m.Close() }()
	info, err := m.Info()
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", id, err)
	}
	if !strings.HasSuffix(info.Name, rodataMap) {
		return nil, nil
	}
	value, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("map %d: %w", id, err)
	}
	return value, nil
}

// DeviceProgram is one of our programs at one end of a device.
type DeviceProgram struct {
	Ifindex   int
	Direction string // "ingress" or "egress"
	ID        ebpf.ProgramID
	Tag       string
}

// Egress reports whether it gets what the device sends.
func (dev DeviceProgram) Egress() bool { return direction(dev.Direction) == egress }

// DevicePrograms lists our programs on the devices of this network namespace,
// sorted by device; none where the packet path is off.
func DevicePrograms(p Pins) ([]DeviceProgram, error) {
	var all []DeviceProgram
	for _, how := range p.attachers() {
		places, err := how.places()
		if err != nil {
			return nil, err
		}
		for _, at := range places {
			id, err := how.program(at)
			if err != nil {
				continue // its device went meanwhile
			}
			tag, err := programTag(id)
			if err != nil {
				return nil, fmt.Errorf("device %d: %w", at.ifindex, err)
			}
			all = append(all, DeviceProgram{at.ifindex, string(at.direction), id, tag})
		}
	}
	slices.SortFunc(all, func(a, b DeviceProgram) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), strings.Compare(a.Direction, b.Direction))
	})
	return all, nil
}

func programTag(id ebpf.ProgramID) (string, error) {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	defer func() { _ = prog.Close() }()
	info, err := prog.Info()
	if err != nil {
		return "", fmt.Errorf("program %d: %w", id, err)
	}
	return info.Tag, nil
}

// SocketSettings reads back what the socket programs were loaded with, by the
// names in bpf/lib; numbers only.
func SocketSettings(p Pins) (map[string]uint64, error) {
	spec, err := loadSock()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	info, err := pinnedLinkInfo(filepath.Join(p.links(), "beeline_connect4"))
	if err != nil {
		return nil, err
	}
	live, err := settingsOf(info.Program)
	if err != nil {
		return nil, err
	}
	if rodata := spec.Maps[rodataMap]; rodata == nil || len(live) != int(rodata.ValueSize) {
		return nil, fmt.Errorf("the settings of program %d have another layout: it is another version's", info.Program)
	}
	values := map[string]uint64{}
	for name, v := range spec.Variables {
		const widest = 8
		if size := v.Size(); v.SectionName == rodataMap && size <= widest {
			var b [widest]byte
			copy(b[:], live[v.Offset:v.Offset+size])
			values[name] = binary.LittleEndian.Uint64(b[:])
		}
	}
	return values, nil
}
