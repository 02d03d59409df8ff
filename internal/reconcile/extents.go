// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"slices"
)

// extent is a contiguous range of slots.
type extent struct{ base, count uint32 }

func (e extent) end() uint32 { return e.base + e.count }

// extents hands out contiguous ranges of [0, size), the first that fits. Free
// ranges are kept sorted and never touch each other.
type extents struct {
	size, used uint32
	free       []extent
}

func newExtents(size uint32) *extents {
	return &extents{size: size, free: []extent{{0, size}}}
}

// alloc takes count > 0 slots; false if no free range is that long.
func (x *extents) alloc(count uint32) (extent, bool) {
	for i, f := range x.free {
		if f.count < count {
			continue
		}
		if f.count == count {
			x.free = slices.Delete(x.free, i, i+1)
		} else {
			x.free[i] = extent{f.base + count, f.count - count}
		}
		x.used += count
		return extent{f.base, count}, true
	}
	return extent{}, false
}

// reserve takes a given range; false, and nothing is taken, if a part of it is
// taken already or lies outside.
func (x *extents) reserve(e extent) bool {
	i, ok := slices.BinarySearchFunc(x.free, e.base, byBase)
	if !ok {
		i-- // the last that begins before e
	}
	if i < 0 || x.free[i].end() < e.end() || e.end() < e.base {
		return false
	}
	f := x.free[i]
	rest := make([]extent, 0, 2)
	if before := (extent{f.base, e.base - f.base}); before.count > 0 {
		rest = append(rest, before)
	}
	if after := (extent{e.end(), f.end() - e.end()}); after.count > 0 {
		rest = append(rest, after)
	}
	x.free = slices.Replace(x.free, i, i+1, rest...)
	x.used += e.count
	return true
}

// release gives back a range that was taken.
func (x *extents) release(e extent) {
	i, _ := slices.BinarySearchFunc(x.free, e.base, byBase)
	x.used -= e.count
	from, to := i, i
	if i > 0 && x.free[i-1].end() == e.base {
		from--
		e = extent{x.free[from].base, x.free[from].count + e.count}
	}
	if i < len(x.free) && e.end() == x.free[i].base {
		to++
		e.count += x.free[i].count
	}
	x.free = slices.Replace(x.free, from, to, e)
}

func byBase(e extent, base uint32) int { return cmp.Compare(e.base, base) }
