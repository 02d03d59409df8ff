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
	StaleSocket  = kernelStaleSocket
	Ending       = kernelEnding
	AffinityKey  = kernelAffinityKey
	Affinity     = kernelAffinity
	SetKind      = kernelSetKind
	EmptySet     = kernelEmptySet
	BackendState = kernelBackendState
	Counter      = kernelCounter

	Flow           = kernelFlow
	FlowTuple      = kernelFlowTuple
	FlowLine       = kernelFlowLine
	FlowTimeout    = kernelFlowTimeout
	PodRangeKey    = kernelPodRangeKey
	SourceRangeKey = kernelSourceRangeKey
	EgressKey      = kernelEgressKey
	FragmentKey    = kernelFragmentKey
	Fragment       = kernelFragment
	RateBucket     = kernelRateBucket

	// Trace are the steps of a dry run.
	Trace      = kernelTrace
	TraceStage = kernelTraceStage
	Scope      = kernelScope

	Event          = kernelEvent
	EventKind      = kernelEventKind
	EventHook      = kernelEventHook
	ListenerPlaces = kernelListenerPlaces
	ServiceCount   = kernelServiceCount
	ServiceRefusal = kernelServiceRefusal
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

// Flags of a Flow.
const (
	FlowUsed       = uint32(kernelFlowFlagFLOW_USED)
	FlowSNAT       = uint32(kernelFlowFlagFLOW_SNAT)
	FlowLocal      = uint32(kernelFlowFlagFLOW_LOCAL)
	FlowReplied    = uint32(kernelFlowFlagFLOW_REPLIED)
	FlowAssured    = uint32(kernelFlowFlagFLOW_ASSURED)
	FlowFinRequest = uint32(kernelFlowFlagFLOW_FIN_REQUEST)
	FlowFinReply   = uint32(kernelFlowFlagFLOW_FIN_REPLY)
	FlowRst        = uint32(kernelFlowFlagFLOW_RST)
)

// The directions of a Flow, indexes into its Tuple.
const (
	FlowRequest = int(kernelFlowDirectionFLOW_REQUEST)
	FlowReply   = int(kernelFlowDirectionFLOW_REPLY)
)

// FlowHints is how many hints a line of the flow index holds.
const FlowHints = uint32(kernelAbiConstABI_CONST_FLOW_HINTS)

// How long a silent flow is kept: indexes into the table of timeouts.
const (
	TimeoutTCPOpening      = kernelFlowTimeoutFLOW_TIMEOUT_TCP_OPENING
	TimeoutTCPAnswered     = kernelFlowTimeoutFLOW_TIMEOUT_TCP_ANSWERED
	TimeoutTCPEstablished  = kernelFlowTimeoutFLOW_TIMEOUT_TCP_ESTABLISHED
	TimeoutTCPHalfClosed   = kernelFlowTimeoutFLOW_TIMEOUT_TCP_HALF_CLOSED
	TimeoutTCPClosed       = kernelFlowTimeoutFLOW_TIMEOUT_TCP_CLOSED
	TimeoutTCPReset        = kernelFlowTimeoutFLOW_TIMEOUT_TCP_RESET
	TimeoutUDPUnanswered   = kernelFlowTimeoutFLOW_TIMEOUT_UDP_UNANSWERED
	TimeoutUDPAnswered     = kernelFlowTimeoutFLOW_TIMEOUT_UDP_ANSWERED
	TimeoutSCTPOpening     = kernelFlowTimeoutFLOW_TIMEOUT_SCTP_OPENING
	TimeoutSCTPEstablished = kernelFlowTimeoutFLOW_TIMEOUT_SCTP_ESTABLISHED
	TimeoutSCTPClosed      = kernelFlowTimeoutFLOW_TIMEOUT_SCTP_CLOSED
	// Timeouts is how many there are.
	Timeouts = int(kernelFlowTimeoutFLOW_TIMEOUTS)
)

// Flags of an address in MapLocalAddrs.
const (
	LocalAddrHere     = uint32(kernelLocalAddrFlagLOCAL_ADDR_HERE)
	LocalAddrNodePort = uint32(kernelLocalAddrFlagLOCAL_ADDR_NODE_PORT)
)

// How far a dry run came, see bpf/lib/abi.h.
const (
	TraceNothing    = kernelTraceStageTRACE_NOTHING
	TraceNoFrontend = kernelTraceStageTRACE_NO_FRONTEND
	TraceOddSource  = kernelTraceStageTRACE_ODD_SOURCE
	TraceMidFlow    = kernelTraceStageTRACE_MID_FLOW
	TraceRefused    = kernelTraceStageTRACE_REFUSED
	TraceChosen     = kernelTraceStageTRACE_CHOSEN
	TraceTranslated = kernelTraceStageTRACE_TRANSLATED
	TraceHandedOver = kernelTraceStageTRACE_HANDED_OVER
)

// Where a client is.
const (
	ScopeExternal = kernelScopeSCOPE_EXTERNAL
	ScopePod      = kernelScopeSCOPE_POD
	ScopeNode     = kernelScopeSCOPE_NODE
)

// Kinds of an Event.
const (
	EventSocket  = kernelEventKindEVENT_SOCKET
	EventFlow    = kernelEventKindEVENT_FLOW
	EventRefused = kernelEventKindEVENT_REFUSED
	EventDropped = kernelEventKindEVENT_DROPPED
	// EventKinds is how many there are.
	EventKinds = int(kernelEventKindEVENT_KINDS)
)

// Hooks of an Event.
const (
	EventAtConnect = kernelEventHookEVENT_AT_CONNECT
	EventAtSendmsg = kernelEventHookEVENT_AT_SENDMSG
	EventAtIngress = kernelEventHookEVENT_AT_INGRESS
	EventAtEgress  = kernelEventHookEVENT_AT_EGRESS
)

