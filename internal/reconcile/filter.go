// SPDX-License-Identifier: Apache-2.0

package reconcile

import "github.com/beeline-net/beeline/internal/abi"

// filterHold counts one more reason for an address' bit and sets it.
func (r *Reconciler) filterHold(ip abi.IP) {
	bit := abi.FilterBit(ip)
	r.filter[bit]++
	r.tables.Filter.Set(bit)
}

// filterDrop takes one reason away, and the bit with the last one.
func (r *Reconciler) filterDrop(ip abi.IP) {
	bit := abi.FilterBit(ip)
	if r.filter[bit]--; r.filter[bit] == 0 {
		delete(r.filter, bit)
		r.tables.Filter.Clear(bit)
	}
}

// restoreFilter sets the bits of what Restore found.
func (r *Reconciler) restoreFilter() {
	for key := range r.frontends {
		r.filterAdd(key)
	}
	r.keep(nil, nil)
}

// pruneFilter clears the bits that nobody has asked for.
func (r *Reconciler) pruneFilter() {
	for bit := range r.tables.Filter.Len() {
		if r.tables.Filter.Has(bit) && r.filter[bit] == 0 {
			r.tables.Filter.Clear(bit)
		}
	}
}
