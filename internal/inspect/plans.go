// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	kernel "github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Live are the plans that the kernel works by: what was once written, read back.
// Health checks and the names of pods are not in the kernel.
type Live struct {
	Services []plan.Service
	// Index numbers the Service ports, as affinity and flows know them.
	Index map[plan.PortID]uint32

	tables *kernel.Tables
}

// Plans reads every Service port back. A frontend with source ranges that
// nobody can read has one that is not valid, and lets nobody pass.
func Plans(t *kernel.Tables) (*Live, error) {
	r := planReader{tables: t, ports: map[uint32]*plan.Port{}, members: map[uint32]int{}}
	if err := r.names(); err != nil {
		return nil, err
	}
	if err := r.readRanges(); err != nil {
		return nil, err
	}
	if err := r.frontends(); err != nil {
		return nil, err
	}
	r.backends()
	live := &Live{Index: map[plan.PortID]uint32{}, tables: t}
	byName := map[model.Name]*plan.Service{}
	for index, p := range r.ports {
		p.Cluster, p.Local = r.set(index, abi.SetCluster), r.set(index, abi.SetLocal)
		slices.SortFunc(p.Frontends, func(a, b plan.Frontend) int { return a.Compare(b.FrontendKey) })
		live.Index[p.ID] = index
		s := byName[p.ID.Service]
		if s == nil {
			s = &plan.Service{Name: p.ID.Service}
			byName[s.Name] = s
		}
		s.Ports = append(s.Ports, *p)
	}
	r.addresses(byName)
	for _, name := range slices.SortedFunc(maps.Keys(byName), model.Name.Compare) {
		s := byName[name]
		slices.SortFunc(s.Ports, func(a, b plan.Port) int { return a.ID.Compare(b.ID) })
		live.Services = append(live.Services, *s)
	}
	return live, nil
}

// planReader collects what Plans reads.
type planReader struct {
	tables  *kernel.Tables
	ports   map[uint32]*plan.Port
	ranges  map[uint32][]netip.Prefix
	members map[uint32]int // backend index -> index into its port's Backends
	vips    []netip.Addr   // keys that are an address as such
}

func (r *planReader) names() error {
	err := r.tables.Services.Each(func(index uint32, n abi.ServiceName) bool {
		r.ports[index] = &plan.Port{ID: plan.PortID{
			Service: model.Name{Namespace: abi.Text(n.Ns), Name: abi.Text(n.Name)}, Port: abi.Text(n.Port),
			Protocol: model.Protocol(n.Protocol), Family: model.Family(n.Family),
		}}
		return true
	})
	if err != nil {
		return fmt.Errorf("read Services: %w", err)
	}
	return nil
}

func (r *planReader) readRanges() error {
	r.ranges = map[uint32][]netip.Prefix{}
	if r.tables.Packet == nil {
		return nil
	}
	err := r.tables.Packet.SourceRanges.Each(func(k abi.SourceRangeKey, _ uint32) bool {
		r.ranges[k.Service] = append(r.ranges[k.Service], prefix(k.Addr, k.Prefixlen-32))
		return true
	})
	if err != nil {
		return fmt.Errorf("read source ranges: %w", err)
	}
	return nil
}

// prefix converts from the kernel's one width.
func prefix(ip abi.IP, bits uint32) netip.Prefix {
	addr := abi.NetIP(ip)
	if addr.Is4() {
		return netip.PrefixFrom(addr, int(bits)-96)
	}
	return netip.PrefixFrom(addr, int(bits))
}

func (r *planReader) frontends() error {
	err := r.tables.Frontends.Each(func(k abi.FrontendKey, f abi.Frontend) bool {
		if f.Flags&abi.FlagAddress != 0 {
			r.vips = append(r.vips, abi.NetIP(k.Addr))
			return true
		}
		p := r.ports[f.Service]
		if p == nil {
			return true
		}
		v := plan.Frontend{
			FrontendKey:     plan.FrontendKey{Addr: abi.NetIP(k.Addr), Port: abi.Port(k.Port), Protocol: model.Protocol(k.Protocol)},
			Kind:            planKind(f.Flags),
			InternalLocal:   f.Flags&abi.FlagInternalLocal != 0,
			ExternalLocal:   f.Flags&abi.FlagExternalLocal != 0,
			AffinityTimeout: time.Duration(f.AffinitySecs) * time.Second,
		}
		if f.Flags&abi.FlagSourceRanges != 0 {
			if v.SourceRanges = r.ranges[f.Service]; len(v.SourceRanges) == 0 {
				v.SourceRanges = []netip.Prefix{{}}
			}
		}
		p.Frontends = append(p.Frontends, v)
		return true
	})
	if err != nil {
		return fmt.Errorf("read frontends: %w", err)
	}
	return nil
}

