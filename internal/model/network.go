// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// Network is this node's own network, as its kernel has it.
type Network struct {
	// Devices are sorted by index.
	Devices []Device
}

// Device is one network device.
type Device struct {
	Index int
	Name  string
	// Up: it may carry packets.
	Up bool
	// Loopback is lo.
	Loopback bool
	// LinkHeader: its packets begin with an Ethernet header; those of tunnels
	// and WireGuard begin with the IP header.
	LinkHeader bool
	// Bridge: it is a bridge.
	Bridge bool
	// VRF: it stands for a routing domain. Its members' packets come and go by
	// the members themselves, as if they had no master.
	VRF bool
	// Master is the index of the bridge, bond or VRF that it belongs to; 0 for
	// none.
	Master int
	// Parent is the index of the device whose VLAN it is, which carries its
	// packets with a tag; 0 for none.
	Parent int
	// Addresses are its own, those of the widest scope first, in the kernel's
	// order otherwise: the first of a family is the one to send from.
	Addresses []netip.Addr
}

// Addresses are all addresses of the node, each once.
func (n Network) Addresses() []netip.Addr {
	var all []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, d := range n.Devices {
		for _, a := range d.Addresses {
			if !seen[a] {
				seen[a] = true
				all = append(all, a)
			}
		}
	}
	return all
}
