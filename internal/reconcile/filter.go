// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"

	"github.com/beeline-net/beeline/internal/abi"
)

// Keep holds the bits of these addresses in the filter, beside those of the
// frontends and instead of those of the call before: addresses of the node, at
// which NodePorts and replies to source NAT arrive. After Restore, call it
// before Prune, which clears the bits that nobody needs.
func (r *Reconciler) Keep(addrs []netip.Addr) {
	before := r.kept
	r.kept = nil
	for _, addr := range addrs {
		ip := abi.Addr(addr)
		r.kept = append(r.kept, ip)
		r.filterHold(ip)
	}
	for _, ip := range before {
		r.filterDrop(ip)
	}
}

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

// restoreFilter sets the bits of what Restore found and of what is kept.
func (r *Reconciler) restoreFilter() {
	for key := range r.frontends {
		r.filterAdd(key)
	}
	for _, ip := range r.kept {
		r.filterHold(ip)
	}
}

// pruneFilter clears the bits that nobody has asked for.
func (r *Reconciler) pruneFilter() {
	for bit := range r.tables.Filter.Len() {
		if r.tables.Filter.Has(bit) && r.filter[bit] == 0 {
			r.tables.Filter.Clear(bit)
		}
	}
}
