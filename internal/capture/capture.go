// SPDX-License-Identifier: Apache-2.0

// Package capture looks at packets as our own programs get them and as they
// leave them, by programs that are attached to those programs. Nothing is
// attached to a device, and nothing is there while nobody captures: what a
// capture attaches and buffers ends with its process, however that ends.
package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/perf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// MaxSnap is how many bytes of a packet may be kept: records of the kernel's are
// shorter than 64 KiB.
const MaxSnap = 60 << 10

// bufferBytes is the room for each CPU. More than 512 KiB would need
// CAP_IPC_LOCK (kernel.perf_event_mlock_kb).
const bufferBytes = 512 << 10

// pause is how often the buffers are looked at while little goes on: nobody is
// woken up by a packet.
const pause = 20 * time.Millisecond

// Target is one of our programs at one end of a device.
type Target struct {
	ID      ebpf.ProgramID
	Ifindex int
	// Egress: it gets what the device sends, not what comes in.
	Egress bool
}

// Filter says which packets are kept. All that it names must hold.
type Filter struct {
	// Ends: only packets that have one of SetEnds before or after.
	Ends bool
	// Address: only packets from or for it, before or after.
	Address netip.Prefix
	// Reasons: only packets for which one of these was counted.
	Reasons []abi.Counter
	// Untouched also keeps packets that are left as they are. With Ends those
	// that ask for one are kept anyway.
	Untouched bool
	// Snap is how many bytes of a packet are kept, at most MaxSnap.
	Snap int
}

// End is who a packet is from or for. Packets without ports, pings and later
// fragments, have the port 0.
type End = abi.FrontendKey

// Capture looks at programs. It belongs to one goroutine.
type Capture struct {
	filter Filter
	shared map[string]*ebpf.Map
	reader *perf.Reader
	eyes   map[Target]*eye
	// beside: the kernel lets nobody be on a program, so eyes are on devices.
	beside bool
	points *eye          // tracepoints, if beside
	pairs  map[bool]*eye // programs of devices, not attached, for egress or not
	ends   map[End]bool
	early  []Packet // read, and perhaps not yet in order
}

// New prepares a capture; Follow begins it. counters is the map of that name of
// the packet path. Close it.
func New(counters *ebpf.Map, f Filter) (_ *Capture, err error) {
	if f.Snap <= 0 || f.Snap > MaxSnap {
		return nil, fmt.Errorf("capture %d bytes of a packet: must be 1 to %d", f.Snap, MaxSnap)
	}
	c := &Capture{filter: f, eyes: map[Target]*eye{}, pairs: map[bool]*eye{}, ends: map[End]bool{}}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	spec, err := loadCapture()
	if err != nil {
		return nil, fmt.Errorf("read programs of the capture: %w", err)
	}
	if c.shared, err = sharedMaps(spec, counters); err != nil {
		return nil, err
	}
	c.reader, err = perf.NewReaderWithOptions(c.shared[captureMapCaptured], bufferBytes, perf.ReaderOptions{Watermark: bufferBytes / 2})
	if err != nil {
		return nil, fmt.Errorf("buffers of the capture: %w", err)
	}
	return c, nil
}

// sharedMaps makes the maps that the programs for all targets share.
func sharedMaps(spec *ebpf.CollectionSpec, counters *ebpf.Map) (map[string]*ebpf.Map, error) {
	shared := map[string]*ebpf.Map{}
	own, err := counters.Clone()
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", abi.MapCounters, err)
	}
	shared[captureMapCounters] = own
	for _, name := range []string{captureMapCaptured, captureMapCaptureLost, captureMapCaptureWork, captureMapEnds} {
		m, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			closeAll(shared)
			return nil, fmt.Errorf("make map %s: %w", name, err)
		}
		shared[name] = m
	}
	return shared, nil
}

func closeAll(shared map[string]*ebpf.Map) {
	for _, m := range shared {
		_ = m.Close()
	}
}

// Follow makes these the programs that are looked at, which are on devices of
// the calling thread's network namespace. Those that are looked at already lose
// nothing. A program or device that is gone meanwhile is no error.
func (c *Capture) Follow(targets []Target) error {
	var errs []error
	wanted := map[Target]bool{}
	for _, t := range targets {
		if !c.beside {
			t.Ifindex = 0 // one program may be on many devices
		}
		if wanted[t] {
			continue
		}
		wanted[t] = true
		err := c.open(t)
		if !c.beside && refused(err) {
			c.beside = true
			return c.Follow(targets)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("look at program %d: %w", t.ID, err))
		}
	}
	for t, e := range c.eyes {
		if !wanted[t] {
			errs = append(errs, e.close())
			delete(c.eyes, t)
		}
	}
	return errors.Join(errs...)
}

// refused reports whether this kernel lets nobody be on a program: some are
// built or hardened so.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported)
}

// Beside reports whether it looks from beside the programs, because this kernel
// lets nobody be on them. Then packets that wait for the address of their next
// hop are known only as they came.
func (c *Capture) Beside() bool { return c.beside }