func planKind(flags uint32) plan.Kind {
	switch {
	case flags&abi.FlagNodePort != 0:
		return plan.NodePort
	case flags&abi.FlagLoadBalancer != 0:
		return plan.LoadBalancer
	case flags&abi.FlagExternalIP != 0:
		return plan.ExternalIP
	}
	return plan.ClusterIP
}

func (r *planReader) backends() {
	states := map[abi.BackendState]plan.State{
		abi.BackendActive: plan.Active, abi.BackendTerminating: plan.Terminating, abi.BackendDraining: plan.Draining,
	}
	for i := range r.tables.Backends.Len() {
		b := r.tables.Backends.Load(i)
		p := r.ports[b.Service]
		if p == nil || b.Generation == 0 {
			continue
		}
		r.members[i] = len(p.Backends)
		p.Backends = append(p.Backends, plan.Backend{
			Addr: netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)), State: states[abi.BackendState(b.State)], Local: b.Local != 0,
		})
	}
}

func (r *planReader) set(service uint32, kind abi.SetKind) plan.Set {
	var s plan.Set
	read := readSet(r.tables, service, kind)
	if read.Empty == "drop" {
		s.Empty = plan.Drop
	}
	for _, index := range read.Backends {
		if at, ok := r.members[index]; ok {
			s.Members = append(s.Members, at)
		}
	}
	slices.Sort(s.Members)
	return s
}

// addresses gives the keys that are an address as such to the Services whose
// ClusterIP it is; what is left over belongs to nobody.
func (r *planReader) addresses(services map[model.Name]*plan.Service) {
	owner := map[netip.Addr]model.Name{}
	for _, p := range r.ports {
		for _, f := range p.Frontends {
			if f.Kind == plan.ClusterIP {
				owner[f.Addr] = p.ID.Service
			}
		}
	}
	for _, vip := range r.vips {
		s := services[owner[vip]]
		if s == nil {
			s = &plan.Service{Name: owner[vip]}
			services[s.Name] = s
		}
		s.Addresses = append(s.Addresses, vip)
	}
}

// Pinned is the backend that session affinity holds for a client: an address, or
// with ByNamespace the pod that its sockets belong to. Zero for none, and for one
// whose time is over at now, in nanoseconds of CLOCK_MONOTONIC.
func (l *Live) Pinned(port plan.PortID, client abi.IP, timeout time.Duration, now uint64) (netip.AddrPort, error) {
	index, ok := l.Index[port]
	if !ok || timeout == 0 {
		return netip.AddrPort{}, nil
	}
	pin, ok, err := l.tables.Affinities.Get(abi.AffinityKey{Client: client, Service: index})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read session affinity: %w", err)
	}
	if !ok || pin.Backend >= l.tables.Backends.Len() || now > pin.SeenNs && now-pin.SeenNs > uint64(timeout) {
		return netip.AddrPort{}, nil
	}
	b := l.tables.Backends.Load(pin.Backend)
	if b.Generation != pin.Generation {
		return netip.AddrPort{}, nil
	}
	return netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)), nil
}

// ByNamespace is how session affinity knows a socket's client: by the cookie of
// its network namespace.
func ByNamespace(cookie uint64) abi.IP {
	return abi.IP{Word: [4]uint32{^uint32(0), 0, uint32(cookie >> 32), uint32(cookie)}}
}

// Backend is the address of a backend by its index.
func (l *Live) Backend(index uint32) netip.AddrPort {
	if index >= l.tables.Backends.Len() {
		return netip.AddrPort{}
	}
	b := l.tables.Backends.Load(index)
	return netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port))
}

// NodeAddresses are the node's own addresses as the packet path has them, and
// those of them that serve NodePorts.
func (l *Live) NodeAddresses() (local, nodePorts []netip.Addr, err error) {
	if l.tables.Packet == nil {
		return nil, nil, nil
	}
	err = l.tables.Packet.LocalAddrs.Each(func(ip abi.IP, flags uint32) bool {
		if flags&abi.LocalAddrHere != 0 {
			local = append(local, abi.NetIP(ip))
		}
		if flags&abi.LocalAddrNodePort != 0 {
			nodePorts = append(nodePorts, abi.NetIP(ip))
		}
		return true
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the node's addresses: %w", err)
	}
	slices.SortFunc(local, netip.Addr.Compare)
	slices.SortFunc(nodePorts, netip.Addr.Compare)
	return local, nodePorts, nil
}

// PodRanges are where the packet path takes clients for pods.
func (l *Live) PodRanges() (all []netip.Prefix, err error) {
	if l.tables.Packet == nil {
		return nil, nil
	}
	err = l.tables.Packet.PodRanges.Each(func(k abi.PodRangeKey, _ uint32) bool {
		all = append(all, prefix(k.Addr, k.Prefixlen))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read pod ranges: %w", err)
	}
	return all, nil
}
