// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// ErrTooSmall says that what is in use does not fit into a map's new size.
var ErrTooSmall = errors.New("what is in use does not fit")

// Carrier takes what maps hold over to maps of another size that take their
// place, while programs use them. Carry is called once before any program uses
// the new maps, when it copies everything, and any number of times afterwards,
// when it takes over what programs have done to the old ones meanwhile. What the
// agent writes does not change as long as Carry is called; numbers and
// generations stay what they are.
type Carrier struct {
	// peers are the records that have been copied: one that has vanished from
	// the old map since belongs to a socket that is gone.
	peers map[uint64]struct{}
}

// CanCarry tells whether a map may change its size while it is in use. The flow
// table may not: its programs find a flow by the table's size.
func (*Carrier) CanCarry(name string) bool { return name != abi.MapFlows && name != abi.MapFlowIndex }

// Carry copies from old to next, which hold all maps; one that is the same in
// both stays. begun says that programs use next already. ErrTooSmall: what is in
// use does not fit.
func (c *Carrier) Carry(old, next map[string]*ebpf.Map, begun bool) error {
	if !begun {
		for name, from := range old {
			if to := next[name]; to != nil && from != to {
				if err := copyMap(name, from, to); err != nil {
					return fmt.Errorf("map %s: %w", name, err)
				}
			}
		}
		if err := checkSlots(next); err != nil {
			return err
		}
		return c.follow(old, next)
	}
	// At once, before sockets come and go, and when no program is left that
	// began with the old maps.
	return errors.Join(c.follow(old, next), WaitForPrograms(context.Background()), c.follow(old, next))
}