func (c *Capture) open(t Target) (err error) {
	if c.eyes[t] != nil {
		return nil
	}
	if c.beside && c.points == nil {
		if c.points, err = c.tracepoints(); err != nil {
			return err
		}
	}
	look := c.on
	if c.beside {
		look = c.around
	}
	e, err := look(t)
	if err == nil {
		c.eyes[t] = e
	}
	return err
}

// configure writes the filter into the programs' constants.
func (c *Capture) configure(spec *ebpf.CollectionSpec, egress bool) error {
	var v captureVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return err
	}
	var reasons uint64
	for _, r := range c.filter.Reasons {
		reasons |= 1 << r
	}
	base, mask := bounds(c.filter.Address)
	return errors.Join(
		v.ConfigEnds.Set(flag(c.filter.Ends)),
		v.ConfigUntouched.Set(flag(c.filter.Untouched)),
		v.ConfigReasons.Set(reasons),
		v.ConfigSnap.Set(uint32(c.filter.Snap)),
		v.ConfigAddress.Set(flag(c.filter.Address.IsValid())),
		v.ConfigAddressBase.Set(base),
		v.ConfigAddressMask.Set(mask),
		v.ConfigEgress.Set(flag(egress)),
		v.ConfigNoLinkHeader.Set(flag(true)), // parse() is told where the IP header is,
	)
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// bounds are the first address of a prefix, and the bits that count.
func bounds(p netip.Prefix) (base, mask abi.IP) {
	if !p.IsValid() {
		return base, mask
	}
	var m [16]byte
	for b := range p.Bits() + 128 - p.Addr().BitLen() {
		m[b/8] |= 0x80 >> (b % 8)
	}
	return abi.Addr(p.Masked().Addr()), abi.Addr(netip.AddrFrom16(m))
}

// SetEnds says which ends Filter.Ends means.
func (c *Capture) SetEnds(ends []End) error {
	m := c.shared[captureMapEnds]
	wanted := map[End]bool{}
	for _, e := range ends {
		wanted[e] = true
		if c.ends[e] {
			continue
		}
		if err := m.Put(e, uint8(1)); err != nil {
			return fmt.Errorf("ends of the capture: %w", err)
		}
	}
	for e := range c.ends {
		if wanted[e] {
			continue
		}
		if err := m.Delete(e); err != nil {
			return fmt.Errorf("ends of the capture: %w", err)
		}
	}
	c.ends = wanted
	return nil
}

// Read returns what has come in a short while, in order of time; it may be
// nothing.
func (c *Capture) Read() ([]Packet, error) {
	began := maps.Monotonic()
	c.reader.SetDeadline(time.Now().Add(pause))
	var record perf.Record
	for {
		err := c.reader.ReadInto(&record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read captured packets: %w", err)
		}
		if len(record.RawSample) == 0 {
			continue // it tells of lost ones, which the programs count as well
		}
		p, err := c.packet(record.RawSample)
		if err != nil {
			return nil, err
		}
		c.early = append(c.early, p)
	}
	// Every CPU has a buffer of its own, so what began later is not in order yet.
	return c.take(began), nil
}

// Rest returns what Read has held back.
func (c *Capture) Rest() []Packet { return c.take(^uint64(0)) }

// take takes the packets out that began before a time.
func (c *Capture) take(before uint64) []Packet {
	slices.SortStableFunc(c.early, func(a, b Packet) int { return cmp.Compare(a.Nanoseconds, b.Nanoseconds) })
	n, _ := slices.BinarySearchFunc(c.early, before, func(p Packet, t uint64) int { return cmp.Compare(p.Nanoseconds, t) })
	done := slices.Clone(c.early[:n])
	c.early = slices.Delete(c.early, 0, n)
	return done
}

func (c *Capture) packet(sample []byte) (Packet, error) {
	const size = int(unsafe.Sizeof(captureCaptureRecord{}))
	if len(sample) < size {
		return Packet{}, fmt.Errorf("read captured packets: one has %d bytes, at least %d are expected", len(sample), size)
	}
	var r captureCaptureRecord
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), size), sample)
	return newPacket(&r, sample[size:], c.filter.Snap), nil
}

// Lost is how many packets found no room so far.
func (c *Capture) Lost() (n uint64, err error) {
	if err := c.shared[captureMapCaptureLost].Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("lost packets: %w", err)
	}
	return n, nil
}

// Close ends the capture; nothing of it is left in the kernel.
func (c *Capture) Close() error {
	var errs []error
	for _, e := range c.eyes {
		errs = append(errs, e.close())
	}
	clear(c.eyes)
	for _, e := range c.pairs {
		errs = append(errs, e.close())
	}
	if c.points != nil {
		errs = append(errs, c.points.close())
	}
	if c.reader != nil {
		errs = append(errs, c.reader.Close())
	}
	closeAll(c.shared)
	return errors.Join(errs...)
}
