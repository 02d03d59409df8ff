// SPDX-License-Identifier: Apache-2.0

// Package model holds what the outside world says, as plain values: Services,
// their endpoints and this node. Sources make these values; the plan is
// computed from nothing else. It knows neither Kubernetes' Go types nor eBPF.
package model

import (
	"fmt"
	"net/netip"
	"time"
)

// Family is an address family. Its number is the IP version.
type Family uint8

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, in the order in which they are always walked.
var Families = [...]Family{IPv4, IPv6}

func (f Family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// FamilyOf returns the family of addr; an IPv4-mapped IPv6 address is IPv4.
func FamilyOf(addr netip.Addr) Family {
	if addr.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Protocol is an IP protocol number (IPPROTO_*).
type Protocol uint8

// The protocols a Service may have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// ParseProtocol understands the names that a Service may use; empty is TCP,
// the API's default.
func ParseProtocol(name string) (Protocol, error) {
	switch name {
	case "TCP", "":
		return TCP, nil
	case "UDP":
		return UDP, nil
	case "SCTP":
		return SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q: must be TCP, UDP or SCTP", name)
}

// Name identifies a namespaced object.
type Name struct {
	Namespace, Name string
}

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n Name) Compare(o Name) int {
	switch {
	case n == o:
		return 0
	case n.Namespace < o.Namespace, n.Namespace == o.Namespace && n.Name < o.Name:
		return -1
	}
	return 1
}

// ServiceType is spec.type, as far as a proxy cares.
type ServiceType uint8

// The types that are proxied. ExternalName and headless Services never become
// a model.Service.
const (
	ClusterIP ServiceType = iota
	NodePort
	LoadBalancer
)

// Service is one Service that a proxy has to implement.
type Service struct {
	Name Name
	// UID names the object in Events; a manifest without one has none.
	UID string
	// Created breaks ties between Services that claim the same frontend: the
	// older wins. Zero for manifests, where the name decides.
	Created time.Time
	Type    ServiceType

	// ClusterIPs holds at most one address per family.
	ClusterIPs []netip.Addr
	// ExternalIPs as in spec.externalIPs.
	ExternalIPs []netip.Addr
	// LoadBalancerIPs holds the ingress addresses with ipMode VIP; those with
	// ipMode Proxy and hostnames are left out by the source (KEP-1860).
	LoadBalancerIPs []netip.Addr
	// SourceRanges as in spec.loadBalancerSourceRanges, both families mixed.
	SourceRanges []netip.Prefix

	// InternalLocal and ExternalLocal are true for traffic policy Local.
	InternalLocal, ExternalLocal bool
	// AffinityTimeout is the idle time after which a ClientIP pin ends, in
	// whole seconds; 0 means no session affinity.
	AffinityTimeout time.Duration
	// HealthCheckNodePort is set only where a health check is due: type
	// LoadBalancer with external policy Local.
	HealthCheckNodePort uint16
	// Drain says what becomes of the TCP connections of an endpoint that takes
	// no new ones any more.
	Drain Drain

	Ports []ServicePort
}

// Drain is what becomes of TCP connections of an endpoint that is gone. The zero
// value keeps them for as long as the endpoint answers.
type Drain struct {
	// Reset ends them once After has passed.
	Reset bool
	After time.Duration
}

// ServicePort is one of a Service's ports.
type ServicePort struct {
	// Name may be empty if it is the only port.
	Name     string
	Protocol Protocol
	Port     uint16
	// NodePort is 0 where none is allocated.
	NodePort uint16
}

// EndpointSlice is one slice of a Service's endpoints.
type EndpointSlice struct {
	// Name is the slice's own name.
	Name Name
	// Service is the label kubernetes.io/service-name, same namespace.
	Service Name
	Family  Family
	// Ports with a nil or zero number are left out by the source.
	Ports     []EndpointPort
	Endpoints []Endpoint
	// Trigger is the annotation endpoints.kubernetes.io/last-change-trigger-time,
	// zero if absent. It feeds network_programming_duration_seconds.
	Trigger time.Time
}

// EndpointPort is one port that every endpoint of a slice has.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is one address behind a Service.
type Endpoint struct {
	// Addr is addresses[0]; kube-proxy ignores the others.
	Addr netip.Addr
	// Conditions with nil resolved: ready and serving default to true,
	// terminating to false.
	Ready, Serving, Terminating bool
	// Node is the node it runs on; empty is never local.
	Node string
	// ForZones and ForNodes are the topology hints.
	ForZones, ForNodes []string
	// Target names the pod behind it for people; may be empty.
	Target string
}

// ServiceCIDR is a range of which ClusterIPs are taken, or two, one of each
// family.
type ServiceCIDR struct {
	// Name is the object's; it has no namespace.
	Name  Name
	CIDRs []netip.Prefix
}

// Node is the node this agent runs on.
type Node struct {
	Name string
	// Zone is label topology.kubernetes.io/zone.
	Zone string
	// Addresses are the InternalIPs and ExternalIPs of its status.
	Addresses []netip.Addr
	// PodCIDRs is spec.podCIDRs.
	PodCIDRs []netip.Prefix
	// Draining is true while load balancers are to leave the node alone: it is
	// being deleted, has no Node object (any more), or carries the taint
	// ToBeDeletedByClusterAutoscaler (KEP-3836).
	Draining bool
	// Takeover is annotation beeline.dev/takeover: what an operator wants of this
	// node (package takeover); empty if there is none.
	Takeover string
}
