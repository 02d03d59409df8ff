// SPDX-License-Identifier: Apache-2.0

package maps

import "github.com/beeline-net/beeline/internal/abi"

// Op is a kind of write.
type Op uint8

// The writes. All but Store are system calls.
const (
	Put    Op = iota // one entry of a hash table
	PutAll           // a batch of them
	Delete           // one entry of a hash table
	Store            // one word of an array
)

func (o Op) String() string { return [...]string{"put", "put all", "delete", "store"}[o] }

// Write is one change of a table.
type Write struct {
	Table   string // name in package abi
	Op      Op
	Entries int // how many a PutAll wrote, otherwise 1
}

// Watcher is told about writes, and may make some fail.
type Watcher struct {
	// Refuse is asked before every Put and Delete, and for every entry of a
	// PutAll, which then is written one by one; an error it returns is the
	// result of the write, which is not made. Stores cannot fail and are asked
	// about only so that a test may panic, which is how it plays a crash. May
	// be nil.
	Refuse func(Write) error
	// Wrote is told after every write. May be nil.
	Wrote func(Write)
}

func (w Watcher) refuse(table string, op Op) error {
	if w.Refuse == nil {
		return nil
	}
	return w.Refuse(Write{Table: table, Op: op, Entries: 1})
}

func (w Watcher) wrote(table string, op Op, entries int) {
	if w.Wrote != nil && entries > 0 {
		w.Wrote(Write{Table: table, Op: op, Entries: entries})
	}
}

// Watch returns the same tables, watched. Closing either closes both.
func Watch(t *Tables, w Watcher) *Tables {
	watched := *t
	watched.Frontends = watchedHash[abi.FrontendKey, abi.Frontend]{t.Frontends, abi.MapFrontends, w}
	watched.Services = watchedHash[uint32, abi.ServiceName]{t.Services, abi.MapServices, w}
	watched.Sets.words = watchedWords{t.Sets.words, abi.MapSets, w}
	watched.Slots.words = watchedWords{t.Slots.words, abi.MapSlots, w}
	watched.Backends.words = watchedWords{t.Backends.words, abi.MapBackends, w}
	watched.Filter.words = watchedWords{t.Filter.words, abi.MapVIPFilter, w}
	if p := t.Packet; p != nil {
		watched.Packet = &PacketTables{
			LocalAddrs:    watchedHash[abi.IP, uint32]{p.LocalAddrs, abi.MapLocalAddrs, w},
			PodRanges:     watchedHash[abi.PodRangeKey, uint32]{p.PodRanges, abi.MapPodRanges, w},
			SourceRanges:  watchedHash[abi.SourceRangeKey, uint32]{p.SourceRanges, abi.MapSourceRanges, w},
			EgressAddrs:   watchedHash[abi.EgressKey, abi.IP]{p.EgressAddrs, abi.MapEgressAddrs, w},
			ReservedPorts: ReservedPorts{watchedWords{p.ReservedPorts.words, abi.MapReservedPorts, w}},
		}
	}
	return &watched
}

type watchedWords struct {
	Words
	table   string
	watcher Watcher
}

func (w watchedWords) Store(i uint32, word uint64) {
	_ = w.watcher.refuse(w.table, Store) // cannot fail, may panic
	w.Words.Store(i, word)
	w.watcher.wrote(w.table, Store, 1)
}

type watchedHash[K comparable, V any] struct {
	Hash[K, V]
	table   string
	watcher Watcher
}

func (h watchedHash[K, V]) Put(key K, value V) error {
	if err := h.watcher.refuse(h.table, Put); err != nil {
		return err
	}
	err := h.Hash.Put(key, value)
	if err == nil {
		h.watcher.wrote(h.table, Put, 1)
	}
	return err
}

func (h watchedHash[K, V]) PutAll(keys []K, values []V) (int, error) {
	if h.watcher.Refuse != nil {
		return putEach(h, keys, values)
	}
	done, err := h.Hash.PutAll(keys, values)
	h.watcher.wrote(h.table, PutAll, done)
	return done, err
}

func (h watchedHash[K, V]) Delete(key K) error {
	if err := h.watcher.refuse(h.table, Delete); err != nil {
		return err
	}
	err := h.Hash.Delete(key)
	if err == nil {
		h.watcher.wrote(h.table, Delete, 1)
	}
	return err
}
