// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNotSupported says that this kernel lacks what is needed.
var ErrNotSupported = ebpf.ErrNotSupported

// Device is a device that the packet path is to be on.
type Device struct {
	Index int
	Name  string
	// NoLinkHeader, Pod and Trunk choose the variant of the programs, see
	// PacketOptions.
	NoLinkHeader, Pod bool
	// EgressOnly: what comes in is for another device, a bridge, to see.
	EgressOnly bool
	// Trunk: what has a VLAN tag is for that VLAN's device to see.
	Trunk bool
}

// places are the ends of the device that carry programs.
func (d Device) places() []place {
	if d.EgressOnly {
		return []place{{d.Index, egress}}
	}
	return []place{{d.Index, ingress}, {d.Index, egress}}
}

// Devices keeps the packet programs on devices: one pair of programs for each
// kind of device, one attachment for each device and direction, which outlives
// the agent and is taken over by the next. Programs of others stay, keep their
// order, and run. Ours stand where kube-proxy's rules would: behind all others
// of what comes in, in front of them of what goes out.
//
// Its methods are safe for concurrent use. They look at the network namespace of
// the calling thread.
type Devices struct {
	dp   *Datapath
	opts PacketOptions

	mu       sync.Mutex
	how      attacher
	programs map[kind]*PacketPrograms
	attached map[place]bool
	have     map[int]Device // those that are done, by index
	restored int
}

// kind is what programs differ in.
type kind struct{ noLinkHeader, pod, trunk bool }

// place is one end of a device.
type place struct {
	ifindex   int
	direction direction
}

// direction is an end of a device; its text is part of the pins' names.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// attacher is a way to put programs on devices, in the network namespace of
// the calling thread.
type attacher interface {
	// way names it.
	way() string
	// put places a program, or replaces the one of ours that is there in one
	// step. ErrNotSupported: the kernel does not know this way.
	put(at place, prog *ebpf.Program) error
	// places lists where programs of ours are, those of earlier agents too.
	places() ([]place, error)
	// remove takes ours away at once; that the device is gone is no error.
	remove(at place) error
	// program names the program of ours that is there.
	program(at place) (ebpf.ProgramID, error)
	// check says what is wrong with an attachment.
	check(at place) error
	close() error
}

// Devices prepares the packet path, which must be on in the Options that the
// Datapath was opened with. Nothing is attached before Set.
func (d *Datapath) Devices() (*Devices, error) {
	opts := *d.opts.Packet
	opts.Handover = d.opts.Handover
	seed, err := d.flowSeed()
	if err != nil {
		return nil, err
	}
	opts.FlowSeed = seed
	v := &Devices{
		dp: d, opts: opts, how: newTCX(d.pins),
		programs: map[kind]*PacketPrograms{},
		attached: map[place]bool{},
		have:     map[int]Device{},
	}
	if opts.Clsact {
		v.how = clsact{d.pins}
	}
	return v, nil
}

// Set makes want the devices that carry the programs. A device that fails does
// not keep the others from being served; the error names each. One that is gone
// meanwhile is no error. What somebody took away since is put back.
func (v *Devices) Set(want []Device) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	v.dp.catchUp() // so that little is left to do once programs are replaced
	wanted, behind := map[place]bool{}, false
	for _, dev := range want {
		for _, at := range dev.places() {
			wanted[at] = true
		}
		if err := v.attach(dev); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("device %s: %w", dev.Name, err))
			behind = behind || v.carries(dev)
		}
	}
	swept := v.sweep(wanted)
	errs = append(errs, swept...)
	if behind || errors.Join(swept...) != nil {
		return errors.Join(errs...) // programs of the last agent use the old maps
	}
	return errors.Join(append(errs, v.dp.settle())...)
}

// carries reports whether a program of ours is on a device, perhaps the last
// agent's.
func (v *Devices) carries(dev Device) bool {
	return slices.ContainsFunc(dev.places(), func(at place) bool {
		_, err := v.how.program(at)
		return err == nil
	})
}

// GiveUp takes the packet path off all devices if its programs use maps that have
// moved, and ends the move. Where none have moved, programs of the last agent go on
// with the maps that are in use.
func (d *Datapath) GiveUp() error {
	if d.moving == nil {
		return nil
	}
	return errors.Join(d.pins.detachDevices(), d.settle())
}

// SetServiceRanges changes the ranges of which ClusterIPs are taken; the next
// Set puts it into effect. There is room for eight: any more are left out.
func (v *Devices) SetServiceRanges(ranges []netip.Prefix) {
	if len(ranges) > serviceRanges {
		v.dp.log.Warn("too many Service ranges: unassigned addresses of some are not dropped", "ranges", len(ranges), "room", serviceRanges)
		ranges = ranges[:serviceRanges]
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Equal(v.opts.ServiceRanges, ranges) {
		return
	}
	v.opts.ServiceRanges = slices.Clone(ranges)
	for _, p := range v.programs {
		_ = p.Close() // what is attached goes on until it is replaced
	}
	clear(v.programs)
	clear(v.have)
}

func (v *Devices) attach(dev Device) error {
	missing := false
	if have, ok := v.have[dev.Index]; ok && have == dev {
		err := v.checkDevice(dev.Index, dev.places())
		if err == nil {
			return nil
		}
		missing = true
		v.dp.log.Warn("programs were taken off a device; putting them back", "device", dev.Name, "err", err)
	}
	programs, err := v.load(kind{dev.NoLinkHeader, dev.Pod, dev.Trunk})
	if err != nil {
		return err
	}
	for _, at := range dev.places() {
		prog := map[direction]*ebpf.Program{ingress: programs.Ingress, egress: programs.Egress}[at.direction]
		if err := v.put(at, prog); err != nil {
			return fmt.Errorf("attach to %s: %w", at.direction, err)
		}
		v.attached[at] = true
	}
	v.have[dev.Index] = dev
	if missing {
		v.restored++
	}
	return nil
}

// Restored is how often a device had its programs put back, because somebody
// had taken them off.
func (v *Devices) Restored() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.restored
}

