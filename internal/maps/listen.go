// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// How long programs go on telling a listener that does not renew its lease, and
// how long nobody else takes its place.
const (
	listenLease = 5 * time.Second
	placeLease  = 30 * time.Second
)

// ringBytes is the size of a listener's ring buffer: about 25,000 events.
const ringBytes = 4 << 20

// listenPause is how often a listener looks for events: programs wake nobody.
const listenPause = 20 * time.Millisecond

// ErrListeners says that no more may listen.
var ErrListeners = fmt.Errorf("%d listeners there are already, and there is no room for more", abi.MaxListeners)

// errPlaceLost is what a listener gets that stood still for so long that its
// place was given away.
var errPlaceLost = errors.New("this listener stood still for too long, and another has taken its place")

// EventFilter says which events a listener gets.
type EventFilter struct {
	// Kinds of events; none means all.
	Kinds []abi.EventKind
	// Service is the index of the only Service port of interest, or
	// abi.ServiceNone for all.
	Service uint32
}

func (f EventFilter) kinds() (mask uint32) {
	for _, k := range f.Kinds {
		mask |= 1 << uint32(k)
	}
	if mask == 0 {
		return 1<<uint32(abi.EventKinds) - 1
	}
	return mask
}

// listenerTable is the table of who listens, in shared memory.
type listenerTable struct {
	places, rings *ebpf.Map
	mem           []byte // while open
}

func (o *opener) listeners() *listenerTable {
	if o.kernel[abi.MapListeners] == nil || o.kernel[abi.MapEventRings] == nil {
		return nil // the programs are those of an earlier version
	}
	return &listenerTable{
		places: o.find(abi.MapListeners, 4, unsafe.Sizeof(abi.ListenerPlaces{})),
		rings:  o.find(abi.MapEventRings, 4, 4),
	}
}

// open maps the table, also for tables that were opened for reading only: to
// listen is to write there.
func (t *listenerTable) open() (*abi.ListenerPlaces, error) {
	mem, err := unix.Mmap(t.places.FD(), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: mmap: %w", abi.MapListeners, err)
	}
	t.mem = mem
	return (*abi.ListenerPlaces)(unsafe.Pointer(&mem[0])), nil
}

func (t *listenerTable) close() error {
	if err := unix.Munmap(t.mem); err != nil {
		return fmt.Errorf("map %s: munmap: %w", abi.MapListeners, err)
	}
	return nil
}

// Listener gets events from programs, in a ring buffer of its own. What it is
// too slow for is lost and counted. It belongs to one goroutine. It lives on a
// lease that reading renews, so one that is killed is forgotten soon.
type Listener struct {
	table  listenerTable
	shared *abi.ListenerPlaces
	place  uint32
	lease  uint64 // of the place, as we have written it
	renew  uint64 // when it is time, CLOCK_MONOTONIC
	ring   *ebpf.Map
	reader *ringbuf.Reader
	record ringbuf.Record
}

// Listen makes programs tell events from now on. Close it.
func (t *Tables) Listen(f EventFilter) (*Listener, error) {
	if t.listeners == nil {
		return nil, errors.New("listen: these programs tell no events; they are an earlier version's")
	}
	table := *t.listeners
	shared, err := table.open()
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l := &Listener{table: table, shared: shared}
	if err := l.start(f); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), table.close())
	}
	return l, nil
}

func (l *Listener) start(f EventFilter) (err error) {
	if !l.claim(Monotonic()) {
		return ErrListeners
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.leave())
		}
	}()
	l.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "event_ring", Type: ebpf.RingBuf, MaxEntries: ringBytes})
	if err != nil {
		return fmt.Errorf("ring buffer: %w", err)
	}
	if l.reader, err = ringbuf.NewReader(l.ring); err != nil {
		return fmt.Errorf("ring buffer: %w", err)
	}
	if err := l.table.rings.Put(l.place, l.ring); err != nil {
		return fmt.Errorf("ring buffer: %w", err)
	}
	at := &l.shared.Listener[l.place]
	atomic.StoreUint32(&at.Kinds, f.kinds())
	atomic.StoreUint32(&at.Service, f.Service)
	atomic.StoreUint64(&l.shared.Lost[l.place], 0)
	return l.extend(Monotonic())
}

