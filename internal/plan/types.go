// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// PortID identifies one Service port in one family: the unit that owns
// frontends, backends and backend sets, and whose number the kernel knows.
type PortID struct {
	Service  model.Name
	Port     string
	Protocol model.Protocol
	Family   model.Family
}

func (id PortID) String() string {
	s := id.Service.String()
	if id.Port != "" {
		s += ":" + id.Port
	}
	return s + "/" + id.Protocol.String() + "/" + id.Family.String()
}

// Compare orders ids by Service, port name, protocol and family.
func (id PortID) Compare(o PortID) int {
	return cmp.Or(id.Service.Compare(o.Service), cmp.Compare(id.Port, o.Port),
		cmp.Compare(id.Protocol, o.Protocol), cmp.Compare(id.Family, o.Family))
}

// Kind is the kind of a frontend.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	NodePort
	LoadBalancer
	ExternalIP
)

func (k Kind) String() string {
	return [...]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"}[k]
}

// FrontendKey is where a Service port is reached. For a NodePort, Addr is the
// unspecified address of its family and stands for the node's own addresses.
// Port and Protocol 0 stand for the address as such: whatever reaches a port
// that its Service does not have.
type FrontendKey struct {
	Addr     netip.Addr
	Port     uint16
	Protocol model.Protocol
}

// Compare orders keys by address, port and protocol.
func (k FrontendKey) Compare(o FrontendKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Port, o.Port), cmp.Compare(k.Protocol, o.Protocol))
}

func (k FrontendKey) String() string {
	return netip.AddrPortFrom(k.Addr, k.Port).String() + "/" + k.Protocol.String()
}

// Frontend is one frontend of a Service port.
type Frontend struct {
	FrontendKey
	Kind Kind
	// InternalLocal (ExternalLocal): clients inside (outside) the cluster pick
	// from the Local set instead of the Cluster set.
	InternalLocal, ExternalLocal bool
	// AffinityTimeout is the idle time of a ClientIP pin; 0 means none.
	AffinityTimeout time.Duration
	// SourceRanges: if not empty, only these clients pass. Sorted.
	SourceRanges []netip.Prefix
}

// Equal reports whether both say the same.
func (f Frontend) Equal(o Frontend) bool {
	return f.FrontendKey == o.FrontendKey && f.Kind == o.Kind &&
		f.InternalLocal == o.InternalLocal && f.ExternalLocal == o.ExternalLocal &&
		f.AffinityTimeout == o.AffinityTimeout && slices.Equal(f.SourceRanges, o.SourceRanges)
}

// State is what a backend may be used for.
type State uint8

// The states of a backend.
const (
	// Active takes new flows.
	Active State = iota
	// Terminating is used for new flows only where nothing active is left.
	Terminating
	// Draining is in no set: it keeps the flows it has.
	Draining
)

func (s State) String() string {
	return [...]string{"active", "terminating", "draining"}[s]
}

// Backend is one endpoint of a Service port.
type Backend struct {
	Addr  netip.AddrPort
	State State
	// Local is true if it runs on this node.
	Local bool
	// Target names the pod for people; may be empty.
	Target string
}

// Empty is what a client gets from a set without members.
type Empty uint8

// The two verdicts of an empty set.
const (
	// Reject: no usable endpoint anywhere; the client is refused at once.
	Reject Empty = iota
	// Drop: policy Local, and usable endpoints only on other nodes.
	Drop
)

// Set is what a frontend may pick from.
type Set struct {
	// Members are indexes into Port.Backends, ascending.
	Members []int
	// Empty applies while there are no members.
	Empty Empty
}

// Equal reports whether both say the same.
func (s Set) Equal(o Set) bool { return s.Empty == o.Empty && slices.Equal(s.Members, o.Members) }

// Port is everything the kernel must hold for one Service port.
type Port struct {
	ID PortID
	// Frontends are sorted by key, without duplicates.
	Frontends []Frontend
	// Backends are sorted by address, without duplicates.
	Backends []Backend
	// Cluster and Local are the sets of traffic policy Cluster and Local.
	// Each is filled only if one of the frontends has such a policy.
	Cluster, Local Set
}

// Equal reports whether both say the same.
func (p Port) Equal(o Port) bool {
	return p.ID == o.ID && slices.EqualFunc(p.Frontends, o.Frontends, Frontend.Equal) &&
		slices.Equal(p.Backends, o.Backends) && p.Cluster.Equal(o.Cluster) && p.Local.Equal(o.Local)
}

// HealthCheck is what a Service's HealthCheckNodePort answers in one family.
type HealthCheck struct {
	Family model.Family
	// Port is where it listens, on the addresses that serve NodePorts.
	Port uint16
	// LocalReady counts the distinct addresses of ready endpoints on this node,
	// over all ports. Terminating ones never count.
	LocalReady int
}

// Service is the plan of one Service. One without Ports and Addresses is to be
// removed.
type Service struct {
	Name model.Name
	// Ports are sorted by ID.
	Ports []Port
	// Addresses are the frontends with port 0: VIPs whose unknown ports are
	// refused. Sorted by key.
	Addresses []netip.Addr
	// Health holds one check for each family of the Service; none if no health
	// check is due.
	Health []HealthCheck
}

// Empty reports whether there is nothing to hold for the Service.
func (s Service) Empty() bool { return len(s.Ports) == 0 && len(s.Addresses) == 0 }

// Equal reports whether both say the same.
func (s Service) Equal(o Service) bool {
	return s.Name == o.Name && slices.EqualFunc(s.Ports, o.Ports, Port.Equal) &&
		slices.Equal(s.Addresses, o.Addresses) && slices.Equal(s.Health, o.Health)
}
