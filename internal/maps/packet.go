// SPDX-License-Identifier: Apache-2.0

package maps

import "github.com/beeline-net/beeline/internal/abi"

// PacketTables are what the packet path has beside the tables that it shares
// with the socket hooks. The agent writes them, programs read them.
type PacketTables struct {
	// LocalAddrs holds the node's own addresses with their abi.LocalAddr flags.
	LocalAddrs Hash[abi.IP, uint32]
	// PodRanges and SourceRanges are tables of prefixes, see Hash. That a prefix
	// is there is all that counts; its value means nothing.
	PodRanges    Hash[abi.PodRangeKey, uint32]
	SourceRanges Hash[abi.SourceRangeKey, uint32]
	// EgressAddrs holds what packets that leave by a device have as source.
	EgressAddrs   Hash[abi.EgressKey, abi.IP]
	ReservedPorts ReservedPorts
}

// packetMaps are the maps that PacketTables needs: all or none are there.
var packetMaps = [...]string{
	abi.MapLocalAddrs, abi.MapPodRanges, abi.MapSourceRanges, abi.MapEgressAddrs, abi.MapReservedPorts,
}

// packet opens the tables of the packet path, nil if there are none.
func (o *opener) packet() *PacketTables {
	there := false
	for _, name := range packetMaps {
		// The programs of sockets know the node's addresses, too.
		there = there || name != abi.MapLocalAddrs && o.kernel[name] != nil
	}
	if !there {
		return nil
	}
	return &PacketTables{
		LocalAddrs:    openHash[abi.IP, uint32](o, abi.MapLocalAddrs),
		PodRanges:     openTrie[abi.PodRangeKey, uint32](o, abi.MapPodRanges),
		SourceRanges:  openTrie[abi.SourceRangeKey, uint32](o, abi.MapSourceRanges),
		EgressAddrs:   openHash[abi.EgressKey, abi.IP](o, abi.MapEgressAddrs),
		ReservedPorts: ReservedPorts{o.words(abi.MapReservedPorts, 8)},
	}
}

// ReservedPorts holds one bit a port, set where source NAT keeps off: port p is
// bit p%64 of word p/64.
type ReservedPorts struct{ words Words }

// reservedPortWords is how many words all ports take.
const reservedPortWords = 1 << 16 / 64

// Len is how many words there are.
func (p ReservedPorts) Len() uint32 { return p.words.Len() }

// Load returns the bits of 64 ports.
func (p ReservedPorts) Load(word uint32) uint64 { return p.words.Load(word) }

// Store writes the bits of 64 ports; if they are so already, it writes nothing.
func (p ReservedPorts) Store(word uint32, bits uint64) {
	if p.words.Load(word) != bits {
		p.words.Store(word, bits)
	}
}
