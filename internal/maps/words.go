// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// mappedWords is a kernel array in our address space.
type mappedWords struct {
	name     string
	mem      []byte
	words    []uint64
	writable bool
}

// words maps an array whose elements have the given bytes, a multiple of 8: the
// kernel lays elements out at that distance.
func (o *opener) words(name string, value uintptr) Words {
	m := o.find(name, 4, value)
	if o.err != nil {
		return nil
	}
	words := int(m.MaxEntries()) * int(value) / 8
	page := os.Getpagesize()
	size := (words*8 + page - 1) / page * page
	prot := unix.PROT_READ
	if o.writable {
		prot |= unix.PROT_WRITE
	}
	mem, err := unix.Mmap(m.FD(), 0, size, prot, unix.MAP_SHARED)
	if err != nil {
		o.err = fmt.Errorf("map %s: mmap: %w", name, err)
		return nil
	}
	w := &mappedWords{
		name: name, mem: mem, writable: o.writable,
		words: unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), words),
	}
	o.mapped = append(o.mapped, w)
	return w
}

func (w *mappedWords) Load(i uint32) uint64 { return atomic.LoadUint64(&w.words[i]) }

func (w *mappedWords) Store(i uint32, word uint64) {
	if !w.writable {
		panic("write " + w.name + ": " + errReadOnly.Error())
	}
	atomic.StoreUint64(&w.words[i], word)
}

func (w *mappedWords) Len() uint32 { return uint32(len(w.words)) }

func (w *mappedWords) unmap() error {
	w.words = nil
	if err := unix.Munmap(w.mem); err != nil {
		return fmt.Errorf("map %s: munmap: %w", w.name, err)
	}
	return nil
}

// Sets holds one word a backend set: see abi.SetWord and abi.EmptySetWord.
type Sets struct{ words Words }

// Services is for how many service indexes there are sets.
func (s Sets) Services() uint32 { return s.words.Len() / abi.SetKinds }

// Load returns the word of a Service port's set.
func (s Sets) Load(service uint32, kind abi.SetKind) uint64 {
	return s.words.Load(abi.SetIndex(service, kind))
}

// Store publishes a set.
func (s Sets) Store(service uint32, kind abi.SetKind, word uint64) {
	s.words.Store(abi.SetIndex(service, kind), word)
}

// Slots holds the members of sets: backend indexes.
type Slots struct{ words Words }

// Len is how many slots there are.
func (s Slots) Len() uint32 { return s.words.Len() }

// Load returns the backend index in a slot.
func (s Slots) Load(i uint32) uint32 {
	word := s.words.Load(i)
	return (*abi.Slot)(unsafe.Pointer(&word)).Backend
}

// Store writes the backend index of a slot.
func (s Slots) Store(i uint32, backend uint32) {
	var word uint64
	(*abi.Slot)(unsafe.Pointer(&word)).Backend = backend
	s.words.Store(i, word)
}

// Filter holds one bit an address hash, see abi.FilterBit.
type Filter struct{ words Words }

// Len is how many bits there are.
func (f Filter) Len() uint32 { return f.words.Len() * 64 }

// Has returns one bit.
func (f Filter) Has(bit uint32) bool { return f.words.Load(bit/64)>>(bit%64)&1 == 1 }

// Set sets one bit; one that is set already costs no write.
func (f Filter) Set(bit uint32) {
	if !f.Has(bit) {
		f.words.Store(bit/64, f.words.Load(bit/64)|1<<(bit%64))
	}
}

// Clear clears one bit; one that is clear already costs no write.
func (f Filter) Clear(bit uint32) {
	if f.Has(bit) {
		f.words.Store(bit/64, f.words.Load(bit/64)&^(1<<(bit%64)))
	}
}
