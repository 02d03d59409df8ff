// SPDX-License-Identifier: Apache-2.0

// Package abi is the contract with the kernel programs: the types and numbers
// of bpf/lib/abi.h, generated, under Go names, and the constructors that are
// the only place where byte order is handled. Nothing here calls the kernel.
package abi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"
)

// The shared types; their fields are documented in bpf/lib/abi.h.
type (
	// IP is an address in network byte order, IPv4 as ::ffff:a.b.c.d.
	IP           = kernelIpAddr
	FrontendKey  = kernelFrontendKey
	Frontend     = kernelFrontend
	Slot         = kernelSlot
	Backend      = kernelBackend
	ServiceName  = kernelServiceName
	Peer         = kernelPeer
	UDPFlows     = kernelUdpFlows
	AffinityKey  = kernelAffinityKey
	Affinity     = kernelAffinity
	SetKind      = kernelSetKind
	EmptySet     = kernelEmptySet
	BackendState = kernelBackendState
	Counter      = kernelCounter
)

// Layout is the version of every map layout; it is part of the pin path.
const Layout = uint32(kernelAbiConstABI_CONST_LAYOUT)

// VIPFilterBits is how many bits the filter of frontend addresses has.
const VIPFilterBits = uint32(kernelAbiConstABI_CONST_VIP_FILTER_BITS)

// Flags of a Frontend.
const (
	FlagClusterIP     = uint32(kernelFrontendFlagFRONTEND_CLUSTER_IP)
	FlagNodePort      = uint32(kernelFrontendFlagFRONTEND_NODE_PORT)
	FlagLoadBalancer  = uint32(kernelFrontendFlagFRONTEND_LOAD_BALANCER)
	FlagExternalIP    = uint32(kernelFrontendFlagFRONTEND_EXTERNAL_IP)
	FlagAddress       = uint32(kernelFrontendFlagFRONTEND_ADDRESS)
	FlagInternalLocal = uint32(kernelFrontendFlagFRONTEND_INTERNAL_LOCAL)
	FlagExternalLocal = uint32(kernelFrontendFlagFRONTEND_EXTERNAL_LOCAL)
	FlagSourceRanges  = uint32(kernelFrontendFlagFRONTEND_SOURCE_RANGES)
)

// The sets of a Service port.
const (
	SetCluster = kernelSetKindSET_CLUSTER
	SetLocal   = kernelSetKindSET_LOCAL
	SetKinds   = uint32(kernelSetKindSET_KINDS)
)

// What an empty set tells a client.
const (
	EmptyReject = kernelEmptySetEMPTY_SET_REJECT
	EmptyDrop   = kernelEmptySetEMPTY_SET_DROP
)

// States of a Backend.
const (
	BackendFree        = kernelBackendStateBACKEND_FREE
	BackendActive      = kernelBackendStateBACKEND_ACTIVE
	BackendTerminating = kernelBackendStateBACKEND_TERMINATING
	BackendDraining    = kernelBackendStateBACKEND_DRAINING
)

// Counters counts the values of Counter.
const Counters = int(kernelCounterCOUNTER_COUNT)

// counterNames are stable: metrics and the command line print them.
var counterNames = [Counters]string{
	kernelCounterCOUNTER_NO_BACKEND:       "no_backend",
	kernelCounterCOUNTER_NO_LOCAL:         "no_local_backend",
	kernelCounterCOUNTER_UNKNOWN_PORT:     "unknown_port",
	kernelCounterCOUNTER_STALE_TABLE:      "stale_table",
	kernelCounterCOUNTER_PEER_FULL:        "tcp_peer_map_full",
	kernelCounterCOUNTER_UDP_NO_STORAGE:   "udp_peer_no_memory",
	kernelCounterCOUNTER_UDP_FLOW_EVICTED: "udp_peer_evicted",
}

