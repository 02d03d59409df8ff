// SPDX-License-Identifier: Apache-2.0

// Package host decides what the packet path has to know about this node itself:
// which addresses are its own and serve NodePorts, which source its packets
// leave with, where its pods are, and which ports source NAT keeps off. It is
// pure, as package plan is.
package host

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Tables are what the packet path knows about the node. They are the whole
// truth: what is not in them is to be removed.
type Tables struct {
	// Addresses are the node's own, sorted, each once.
	Addresses []Address
	// Sources are sorted by device and family.
	Sources []Source
	// PodRanges hold all pods, if addresses tell them from others, and nothing
	// else. Sorted, each once.
	PodRanges []netip.Prefix
	// Reserved are the ports that source NAT keeps off.
	Reserved Ports
}

// Address is an address of the node.
type Address struct {
	Addr netip.Addr
	// NodePorts are served on it.
	NodePorts bool
}

// Source is the address that packets of a family leave a device with.
type Source struct {
	// Device is its index; 0 stands for all that have no Source of their own.
	Device int
	Family model.Family
	Addr   netip.Addr
}

// Equal reports whether both say the same.
func (t Tables) Equal(o Tables) bool {
	return slices.Equal(t.Addresses, o.Addresses) && slices.Equal(t.Sources, o.Sources) &&
		slices.Equal(t.PodRanges, o.PodRanges) && t.Reserved == o.Reserved
}

// New computes the tables for a node with that network. Its status says which
// addresses are the main ones; which it really has, the network says.
func New(network model.Network, node model.Node, config plan.Config, reserved Ports) Tables {
	return Tables{
		Addresses: addresses(network, config.NodePortMatcher(node)),
		Sources:   sources(network, node, config),
		PodRanges: podRanges(config.DetectLocal, node),
		Reserved:  reserved,
	}
}

// addresses are those of all devices: that one is down does not keep the node
// from answering for its address on the others. A loopback address is left out
// if it serves no NodePort: no packet with it comes from a device, and every
// connection to it would pass the filter in vain.
func addresses(network model.Network, nodePorts plan.NodePortMatcher) []Address {
	var all []Address
	for _, addr := range network.Addresses() {
		a := Address{Addr: addr.Unmap().WithZone("")}
		if a.NodePorts = nodePorts.Match(a.Addr); a.NodePorts || !a.Addr.IsLoopback() {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b Address) int { return a.Addr.Compare(b.Addr) })
	return slices.Compact(all)
}

// sources gives every device that packets may leave by the first address that
// whoever is behind it can answer to (pains A36).
func sources(network model.Network, node model.Node, config plan.Config) []Source {
	var all []Source
	for _, family := range model.Families {
		if addr := mainSource(network, config.Primary(node, family), family); addr.IsValid() {
			all = append(all, Source{Family: family, Addr: addr})
		}
		for _, d := range network.Devices {
			if addr := deviceSource(network, d, family); addr.IsValid() && d.Up && !d.Loopback {
				all = append(all, Source{Device: d.Index, Family: family, Addr: addr})
			}
		}
	}
	slices.SortFunc(all, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
	return all
}

// deviceSource is a device's first address; of one that has none in a VRF, the
// VRF's, as the kernel would choose (inet_select_addr).
func deviceSource(network model.Network, d model.Device, family model.Family) netip.Addr {
	addr := first(d, family)
	if addr.IsValid() || d.Master == 0 {
		return addr
	}
	for _, master := range network.Devices {
		if master.VRF && master.Up && master.Index == d.Master {
			return first(master, family)
		}
	}
	return addr
}

// mainSource is the node's primary address if it has it; else the first that
// its devices have, as the kernel would choose (inet_select_addr).
func mainSource(network model.Network, primary netip.Addr, family model.Family) netip.Addr {
	var other netip.Addr
	for _, d := range network.Devices {
		if primary.IsValid() && answerable(primary) && slices.Contains(d.Addresses, primary) {
			return primary
		}
		if !other.IsValid() && d.Up {
			other = first(d, family)
		}
	}
	return other
}

// first is a device's first address of a family that can be answered to, or
// the zero address.
func first(d model.Device, family model.Family) netip.Addr {
	for _, addr := range d.Addresses {
		if addr = addr.Unmap(); model.FamilyOf(addr) == family && answerable(addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// answerable: others than the node and its neighbours can send there.
func answerable(addr netip.Addr) bool { return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() }

// podRanges are empty if something else than addresses tells pods from others,
// or nothing does (kube-proxy: cmd/kube-proxy/app, getLocalDetectors).
func podRanges(detect plan.DetectLocal, node model.Node) []netip.Prefix {
	ranges := map[plan.DetectLocalMode][]netip.Prefix{
		plan.DetectClusterCIDR: detect.ClusterCIDRs,
		plan.DetectNodeCIDR:    node.PodCIDRs,
	}[detect.Mode]
	set := map[netip.Prefix]struct{}{}
	for _, r := range ranges {
		if r.IsValid() {
			set[r.Masked()] = struct{}{}
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
}
