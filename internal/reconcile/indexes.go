// SPDX-License-Identifier: Apache-2.0

package reconcile

import "math/bits"

// indexes hands out numbers of [0, size), the lowest first: tables stay dense.
type indexes struct {
	size, used uint32
	taken      []uint64 // one bit an index
	hint       int      // no word before it has a free index
}

func newIndexes(size uint32) *indexes {
	return &indexes{size: size, taken: make([]uint64, (size+63)/64)}
}

func (x *indexes) alloc() (uint32, bool) {
	for ; x.hint < len(x.taken); x.hint++ {
		bit := bits.TrailingZeros64(^x.taken[x.hint])
		i := uint32(x.hint*64 + bit)
		if bit == 64 {
			continue
		}
		if i >= x.size {
			break
		}
		x.reserve(i)
		return i, true
	}
	return 0, false
}

// reserve takes a given index; false if it is taken already or out of range.
func (x *indexes) reserve(i uint32) bool {
	if i >= x.size || x.taken[i/64]>>(i%64)&1 == 1 {
		return false
	}
	x.taken[i/64] |= 1 << (i % 64)
	x.used++
	return true
}

// release gives back an index that was taken.
func (x *indexes) release(i uint32) {
	x.taken[i/64] &^= 1 << (i % 64)
	x.used--
	x.hint = min(x.hint, int(i/64))
}
