// SPDX-License-Identifier: Apache-2.0

// Package maps is typed access to the kernel's tables. Hash tables are reached
// by system calls, in batches where it pays; arrays are mapped into memory and
// read and written with single atomic 64-bit loads and stores, which a running
// program sees entirely or not at all.
//
// Two small seams, Hash and Words, are all that differs between the kernel's
// tables, tables in plain memory (NewMemory) and tables that somebody watches
// or disturbs (Watch). Who writes: one process, and in it one goroutine.
// Readers may be many.
package maps

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// Hash is a hash table. Its entries change one at a time, each atomically.
//
// A table of prefixes (an LPM trie) is one, too. Of its keys only the bits that
// their length says count; Each shows the others as 0. Get answers there as a
// program's lookup does: with the longest prefix that holds all of key.
type Hash[K comparable, V any] interface {
	// Get returns the value of key and whether there is one.
	Get(key K) (V, bool, error)
	// Put adds or replaces in place: no reader ever misses the key.
	Put(key K, value V) error
	// PutAll puts many. On an error the first done entries are in, and the
	// error is about keys[done]; the entries after it were not tried.
	PutAll(keys []K, values []V) (done int, err error)
	// Delete removes key; that it is absent already is no error.
	Delete(key K) error
	// Each calls visit for the entries until it returns false. Entries that
	// change meanwhile may be missed or seen twice; all others are seen once.
	Each(visit func(K, V) bool) error
	// Capacity is how many entries fit.
	Capacity() int
}

// Words is an array of 64-bit words in memory that the kernel shares. Loads
// and stores are atomic and in program order, and cannot fail. An index beyond
// Len panics, and so does a store to tables opened for reading.
type Words interface {
	Load(i uint32) uint64
	Store(i uint32, word uint64)
	Len() uint32
}

// NoService is the service index of a frontend that belongs to a Service, but to
// none of its ports: one with flag abi.FlagAddress.
const NoService = ^uint32(0)

// Tables are all the tables of the datapath.
type Tables struct {
	// Written by the agent, read by programs.
	Frontends Hash[abi.FrontendKey, abi.Frontend]
	Services  Hash[uint32, abi.ServiceName]
	Sets      Sets
	Slots     Slots
	Backends  Backends
	Filter    Filter
	// Packet is nil where the packet path is switched off.
	Packet *PacketTables
	// Kept are the flows that netfilter translates, while a node is handed over.
	// That one is there is all that counts.
	Kept Hash[abi.FlowTuple, uint32]

	// Written by programs.
	Peers      Hash[uint64, abi.Peer]
	Affinities Hash[abi.AffinityKey, abi.Affinity]
	Flows      FlowRecords
	Traffic    Traffic

	listeners *listenerTable
	counters  func() ([abi.Counters]uint64, error)
	close     func() error
}

// Len counts the entries of a hash table by walking it.
func Len[K comparable, V any](h Hash[K, V]) (int, error) {
	n := 0
	err := h.Each(func(K, V) bool { n++; return true })
	return n, err
}

// Counters returns the events counted by programs, indexed by abi.Counter and
// summed over the CPUs.
func (t *Tables) Counters() ([abi.Counters]uint64, error) { return t.counters() }

// Close ends the access. The maps themselves belong to who opened them.
func (t *Tables) Close() error { return t.close() }

// New makes tables of opened kernel maps, keyed by their names in package abi.
// Every map but the udp_peers must be there, with the layout of package abi;
// those of PacketTables may all be missing.
// The maps stay the caller's and must outlive the tables.
func New(kernel map[string]*ebpf.Map) (*Tables, error) { return open(kernel, true) }

// NewReadOnly is New for who only looks: nothing can be written through the
// tables it returns.
func NewReadOnly(kernel map[string]*ebpf.Map) (*Tables, error) { return open(kernel, false) }

// opener collects what open has opened and the first error.
type opener struct {
	kernel   map[string]*ebpf.Map
	writable bool
	mapped   []*mappedWords
	err      error
}

func open(kernel map[string]*ebpf.Map, writable bool) (*Tables, error) {
	o := &opener{kernel: kernel, writable: writable}
	t := &Tables{
		Frontends:  openHash[abi.FrontendKey, abi.Frontend](o, abi.MapFrontends),
		Services:   openHash[uint32, abi.ServiceName](o, abi.MapServices),
		Sets:       Sets{o.words(abi.MapSets, 8)},
		Slots:      Slots{o.words(abi.MapSlots, unsafe.Sizeof(abi.Slot{}))},
		Backends:   Backends{o.words(abi.MapBackends, unsafe.Sizeof(abi.Backend{}))},
		Filter:     Filter{o.words(abi.MapVIPFilter, 8)},
		Peers:      openHash[uint64, abi.Peer](o, abi.MapPeers),
		Affinities: openHash[abi.AffinityKey, abi.Affinity](o, abi.MapAffinities),
		Packet:     o.packet(),
		Kept:       openHash[abi.FlowTuple, uint32](o, abi.MapKeptFlows),
		Flows:      o.flows(),
		Traffic:    o.traffic(),
		listeners:  o.listeners(),
		close:      o.close,
	}
	counters := o.find(abi.MapCounters, 4, 8)
	t.counters = func() ([abi.Counters]uint64, error) { return readCounters(counters) }
	if o.err != nil {
		return nil, errors.Join(o.err, o.close())
	}
	return t, nil
}

// find returns a map after comparing its layout, sizes in bytes.
func (o *opener) find(name string, key, value uintptr) *ebpf.Map {
	m := o.kernel[name]
	switch {
	case o.err != nil:
	case m == nil:
		o.err = fmt.Errorf("map %s: not opened", name)
	case uintptr(m.KeySize()) != key || uintptr(m.ValueSize()) != value:
		o.err = fmt.Errorf("map %s: key and value have %d and %d bytes, this version expects %d and %d",
			name, m.KeySize(), m.ValueSize(), key, value)
	}
	return m
}

func (o *opener) close() error {
	var errs []error
	for _, w := range o.mapped {
		errs = append(errs, w.unmap())
	}
	o.mapped = nil
	return errors.Join(errs...)
}

func readCounters(m *ebpf.Map) (sums [abi.Counters]uint64, err error) {
	for i := range sums {
		var perCPU []uint64
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return sums, fmt.Errorf("read counter %v: %w", abi.Counter(i), err)
		}
		for _, n := range perCPU {
			sums[i] += n
		}
	}
	return sums, nil
}
