// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"unsafe"

	"github.com/beeline-net/beeline/internal/abi"
)

// Backends holds the endpoints. An entry is four words and changes a word at a
// time, in an order from which every interruption can be told and mended:
//
//	word 0, 1  address
//	word 2     port, state, sets and service
//	word 3     generation and whether the endpoint is local
//
// A free entry has state FREE and generation 0, and remembers the last
// generation that its index had, in the first 32 bits of the address nobody
// reads any more: so no generation of an index repeats, also over a restart.
// An entry of which only one of state and generation is set is being made or
// freed, and its generation is the last one used.
type Backends struct{ words Words }

const (
	backendWords   = uint32(unsafe.Sizeof(abi.Backend{}) / 8)
	statusWord     = 2 // port, state, sets, service
	generationWord = 3 // generation, local
)

type backendImage [backendWords]uint64

func (w backendImage) backend() abi.Backend { return *(*abi.Backend)(unsafe.Pointer(&w)) }

func imageOf(b abi.Backend) (w backendImage) {
	*(*abi.Backend)(unsafe.Pointer(&w)) = b
	return w
}

// Len is how many backends there can be.
func (b Backends) Len() uint32 { return b.words.Len() / backendWords }

// Load returns an entry. While another process writes it, its words may be of
// different ages.
func (b Backends) Load(i uint32) abi.Backend {
	var w backendImage
	for j := range backendWords {
		w[j] = b.words.Load(i*backendWords + j)
	}
	return w.backend()
}

// Create makes a backend of a free entry that no program can still reach. It
// sets the generation, the one after the last that the index had, and returns
// it. The backend lives when Create returns, but is in no set yet.
func (b Backends) Create(i uint32, v abi.Backend) (generation uint32) {
	v.Generation = LastGeneration(b.Load(i)) + 1
	if v.Generation == 0 {
		v.Generation = 1
	}
	b.store(i, imageOf(v), generationWord, 0, 1, statusWord)
	return v.Generation
}

// Update writes what may change in place, if it did: state and sets by one
// store, local by another. Address, port, Service and generation must be those
// that the entry has.
func (b Backends) Update(i uint32, v abi.Backend) {
	b.store(i, imageOf(v), statusWord, generationWord)
}

// Free ends a backend that no program can reach through a set any more; who
// still remembers it finds another generation.
func (b Backends) Free(i uint32) {
	was := b.Load(i)
	v := FreeBackend(LastGeneration(was))
	v.Service = was.Service
	b.store(i, imageOf(v), statusWord, 0, 1, generationWord)
}

// store writes the given words in that order, leaving out those that are so
// already.
func (b Backends) store(i uint32, w backendImage, order ...uint32) {
	for _, j := range order {
		if at := i*backendWords + j; b.words.Load(at) != w[j] {
			b.words.Store(at, w[j])
		}
	}
}

// FreeBackend is what the entry of a free index looks like whose last
// generation is given; 0 if it never had one.
func FreeBackend(last uint32) abi.Backend {
	return abi.Backend{Addr: abi.IP{Word: [4]uint32{last}}}
}

// LastGeneration is the newest generation that the index of an entry has had.
func LastGeneration(b abi.Backend) uint32 {
	if b.Generation != 0 {
		return b.Generation
	}
	return b.Addr.Word[0]
}
