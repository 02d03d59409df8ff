// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// node is what is wanted of the tables about the node itself, and what they
// hold. Where the packet path is switched off there are none.
type node struct {
	want    host.Tables
	named   bool // ApplyHost has said what is wanted since Restore
	problem *Problem

	locals  mirror[abi.IP, uint32]
	pods    mirror[abi.PodRangeKey, uint32]
	sources mirror[abi.EgressKey, abi.IP]
	// kept are the addresses whose bits it holds in the filter.
	kept map[abi.IP]struct{}
}

func newNode(p *maps.PacketTables) node {
	n := node{kept: map[abi.IP]struct{}{}}
	if p != nil {
		n.locals = newMirror(p.LocalAddrs, func(ip abi.IP) string { return "address " + abi.NetIP(ip).String() })
		n.pods = newMirror(p.PodRanges, func(k abi.PodRangeKey) string { return "pod range " + prefixString(k.Addr, k.Prefixlen) })
		n.sources = newMirror(p.EgressAddrs, func(k abi.EgressKey) string {
			return fmt.Sprintf("%v source of device %d", model.Family(k.Family), k.Ifindex)
		})
	}
	return n
}

// ApplyHost makes these the tables about the node itself and writes what
// differs, also from what Restore found: call it only once the node's network
// is known. What failed is in Pending, with no Service's name, and tried again
// by Retry. It may be called before or after any Apply, and never blocks.
//
// The order is: filter bits, or replies to a new source would pass by; then
// what lets new clients in, the addresses themselves last; then what is gone,
// the other way round. An address that stays is there all the time.
func (r *Reconciler) ApplyHost(want host.Tables) Stats {
	before, start := r.totals, r.now()
	if n := &r.node; !n.named || n.problem != nil || !n.want.Equal(want) {
		n.want, n.named = want, true
		r.settleHost()
	}
	return r.account(before, start, 0)
}

// settleHost brings the tables about the node to what is wanted.
func (r *Reconciler) settleHost() {
	if r.tables.Packet == nil || !r.node.named {
		return
	}
	errs := r.writeHost()
	if slices.ContainsFunc(errs, full) {
		errs = r.writeHost() // removals have made room
	}
	r.node.problem = r.outcome(r.node.problem, model.Name{}, errs)
}

func (r *Reconciler) writeHost() []error {
	n := &r.node
	locals, sources, pods := n.entries()
	r.keep(locals, sources)
	for word, bits := range n.want.Reserved {
		r.tables.Packet.ReservedPorts.Store(uint32(word), bits)
	}
	errs := slices.Concat( // in this order
		n.pods.put(pods), n.sources.put(sources), n.locals.put(locals),
		n.locals.prune(locals), n.sources.prune(sources), n.pods.prune(pods))
	r.keep(locals, sources)
	return errs
}

// entries are what the tables are to hold.
func (n *node) entries() (locals []entry[abi.IP, uint32], sources []entry[abi.EgressKey, abi.IP], pods []entry[abi.PodRangeKey, uint32]) {
	for _, a := range n.want.Addresses {
		flags := abi.LocalAddrHere
		if a.NodePorts {
			flags |= abi.LocalAddrNodePort
		}
		locals = append(locals, entry[abi.IP, uint32]{abi.Addr(a.Addr), flags})
	}
	for _, s := range n.want.Sources {
		key := abi.NewEgressKey(s.Device, s.Family == model.IPv6)
		sources = append(sources, entry[abi.EgressKey, abi.IP]{key, abi.Addr(s.Addr)})
	}
	for _, p := range n.want.PodRanges {
		pods = append(pods, entry[abi.PodRangeKey, uint32]{key: abi.NewPodRangeKey(p)})
	}
	return locals, sources, pods
}

// restoreHost reads what the tables about the node hold. It stays until
// ApplyHost says what is wanted.
func (r *Reconciler) restoreHost() error {
	if r.tables.Packet == nil {
		return nil
	}
	for _, read := range []func() error{r.node.locals.read, r.node.pods.read, r.node.sources.read} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// keep holds the filter bits of these addresses and of those that are in the
// tables, and no others.
func (r *Reconciler) keep(locals []entry[abi.IP, uint32], sources []entry[abi.EgressKey, abi.IP]) {
	keep := map[abi.IP]struct{}{}
	for _, e := range locals {
		keep[e.key] = struct{}{}
	}
	for _, e := range sources {
		keep[e.value] = struct{}{}
	}
	for ip := range r.node.locals.have {
		keep[ip] = struct{}{}
	}
	for _, ip := range r.node.sources.have {
		keep[ip] = struct{}{}
	}
	for ip := range keep {
		if _, held := r.node.kept[ip]; !held {
			r.filterHold(ip)
		}
	}
	for ip := range r.node.kept {
		if _, stays := keep[ip]; !stays {
			r.filterDrop(ip)
		}
	}
	r.node.kept = keep
}

// mirror is a hash table and what it holds.
type mirror[K, V comparable] struct {
	table maps.Hash[K, V]
	name  func(K) string // of an entry, for people
	have  map[K]V
}

// entry is what a table is to hold.
type entry[K, V comparable] struct {
	key   K
	value V
}

func newMirror[K, V comparable](table maps.Hash[K, V], name func(K) string) mirror[K, V] {
	return mirror[K, V]{table: table, name: name, have: map[K]V{}}
}

func (m *mirror[K, V]) read() error {
	return m.table.Each(func(key K, value V) bool {
		m.have[key] = value
		return true
	})
}

// put writes those entries that differ.
func (m *mirror[K, V]) put(want []entry[K, V]) (errs []error) {
	var keys []K
	var values []V
	for _, w := range want {
		if is, there := m.have[w.key]; !there || is != w.value {
			keys, values = append(keys, w.key), append(values, w.value)
		}
	}
	putAll(m.table, keys, values, func(i int, err error) {
		if err == nil {
			m.have[keys[i]] = values[i]
		} else {
			errs = append(errs, fmt.Errorf("%s: %w", m.name(keys[i]), err))
		}
	})
	return errs
}

// prune removes all other entries.
func (m *mirror[K, V]) prune(want []entry[K, V]) (errs []error) {
	wanted := make(map[K]struct{}, len(want))
	for _, w := range want {
		wanted[w.key] = struct{}{}
	}
	for key := range m.have {
		if _, stays := wanted[key]; stays {
			continue
		}
		if err := m.table.Delete(key); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name(key), err))
			continue
		}
		delete(m.have, key)
	}
	return errs
}

// prefixString names a prefix of the kernel's one width; bits counts from the
// first bit of the address.
func prefixString(ip abi.IP, bits uint32) string {
	addr := abi.NetIP(ip)
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, int(bits)).String()
}