// ServiceNone is no Service's index.
const ServiceNone = ^uint32(0)

// MaxListeners is how many may listen to events at once.
const MaxListeners = int(kernelAbiConstABI_CONST_LISTENERS)

// Counters counts the values of Counter.
const Counters = int(kernelCounterCOUNTER_COUNT)

// CounterHandedBack grows while UDP sockets use flows from before a rollback.
const CounterHandedBack = kernelCounterCOUNTER_HANDED_BACK

// counterNames are stable: metrics and the command line print them.
var counterNames = [Counters]string{
	kernelCounterCOUNTER_NO_BACKEND:       "no_backend",
	kernelCounterCOUNTER_NO_LOCAL:         "no_local_backend",
	kernelCounterCOUNTER_UNKNOWN_PORT:     "unknown_port",
	kernelCounterCOUNTER_STALE_TABLE:      "stale_table",
	kernelCounterCOUNTER_PEER_FULL:        "tcp_peer_map_full",
	kernelCounterCOUNTER_UDP_NO_STORAGE:   "udp_peer_no_memory",
	kernelCounterCOUNTER_UDP_FLOW_EVICTED: "udp_peer_evicted",

	kernelCounterCOUNTER_SOURCE_RANGE:       "source_range",
	kernelCounterCOUNTER_CLUSTER_IP_OUTSIDE: "cluster_ip_outside",
	kernelCounterCOUNTER_FLOW_FULL:          "flow_table_full",
	kernelCounterCOUNTER_FLOW_EVICTED:       "flow_evicted",
	kernelCounterCOUNTER_FLOW_STRAY:         "flow_stray",
	kernelCounterCOUNTER_SNAT_NO_PORT:       "snat_no_port",
	kernelCounterCOUNTER_SNAT_NO_ADDRESS:    "snat_no_address",
	kernelCounterCOUNTER_NO_ROUTE:           "no_route",
	kernelCounterCOUNTER_TOO_BIG:            "too_big",
	kernelCounterCOUNTER_TTL_EXPIRED:        "ttl_expired",
	kernelCounterCOUNTER_FRAGMENT_EARLY:     "fragment_early",
	kernelCounterCOUNTER_MALFORMED:          "malformed",
	kernelCounterCOUNTER_REWRITE_FAILED:     "rewrite_failed",
	kernelCounterCOUNTER_ICMP_LIMITED:       "icmp_limited",
	kernelCounterCOUNTER_ICMP_SENT:          "icmp_sent",
	kernelCounterCOUNTER_HANDED_BACK:        "handed_back",
	kernelCounterCOUNTER_MARTIAN:            "martian",
	kernelCounterCOUNTER_UNASSIGNED:         "unassigned_cluster_ip",
	kernelCounterCOUNTER_FLOW_BUSY:          "flow_busy",
	kernelCounterCOUNTER_EXTENSIONS:         "ipv6_extensions",
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
	MapOptOuts    = kernelMapOptOuts
	MapOptOutSize = kernelMapOptOutCount
	MapAffinities = kernelMapAffinities
	MapCounters   = kernelMapCounters
	MapKeptFlows  = kernelMapKeptFlows

	// Of the packet path.
	MapLocalAddrs     = kernelMapLocalAddrs
	MapPodRanges      = kernelMapPodRanges
	MapSourceRanges   = kernelMapSourceRanges
	MapEgressAddrs    = kernelMapEgressAddrs
	MapReservedPorts  = kernelMapReservedPorts
	MapFlows          = kernelMapFlows
	MapFlowIndex      = kernelMapFlowIndex
	MapFragments      = kernelMapFragments
	MapICMPTokens     = kernelMapIcmpTokens
	MapFragmentTokens = kernelMapFragmentTokens

	// What people watch.
	MapListeners      = kernelMapListeners
	MapEventRings     = kernelMapEventRings
	MapServiceCounts  = kernelMapServiceCounts
	MapServiceRefused = kernelMapServiceRefused
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

// prefixBits is the length of a prefix in the kernel's one width.
func prefixBits(prefix netip.Prefix) uint32 {
	return uint32(prefix.Bits() + 128 - prefix.Addr().BitLen())
}

// NewFlowTuple makes a tuple of a packet from src to dst. A zero src stands for
// a client whose address is not known (abi.MapKeptFlows).
func NewFlowTuple(protocol uint8, src, dst netip.AddrPort) FlowTuple {
	return FlowTuple{
		Src: Addr(src.Addr()), Dst: Addr(dst.Addr()),
		Sport: Port(src.Port()), Dport: Port(dst.Port()), Protocol: protocol,
	}
}

// NewPodRangeKey makes the key of a range of pod addresses.
func NewPodRangeKey(prefix netip.Prefix) PodRangeKey {
	return PodRangeKey{Prefixlen: prefixBits(prefix), Addr: Addr(prefix.Masked().Addr())}
}

// NewSourceRangeKey makes the key of a range that may use a Service port.
func NewSourceRangeKey(service uint32, prefix netip.Prefix) SourceRangeKey {
	return SourceRangeKey{Prefixlen: 32 + prefixBits(prefix), Service: service, Addr: Addr(prefix.Masked().Addr())}
}

// NewEgressKey makes the key of the address that a device's packets leave
// with; ifindex 0 stands for devices without one.
func NewEgressKey(ifindex int, v6 bool) EgressKey {
	if v6 {
		return EgressKey{Ifindex: uint32(ifindex), Family: 6}
	}
	return EgressKey{Ifindex: uint32(ifindex), Family: 4}
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
