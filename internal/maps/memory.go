// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"syscall"

	"github.com/beeline-net/beeline/internal/abi"
)

// Sizes says how many entries the tables have.
type Sizes struct {
	Frontends, Services, Slots, Backends uint32
	// Peers is how many records of TCP sockets there can be.
	Peers uint32
	// Kept is how many flows can be left to netfilter.
	Kept uint32
	// Packet is zero where the packet path is switched off.
	Packet PacketSizes
}

// PacketSizes says how many entries the PacketTables have.
type PacketSizes struct {
	LocalAddrs, PodRanges, SourceRanges, EgressAddrs uint32
}

// NewMemory makes tables in plain memory that behave as the kernel's do. They
// are not safe for concurrent use.
func NewMemory(size Sizes) *Tables {
	return &Tables{
		Frontends:  newMemoryHash[abi.FrontendKey, abi.Frontend](abi.MapFrontends, size.Frontends),
		Services:   newMemoryHash[uint32, abi.ServiceName](abi.MapServices, size.Services),
		Sets:       Sets{make(memoryWords, size.Services*abi.SetKinds)},
		Slots:      Slots{make(memoryWords, size.Slots)},
		Backends:   Backends{make(memoryWords, size.Backends*backendWords)},
		Filter:     Filter{make(memoryWords, abi.VIPFilterBits/64)},
		Packet:     newPacketMemory(size.Packet),
		Kept:       newMemoryHash[abi.FlowTuple, uint32](abi.MapKeptFlows, size.Kept),
		Peers:      newMemoryHash[uint64, abi.Peer](abi.MapPeers, size.Peers),
		Affinities: newMemoryHash[abi.AffinityKey, abi.Affinity](abi.MapAffinities, 0),
		counters:   func() (sums [abi.Counters]uint64, err error) { return sums, nil },
		close:      func() error { return nil },
	}
}

func newPacketMemory(size PacketSizes) *PacketTables {
	if size == (PacketSizes{}) {
		return nil
	}
	return &PacketTables{
		LocalAddrs:    newMemoryHash[abi.IP, uint32](abi.MapLocalAddrs, size.LocalAddrs),
		PodRanges:     newMemoryTrie[abi.PodRangeKey, uint32](abi.MapPodRanges, size.PodRanges),
		SourceRanges:  newMemoryTrie[abi.SourceRangeKey, uint32](abi.MapSourceRanges, size.SourceRanges),
		EgressAddrs:   newMemoryHash[abi.EgressKey, abi.IP](abi.MapEgressAddrs, size.EgressAddrs),
		ReservedPorts: ReservedPorts{make(memoryWords, reservedPortWords)},
	}
}

type memoryWords []uint64

func (w memoryWords) Load(i uint32) uint64        { return w[i] }
func (w memoryWords) Store(i uint32, word uint64) { w[i] = word }
func (w memoryWords) Len() uint32                 { return uint32(len(w)) }

type memoryHash[K comparable, V any] struct {
	name     string
	capacity int
	entries  map[K]V
	full     error // of a Put that finds no room
}

func newMemoryHash[K comparable, V any](name string, capacity uint32) Hash[K, V] {
	return &memoryHash[K, V]{name: name, capacity: int(capacity), entries: map[K]V{}, full: syscall.E2BIG}
}

func (h *memoryHash[K, V]) Capacity() int { return h.capacity }

func (h *memoryHash[K, V]) Get(key K) (V, bool, error) {
	value, ok := h.entries[key]
	return value, ok, nil
}

func (h *memoryHash[K, V]) Put(key K, value V) error {
	if _, ok := h.entries[key]; !ok && len(h.entries) >= h.capacity {
		return fmt.Errorf("write %s: %w", h.name, h.full)
	}
	h.entries[key] = value
	return nil
}

func (h *memoryHash[K, V]) PutAll(keys []K, values []V) (int, error) {
	return putEach(h, keys, values)
}

func (h *memoryHash[K, V]) Delete(key K) error {
	delete(h.entries, key)
	return nil
}

func (h *memoryHash[K, V]) Each(visit func(K, V) bool) error {
	for key, value := range h.entries {
		if !visit(key, value) {
			break
		}
	}
	return nil
}