func (c kernelCounter) String() string {
	if int(c) < len(counterNames) {
		return counterNames[c]
	}
	return fmt.Sprintf("counter_%d", uint32(c))
}

// MapSpecs returns the definition of every map, as compiled from bpf/lib/maps.h.
func MapSpecs() (map[string]*ebpf.MapSpec, error) {
	spec, err := loadKernel()
	if err != nil {
		return nil, fmt.Errorf("read map definitions: %w", err)
	}
	// Data sections (.bss.*) are no maps of ours.
	maps.DeleteFunc(spec.Maps, func(name string, _ *ebpf.MapSpec) bool {
		return strings.HasPrefix(name, ".")
	})
	return spec.Maps, nil
}

// Names of the maps.
const (
	MapVIPFilter  = kernelMapVipFilter
	MapFrontends  = kernelMapFrontends
	MapSets       = kernelMapSets
	MapSlots      = kernelMapSlots
	MapBackends   = kernelMapBackends
	MapServices   = kernelMapServices
	MapPeers      = kernelMapPeers
	MapUDPPeers   = kernelMapUdpPeers
	MapAffinities = kernelMapAffinities
	MapCounters   = kernelMapCounters
)

// Addr converts to the kernel's one width.
func Addr(addr netip.Addr) IP {
	b := addr.As16()
	var ip IP
	for i := range ip.Word {
		ip.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return ip
}

// NetIP converts back; IPv4 comes out as IPv4.
func NetIP(ip IP) netip.Addr {
	var b [16]byte
	for i, w := range ip.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

// Port converts between host and network byte order, either way.
func Port(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// NewFrontendKey makes a key; port is in host order.
func NewFrontendKey(addr netip.Addr, port uint16, protocol uint8) FrontendKey {
	return FrontendKey{Addr: Addr(addr), Port: Port(port), Protocol: protocol}
}

// SetIndex is SET_OF: the index of a Service port's set.
func SetIndex(service uint32, kind SetKind) uint32 {
	return service*SetKinds + uint32(kind)
}

// SetWord packs a non-empty set: its first slot and how many follow.
func SetWord(base, members uint32) uint64 {
	return uint64(members)<<32 | uint64(base)
}

// EmptySetWord is the set without members.
func EmptySetWord(verdict EmptySet) uint64 { return uint64(verdict) }

// UnpackSet is the inverse of SetWord; with no members, base is an EmptySet.
func UnpackSet(word uint64) (base, members uint32) {
	return uint32(word), uint32(word >> 32)
}

// FilterBit is vip_filter_bit of bpf/lib/vip_filter.h: which bit of the filter
// stands for an address.
func FilterBit(ip IP) uint32 {
	h := ip.Word[0]*0x9e3779b1 + ip.Word[1]*0x85ebca77 +
		ip.Word[2]*0xc2b2ae3d + ip.Word[3]*0x27d4eb2f
	h ^= h >> 15
	h *= 0x2c1b3c6d
	h ^= h >> 12
	return h & (VIPFilterBits - 1)
}

// NewServiceName makes the record of who a service index belongs to. It fails
// if a name is longer than Kubernetes allows (63 bytes).
func NewServiceName(namespace, name, port string, protocol, family uint8) (ServiceName, error) {
	n := ServiceName{Protocol: protocol, Family: family}
	for _, f := range []struct {
		dst *[64]uint8
		src string
	}{{&n.Ns, namespace}, {&n.Name, name}, {&n.Port, port}} {
		if len(f.src) >= len(f.dst) {
			return n, fmt.Errorf("name %q: longer than %d bytes", f.src, len(f.dst)-1)
		}
		copy(f.dst[:], f.src)
	}
	return n, nil
}

// Text returns a string that the kernel keeps NUL-terminated.
func Text(field [64]uint8) string {
	if i := bytes.IndexByte(field[:], 0); i >= 0 {
		return string(field[:i])
	}
	return string(field[:])
}
