// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ErrNotSupported says that this kernel lacks what is needed.
var ErrNotSupported = ebpf.ErrNotSupported

// Device is a device that the packet path is to be on.
type Device struct {
	Index int
	Name  string
	// NoLinkHeader and Pod choose the variant of the programs, see
	// PacketOptions.
	NoLinkHeader, Pod bool
}

// Devices keeps the packet programs on devices: one pair of programs for each
// kind of device, one pinned link for each device and direction. Programs of
// others stay and keep their order: ours are the last of the chain when they
// come, and let the next one run.
type Devices struct {
	dp   *Datapath
	opts PacketOptions

	programs map[kind]*PacketPrograms
	attached map[place]link.Link
	kinds    map[int]kind
}

// kind is what programs differ in.
type kind struct{ noLinkHeader, pod bool }

// place is one end of a device.
type place struct {
	ifindex   int
	direction string // "ingress" or "egress"
}

// directions are the two ends of a device and what goes there.
var directions = []struct {
	name    string
	attach  ebpf.AttachType
	program func(*PacketPrograms) *ebpf.Program
}{
	{"ingress", ebpf.AttachTCXIngress, func(p *PacketPrograms) *ebpf.Program { return p.Ingress }},
	{"egress", ebpf.AttachTCXEgress, func(p *PacketPrograms) *ebpf.Program { return p.Egress }},
}

// Devices prepares the packet path, which must be on in the Options that the
// Datapath was opened with. Nothing is attached before Set.
func (d *Datapath) Devices() (*Devices, error) {
	if err := os.MkdirAll(d.pins.devices(), 0o700); err != nil {
		return nil, fmt.Errorf("pin folder: %w", err)
	}
	opts := *d.opts.Packet
	seed, err := d.flowSeed()
	if err != nil {
		return nil, err
	}
	opts.FlowSeed = seed
	return &Devices{
		dp: d, opts: opts,
		programs: map[kind]*PacketPrograms{},
		attached: map[place]link.Link{},
		kinds:    map[int]kind{},
	}, nil
}

// Set makes want the devices that carry the programs. A device that fails does
// not keep the others from being served; the error names each. One that is gone
// meanwhile is no error.
func (v *Devices) Set(want []Device) error {
	var errs []error
	wanted := map[int]bool{}
	for _, dev := range want {
		wanted[dev.Index] = true
		if err := v.attach(dev); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("device %s: %w", dev.Name, err))
		}
	}
	return errors.Join(append(errs, v.sweep(wanted))...)
}

func (v *Devices) attach(dev Device) error {
	k := kind{dev.NoLinkHeader, dev.Pod}
	if have, ok := v.kinds[dev.Index]; ok && have == k {
		return nil
	}
	programs, err := v.load(k)
	if err != nil {
		return err
	}
	for _, dir := range directions {
		at := place{dev.Index, dir.name}
		l, err := v.put(at, dir.attach, dir.program(programs))
		if err != nil {
			return fmt.Errorf("attach to %s: %w", dir.name, err)
		}
		v.attached[at] = l
	}
	v.kinds[dev.Index] = k
	return nil
}

func (v *Devices) load(k kind) (*PacketPrograms, error) {
	if p := v.programs[k]; p != nil {
		return p, nil
	}
	opts := v.opts
	opts.NoLinkHeader, opts.PodDevice = k.noLinkHeader, k.pod
	p, err := LoadPacketPrograms(v.dp.maps, opts)
	if err != nil {
		return nil, err
	}
	v.programs[k] = p
	return p, nil
}

// put places a program: behind the link that is there, of this agent or of an
// earlier one, or behind a new one.
func (v *Devices) put(at place, typ ebpf.AttachType, prog *ebpf.Program) (link.Link, error) {
	l, err := v.adopt(at)
	if err != nil {
		return nil, err
	}
	if l != nil {
		if err := l.Update(prog); err != nil {
			_ = l.Close()
			return nil, fmt.Errorf("replace program: %w", err)
		}
		return l, nil
	}
	// A link that was let go a moment ago may hold the place still, because the
	// kernel frees links in the background.
	for range 50 {
		l, err = link.AttachTCX(link.TCXOptions{Interface: at.ifindex, Program: prog, Attach: typ})
		if !errors.Is(err, unix.EEXIST) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return nil, err
	}
	if err := l.Pin(v.dp.pins.device(at)); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("pin link: %w", err)
	}
	return l, nil
}

// adopt returns the link at a place, nil if there is none. A pinned link whose
// device is gone has a number that another device may have now.
func (v *Devices) adopt(at place) (link.Link, error) {
	if l := v.attached[at]; l != nil {
		return l, nil
	}
	path := v.dp.pins.device(at)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	if info, err := l.Info(); err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == at.ifindex {
		return l, nil
	}
	_ = l.Close()
	return nil, removeIfExists(path)
}

// sweep takes the programs off every device that is not wanted, those that an
// earlier agent had put there among them.
func (v *Devices) sweep(wanted map[int]bool) error {
	entries, err := os.ReadDir(v.dp.pins.devices())
	if err != nil {
		return fmt.Errorf("list pinned links of devices: %w", err)
	}
	var errs []error
	for _, e := range entries {
		at, ok := parsePlace(e.Name())
		if !ok || wanted[at.ifindex] {
			continue
		}
		if l := v.attached[at]; l != nil {
			_ = l.Close()
			delete(v.attached, at)
		}
		delete(v.kinds, at.ifindex)
		path := filepath.Join(v.dp.pins.devices(), e.Name())
		// At once, not when the kernel gets round to it: the device may be
		// wanted again. A link whose device is gone cannot be detached.
		if detach(path) != nil {
			errs = append(errs, removeIfExists(path))
		}
	}
	return errors.Join(errs...)
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

// Check reports what is wrong: a link that somebody detached.
func (v *Devices) Check() error {
	var errs []error
	for at, l := range v.attached {
		info, err := l.Info()
		if err != nil {
			errs = append(errs, fmt.Errorf("device %d, %s: %w", at.ifindex, at.direction, err))
			continue
		}
		if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != at.ifindex {
			errs = append(errs, fmt.Errorf("device %d, %s: not attached any more", at.ifindex, at.direction))
		}
	}
	return errors.Join(errs...)
}

// Close gives up this process's hold; what is attached goes on.
func (v *Devices) Close() error {
	var errs []error
	for _, p := range v.programs {
		errs = append(errs, p.Close())
	}
	for _, l := range v.attached {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// removePacketPath takes away what an agent with a packet path has left: off
// means clean, and its tables would be stale when it is switched on again.
func (p Pins) removePacketPath() error {
	links, err := filepath.Glob(filepath.Join(p.devices(), "*"))
	if err != nil {
		return fmt.Errorf("list pinned links of devices: %w", err)
	}
	var errs []error
	for _, path := range links {
		if detach(path) != nil { // its device is gone
			errs = append(errs, removeIfExists(path))
		}
	}
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

// devices is where the links of devices are pinned, as "<ifindex>-<direction>".
func (p Pins) devices() string { return filepath.Join(p.layout(), "devices") }

func (p Pins) device(at place) string {
	return filepath.Join(p.devices(), fmt.Sprintf("%d-%s", at.ifindex, at.direction))
}

func parsePlace(name string) (place, bool) {
	number, direction, ok := strings.Cut(name, "-")
	ifindex, err := strconv.Atoi(number)
	return place{ifindex, direction}, ok && err == nil
}