// follow takes over what programs have written.
func (c *Carrier) follow(old, next map[string]*ebpf.Map) error {
	var errs []error
	for name, carry := range map[string]func(old, next *ebpf.Map) error{
		abi.MapPeers: c.carryPeers, abi.MapAffinities: carryAffinities,
	} {
		if from, to := old[name], next[name]; from != nil && to != nil && from != to {
			if err := carry(from, to); err != nil {
				errs = append(errs, fmt.Errorf("map %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// copyMap copies a table that only the agent writes; what programs write is
// carried otherwise.
func copyMap(name string, from, to *ebpf.Map) error {
	if from.KeySize() != to.KeySize() || from.ValueSize() != to.ValueSize() {
		return errors.New("there is no way from its old layout")
	}
	switch name {
	case abi.MapPeers, abi.MapAffinities:
		return nil
	case abi.MapFragments, abi.MapICMPTokens, abi.MapCounters, abi.MapUDPPeers:
		return nil // what is lost is worth a packet, or a number
	case abi.MapBackends:
		return carryBackends(from, to)
	case abi.MapSlots:
		return carryWords(from, to, 0) // nobody reads what no set refers to
	case abi.MapSets, abi.MapVIPFilter, abi.MapReservedPorts:
		return carryWords(from, to, ^uint64(0))
	}
	return copyHash(from, to)
}

// copyHash copies all entries of a hash table or trie.
func copyHash(from, to *ebpf.Map) error {
	var key, value []byte
	entries := from.Iterate()
	n := uint32(0)
	for entries.Next(&key, &value) {
		if n++; n > to.MaxEntries() {
			return fmt.Errorf("more than %d entries: %w", to.MaxEntries(), ErrTooSmall)
		}
		if err := to.Put(key, value); err != nil {
			return err
		}
	}
	return entries.Err()
}

// window maps two arrays into memory for as long as f runs.
func window(from, to *ebpf.Map, f func(from, to Words) error) (err error) {
	const name = "array"
	a := &opener{kernel: map[string]*ebpf.Map{name: from}}
	b := &opener{kernel: map[string]*ebpf.Map{name: to}, writable: true}
	defer func() { err = errors.Join(err, a.close(), b.close()) }()
	old, next := a.words(name, uintptr(from.ValueSize())), b.words(name, uintptr(to.ValueSize()))
	if err := errors.Join(a.err, b.err); err != nil {
		return err
	}
	return f(old, next)
}

// carryWords copies an array. Of what is beyond the end of the new one no bit of
// used may be set.
func carryWords(from, to *ebpf.Map, used uint64) error {
	return window(from, to, func(old, next Words) error {
		for i := range old.Len() {
			word := old.Load(i)
			if i < next.Len() {
				next.Store(i, word)
			} else if word&used != 0 {
				return fmt.Errorf("number %d: %w", i, ErrTooSmall)
			}
		}
		return nil
	})
}

// checkSlots looks whether every set's slots are there.
func checkSlots(next map[string]*ebpf.Map) error {
	sets, slots := next[abi.MapSets], next[abi.MapSlots]
	return window(sets, sets, func(words, _ Words) error {
		for i := range words.Len() {
			base, count := abi.UnpackSet(words.Load(i))
			if count > 0 && uint64(base)+uint64(count) > uint64(slots.MaxEntries()) {
				return fmt.Errorf("map %s: number %d: %w", abi.MapSlots, base+count-1, ErrTooSmall)
			}
		}
		return nil
	})
}

// carryBackends copies the backends. Generations must not repeat, also of
// numbers that come again after they were gone: every free entry goes on after
// the newest there ever was where an entry was lost or is new.
func carryBackends(from, to *ebpf.Map) error {
	return window(from, to, func(a, b Words) error {
		old, next := Backends{a}, Backends{b}
		var lost, newest uint32
		for i := range old.Len() {
			v := old.Load(i)
			newest = max(newest, LastGeneration(v))
			if i < next.Len() {
				continue
			}
			if v.State != uint8(abi.BackendFree) || v.Generation != 0 {
				return fmt.Errorf("number %d: %w", i, ErrTooSmall)
			}
			lost = max(lost, LastGeneration(v))
		}
		for i := range next.Len() {
			v := FreeBackend(newest)
			if i < old.Len() {
				v = old.Load(i)
			}
			if v.State == uint8(abi.BackendFree) && v.Generation == 0 && LastGeneration(v) < lost {
				v.Addr = FreeBackend(lost).Addr
			}
			next.store(i, imageOf(v), 0, 1, statusWord, generationWord)
		}
		return nil
	})
}

// carryPeers adds the records of sockets that have connected since the last
// time, and removes those of sockets that are gone.
func (c *Carrier) carryPeers(from, to *ebpf.Map) error {
	old, next := &kernelHash[uint64, abi.Peer]{abi.MapPeers, from, false}, &kernelHash[uint64, abi.Peer]{abi.MapPeers, to, true}
	there := map[uint64]struct{}{}
	var fail error
	err := old.Each(func(cookie uint64, p abi.Peer) bool {
		there[cookie] = struct{}{}
		if _, copied := c.peers[cookie]; !copied {
			fail = next.Put(cookie, p)
		}
		return fail == nil
	})
	if errors.Is(fail, unix.E2BIG) {
		fail = fmt.Errorf("%w: %w", ErrTooSmall, fail)
	}
	if err := errors.Join(err, fail); err != nil {
		return err
	}
	for cookie := range c.peers {
		if _, ok := there[cookie]; !ok {
			if err := next.Delete(cookie); err != nil {
				return err
			}
		}
	}
	c.peers = there
	return nil
}

// carryAffinities copies what is newer. A table that holds fewer keeps the
// newest of them, as it always does.
func carryAffinities(from, to *ebpf.Map) error {
	old := &kernelHash[abi.AffinityKey, abi.Affinity]{abi.MapAffinities, from, false}
	next := &kernelHash[abi.AffinityKey, abi.Affinity]{abi.MapAffinities, to, true}
	var fail error
	err := old.Each(func(k abi.AffinityKey, v abi.Affinity) bool {
		var have abi.Affinity
		var known bool
		if have, known, fail = next.Get(k); fail == nil && (!known || have.SeenNs < v.SeenNs) {
			fail = next.Put(k, v)
		}
		return fail == nil
	})
	return errors.Join(err, fail)
}
