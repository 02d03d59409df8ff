// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"maps"

	"github.com/beeline-net/beeline/internal/abi"
)

// Changes are the writes that tables made by Overlay have taken in: by key, and
// by index of the word in its array. Writes that changed nothing are left out.
type Changes struct {
	Frontends map[abi.FrontendKey]struct{}
	Services  map[uint32]struct{}
	// Sets by abi.SetIndex, Slots and Backends by their index.
	Sets, Slots, Backends map[uint32]struct{}
	Filter                map[uint32]struct{} // words
}

// Len is how many there are.
func (c Changes) Len() int {
	return len(c.Frontends) + len(c.Services) + len(c.Sets) + len(c.Slots) + len(c.Backends) + len(c.Filter)
}

// Overlay returns tables that read as t does and keep what is written to them
// to themselves, to see what somebody would write, and a function that tells
// it. Nobody may write t meanwhile.
func Overlay(t *Tables) (*Tables, func() Changes, error) {
	over := *t
	frontends, err := copyHash(abi.MapFrontends, t.Frontends)
	if err != nil {
		return nil, nil, err
	}
	services, err := copyHash(abi.MapServices, t.Services)
	if err != nil {
		return nil, nil, err
	}
	over.Frontends, over.Services = frontends, services
	words := func(of *Words) overlaidWords {
		w := overlaidWords{*of, map[uint32]uint64{}}
		*of = w
		return w
	}
	sets, slots := words(&over.Sets.words), words(&over.Slots.words)
	backends, filter := words(&over.Backends.words), words(&over.Filter.words)
	return &over, func() Changes {
		return Changes{
			Frontends: frontends.changes(), Services: services.changes(),
			Sets: sets.changes(1), Slots: slots.changes(1),
			Backends: backends.changes(backendWords), Filter: filter.changes(1),
		}
	}, nil
}

type overlaidWords struct {
	Words
	over map[uint32]uint64
}

func (w overlaidWords) Load(i uint32) uint64 {
	if word, ok := w.over[i]; ok {
		return word
	}
	return w.Words.Load(i)
}

func (w overlaidWords) Store(i uint32, word uint64) { w.over[i] = word }

// changes returns the entries, of so many words each, that differ.
func (w overlaidWords) changes(words uint32) map[uint32]struct{} {
	changed := map[uint32]struct{}{}
	for i, word := range w.over {
		if word != w.Words.Load(i) {
			changed[i/words] = struct{}{}
		}
	}
	return changed
}

// copiedHash is a copy of a hash table, in memory.
type copiedHash[K, V comparable] struct {
	memoryHash[K, V]
	was map[K]V
}

func copyHash[K, V comparable](name string, h Hash[K, V]) (*copiedHash[K, V], error) {
	c := &copiedHash[K, V]{was: map[K]V{}}
	err := h.Each(func(key K, value V) bool {
		c.was[key] = value
		return true
	})
	c.memoryHash = memoryHash[K, V]{name: name, capacity: h.Capacity(), entries: maps.Clone(c.was)}
	return c, err
}

func (c *copiedHash[K, V]) changes() map[K]struct{} {
	changed := map[K]struct{}{}
	for key, is := range c.entries {
		if was, ok := c.was[key]; !ok || was != is {
			changed[key] = struct{}{}
		}
	}
	for key := range c.was {
		if _, ok := c.entries[key]; !ok {
			changed[key] = struct{}{}
		}
	}
	return changed
}
