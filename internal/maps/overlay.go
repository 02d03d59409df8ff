// SPDX-License-Identifier: Apache-2.0

package maps

import "github.com/beeline-net/beeline/internal/abi"

// Changes are the writes that tables made by Overlay have taken in: by key, and
// by index of the word in its array. Writes that changed nothing are left out.
type Changes struct {
	Frontends map[abi.FrontendKey]struct{}
	Services  map[uint32]struct{}
	// Sets by abi.SetIndex, Slots and Backends by their index.
	Sets, Slots, Backends map[uint32]struct{}
	Filter                map[uint32]struct{} // words

	LocalAddrs    map[abi.IP]struct{}
	PodRanges     map[abi.PodRangeKey]struct{}
	SourceRanges  map[abi.SourceRangeKey]struct{}
	EgressAddrs   map[abi.EgressKey]struct{}
	ReservedPorts map[uint32]struct{} // words
}

// Len is how many there are.
func (c Changes) Len() int {
	return len(c.Frontends) + len(c.Services) + len(c.Sets) + len(c.Slots) + len(c.Backends) + len(c.Filter) +
		len(c.LocalAddrs) + len(c.PodRanges) + len(c.SourceRanges) + len(c.EgressAddrs) + len(c.ReservedPorts)
}

// Overlay returns tables that read as t does and keep what is written to them
// to themselves, to see what somebody would write, and a function that tells
// it. Nobody may write t meanwhile.
func Overlay(t *Tables) (*Tables, func() Changes, error) {
	o := &overlay{}
	over := *t
	frontends := overlayHash(o, &over.Frontends, newMemoryHash)
	services := overlayHash(o, &over.Services, newMemoryHash)
	sets, slots := overlayWords(&over.Sets.words), overlayWords(&over.Slots.words)
	backends, filter := overlayWords(&over.Backends.words), overlayWords(&over.Filter.words)
	packet := func(*Changes) {}
	if t.Packet != nil {
		p := *t.Packet
		over.Packet, packet = &p, o.packet(&p)
	}
	if o.err != nil {
		return nil, nil, o.err
	}
	return &over, func() Changes {
		c := Changes{
			Frontends: frontends.changes(), Services: services.changes(),
			Sets: sets.changes(1), Slots: slots.changes(1),
			Backends: backends.changes(backendWords), Filter: filter.changes(1),
		}
		packet(&c)
		return c
	}, nil
}

// overlay collects the first error of Overlay.
type overlay struct{ err error }

// packet replaces the tables of the packet path and returns how their changes
// are told.
func (o *overlay) packet(p *PacketTables) func(*Changes) {
	locals := overlayHash(o, &p.LocalAddrs, newMemoryHash)
	pods := overlayHash(o, &p.PodRanges, newMemoryTrie)
	sources := overlayHash(o, &p.SourceRanges, newMemoryTrie)
	egress := overlayHash(o, &p.EgressAddrs, newMemoryHash)
	ports := overlayWords(&p.ReservedPorts.words)
	return func(c *Changes) {
		c.LocalAddrs, c.PodRanges = locals.changes(), pods.changes()
		c.SourceRanges, c.EgressAddrs = sources.changes(), egress.changes()
		c.ReservedPorts = ports.changes(1)
	}
}

type overlaidWords struct {
	Words
	over map[uint32]uint64
}

// overlayWords lays an overlay over an array.
func overlayWords(of *Words) overlaidWords {
	w := overlaidWords{*of, map[uint32]uint64{}}
	*of = w
	return w
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
	Hash[K, V]
	was map[K]V
}

// overlayHash replaces a table by a copy of the given make.
func overlayHash[K, V comparable](o *overlay, of *Hash[K, V], make func(name string, capacity uint32) Hash[K, V]) *copiedHash[K, V] {
	c := &copiedHash[K, V]{Hash: make("the copy", uint32((*of).Capacity())), was: map[K]V{}}
	if o.err == nil {
		o.err = (*of).Each(func(key K, value V) bool {
			c.was[key] = value
			return c.Put(key, value) == nil // a copy has room for its original
		})
	}
	*of = c
	return c
}

func (c *copiedHash[K, V]) changes() map[K]struct{} {
	changed := map[K]struct{}{}
	for key := range c.was {
		changed[key] = struct{}{}
	}
	_ = c.Each(func(key K, is V) bool { // memory never fails
		if was, ok := c.was[key]; ok && was == is {
			delete(changed, key)
		} else {
			changed[key] = struct{}{}
		}
		return true
	})
	return changed
}