// put places a program by tcx, or, where the kernel has none, by clsact.
func (v *Devices) put(at place, prog *ebpf.Program) error {
	err := v.how.put(at, prog)
	if _, isTCX := v.how.(*tcx); !isTCX || !errors.Is(err, ErrNotSupported) {
		return err
	}
	v.dp.log.Info("no tcx, which came with Linux 6.6: the packet path uses clsact filters")
	v.how = clsact{v.dp.pins}
	return v.how.put(at, prog)
}

// Load loads the programs, so that a kernel that cannot carry them says so
// before any device is looked at.
func (v *Devices) Load() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := v.load(kind{})
	return err
}

func (v *Devices) load(k kind) (*PacketPrograms, error) {
	if p := v.programs[k]; p != nil {
		return p, nil
	}
	opts := v.opts
	opts.NoLinkHeader, opts.PodDevice, opts.LeaveTagged = k.noLinkHeader, k.pod, k.trunk
	p, err := LoadPacketPrograms(v.dp.maps, opts)
	if err != nil {
		return nil, err
	}
	v.programs[k] = p
	return p, nil
}

// sweep takes the programs off every device that is not wanted, those that an
// earlier agent had put there among them, and whatever was attached in another
// way than now.
func (v *Devices) sweep(wanted map[place]bool) (errs []error) {
	v.forget(wanted)
	for _, how := range v.dp.pins.attachers() {
		same := how.way() == v.how.way()
		if same {
			how = v.how
		}
		places, err := how.places()
		errs = append(errs, err)
		for _, at := range places {
			if !same || !wanted[at] {
				errs = append(errs, how.remove(at))
			}
		}
	}
	return errs
}

// forget makes the books of what is wanted only. A device that is gone takes its
// programs with it, and another may get its number.
func (v *Devices) forget(wanted map[place]bool) {
	for at := range v.attached {
		if !wanted[at] {
			delete(v.attached, at)
		}
	}
	for ifindex := range v.have {
		if !wanted[place{ifindex, egress}] {
			delete(v.have, ifindex)
		}
	}
}

// flowSeedMap is the pin of the flow hash's secret.
const flowSeedMap = "flow_seed"

// flowSeed is the secret of the flow hash. It lives as long as the flows do, in
// a map of its own beside theirs.
func (d *Datapath) flowSeed() (seed uint64, err error) {
	const key = uint32(0)
	m, err := d.openOrCreateMap(filepath.Join(d.pins.maps(), flowSeedMap), &ebpf.MapSpec{
		Name: flowSeedMap, Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		return 0, fmt.Errorf("seed of the flow hash: %w", err)
	}
	defer func() { _ = m.Close() }()
	if err := m.Lookup(key, &seed); err != nil {
		return 0, fmt.Errorf("seed of the flow hash: %w", err)
	}
	for seed == 0 {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		seed = binary.NativeEndian.Uint64(b[:])
		if err := m.Put(key, seed); err != nil {
			return 0, fmt.Errorf("seed of the flow hash: %w", err)
		}
	}
	return seed, nil
}

// Check reports what is wrong: an attachment that somebody took away. That a
// device is gone is not.
func (v *Devices) Check() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := map[int][]place{}
	for at := range v.attached {
		all[at.ifindex] = append(all[at.ifindex], at)
	}
	var errs []error
	for _, ifindex := range slices.Sorted(maps.Keys(all)) {
		if err := v.checkDevice(ifindex, all[ifindex]); err != nil {
			name := v.have[ifindex].Name
			if name == "" {
				name = strconv.Itoa(ifindex)
			}
			errs = append(errs, fmt.Errorf("device %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// checkDevice says what is wrong at places of one device.
func (v *Devices) checkDevice(ifindex int, places []place) error {
	var errs []error
	for _, at := range places {
		if err := v.how.check(at); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at.direction, err))
		}
	}
	if len(errs) > 0 && deviceGone(ifindex) {
		return nil
	}
	return errors.Join(errs...)
}

func deviceGone(ifindex int) bool {
	_, err := netlink.LinkByIndex(ifindex)
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone)
}

// Close gives up this process's hold; what is attached goes on.
func (v *Devices) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	errs := []error{v.how.close()}
	for _, p := range v.programs {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// attachers are all ways in which an agent may have attached.
func (p Pins) attachers() []attacher { return []attacher{newTCX(p), clsact{p}} }

// detachDevices takes the programs off all devices of this network namespace,
// whichever way they came there.
func (p Pins) detachDevices() error {
	var errs []error
	for _, how := range p.attachers() {
		places, err := how.places()
		errs = append(errs, err)
		for _, at := range places {
			errs = append(errs, how.remove(at))
		}
	}
	return errors.Join(errs...)
}

// removePacketPath takes away what an agent with a packet path has left: off
// means clean, and its tables would be stale when it is switched on again.
func (p Pins) removePacketPath() error {
	errs := []error{p.detachDevices()}
	all, err := mapSpecs(true)
	if err != nil {
		return err
	}
	sockets, err := mapSpecs(false)
	if err != nil {
		return err
	}
	all[flowSeedMap] = nil
	for name := range all {
		if sockets[name] == nil {
			errs = append(errs, removeIfExists(filepath.Join(p.maps(), name)))
		}
	}
	return errors.Join(errs...)
}