// claim takes a place that is nobody's, or whose owner is gone.
func (l *Listener) claim(now uint64) bool {
	for i := range l.shared.Owner {
		owner := atomic.LoadUint64(&l.shared.Owner[i])
		lease := now + uint64(placeLease)
		if owner < now && atomic.CompareAndSwapUint64(&l.shared.Owner[i], owner, lease) {
			l.place, l.lease = uint32(i), lease
			atomic.StoreUint64(&l.shared.Listener[i].UntilNs, 0) // of who was killed
			return true
		}
	}
	return false
}

// extend renews the lease.
func (l *Listener) extend(now uint64) error {
	lease := now + uint64(placeLease)
	if !atomic.CompareAndSwapUint64(&l.shared.Owner[l.place], l.lease, lease) {
		return errPlaceLost
	}
	l.lease = lease
	atomic.StoreUint64(&l.shared.Listener[l.place].UntilNs, now+uint64(listenLease))
	l.renew = now + uint64(time.Second)
	return nil
}

// Read waits for the next event until ctx ends.
func (l *Listener) Read(ctx context.Context, e *abi.Event) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if now := Monotonic(); now >= l.renew {
			if err := l.extend(now); err != nil {
				return err
			}
		}
		l.reader.SetDeadline(time.Now().Add(listenPause))
		err := l.reader.ReadInto(&l.record)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		case len(l.record.RawSample) < int(unsafe.Sizeof(*e)):
			return fmt.Errorf("read events: one has %d bytes, this version expects %d", len(l.record.RawSample), unsafe.Sizeof(*e))
		}
		*e = *(*abi.Event)(unsafe.Pointer(&l.record.RawSample[0]))
		return nil
	}
}

// Waiting reports whether events lie there to be read at once.
func (l *Listener) Waiting() bool { return l.reader.AvailableBytes() > 0 }

// Lost is how many events came while the ring buffer was full.
func (l *Listener) Lost() uint64 { return atomic.LoadUint64(&l.shared.Lost[l.place]) }

// Close ends the listening. To call it again does nothing.
func (l *Listener) Close() error {
	if l.shared == nil {
		return nil
	}
	err := errors.Join(l.leave(), l.table.close())
	l.shared = nil
	return err
}

// leave gives the place back, unless somebody else has it by now.
func (l *Listener) leave() error {
	err := vacate(l.shared, l.table.rings, l.place, l.lease)
	if l.reader != nil {
		err = errors.Join(err, l.reader.Close())
	}
	if l.ring != nil {
		err = errors.Join(err, l.ring.Close())
	}
	return err
}

// vacate frees a place that has the given lease; of any other it does nothing.
func vacate(shared *abi.ListenerPlaces, rings *ebpf.Map, place uint32, lease uint64) error {
	// A lease of our own, so that nobody takes the place half cleared.
	last := Monotonic() + uint64(placeLease)
	if !atomic.CompareAndSwapUint64(&shared.Owner[place], lease, last) {
		return nil
	}
	atomic.StoreUint64(&shared.Listener[place].UntilNs, 0)
	err := rings.Delete(place)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	atomic.CompareAndSwapUint64(&shared.Owner[place], last, 0)
	return err
}

// ForgetListeners takes away what listeners that were killed have left, so that
// new connections need not look at their leases, and frees their memory.
func (t *Tables) ForgetListeners() error {
	if t.listeners == nil {
		return nil
	}
	table := *t.listeners
	shared, err := table.open()
	if err != nil {
		return err
	}
	errs := []error{}
	for i := range shared.Owner {
		owner := atomic.LoadUint64(&shared.Owner[i])
		if owner != 0 && owner < Monotonic() {
			errs = append(errs, vacate(shared, table.rings, uint32(i), owner))
		}
	}
	return errors.Join(append(errs, table.close())...)
}

// Monotonic is the time on the clock of programs (CLOCK_MONOTONIC), in
// nanoseconds.
func Monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return uint64(ts.Nano())
}
