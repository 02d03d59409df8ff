// SPDX-License-Identifier: Apache-2.0

// Package inspect reads the live kernel maps back into what people call
// things: Services, frontends, backends. It asks no agent, so it tells what
// the kernel does, also when no agent runs.
package inspect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// Port is one Service port in one family, as the kernel has it.
type Port struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Port      string         `json:"port,omitempty"`
	Protocol  string         `json:"protocol"`
	Family    string         `json:"family"`
	Index     uint32         `json:"index"`
	Frontends []Frontend     `json:"frontends"`
	Cluster   Set            `json:"cluster"`
	Local     Set            `json:"local"`
	Backends  []Backend      `json:"backends"`
	family    model.Family   // for sorting
	protocol  model.Protocol // for sorting
}

// Frontend is one frontend of a Service port.
type Frontend struct {
	Kind string `json:"kind"`
	// Address is address:port; the port of the node's own addresses is shown
	// as "*:port".
	Address string `json:"address"`
	// Policy is what clients inside and outside the cluster pick from.
	InternalPolicy  string `json:"internalPolicy"`
	ExternalPolicy  string `json:"externalPolicy"`
	AffinitySeconds uint32 `json:"affinitySeconds,omitempty"`
	SourceRanges    bool   `json:"sourceRanges,omitempty"`
}

// Set is a backend set.
type Set struct {
	// Backends are indexes of the members.
	Backends []uint32 `json:"backends"`
	// Empty is what a client gets while there are no members.
	Empty string `json:"whenEmpty,omitempty"`
}

// Backend is one endpoint.
type Backend struct {
	Index   uint32 `json:"index"`
	Address string `json:"address"`
	State   string `json:"state"`
	Local   bool   `json:"local"`
	// Sets names the sets that it is in.
	Sets       []string `json:"sets"`
	Generation uint32   `json:"generation"`

	addr netip.AddrPort
}

// Ports reads every Service port, sorted by name.
func Ports(t *maps.Tables) ([]Port, error) {
	byIndex := map[uint32]*Port{}
	err := t.Services.Each(func(index uint32, n abi.ServiceName) bool {
		byIndex[index] = newPort(t, index, n)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read Services: %w", err)
	}
	err = t.Frontends.Each(func(k abi.FrontendKey, f abi.Frontend) bool {
		if p := byIndex[f.Service]; p != nil {
			p.Frontends = append(p.Frontends, newFrontend(k, f))
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	for i := range t.Backends.Len() {
		b := t.Backends.Load(i)
		if p := byIndex[b.Service]; p != nil && b.Generation != 0 {
			p.Backends = append(p.Backends, newBackend(i, b))
		}
	}
	all := make([]Port, 0, len(byIndex))
	for _, p := range byIndex {
		slices.SortFunc(p.Frontends, compareFrontends)
		slices.SortFunc(p.Backends, func(a, b Backend) int { return a.addr.Compare(b.addr) })
		all = append(all, *p)
	}
	slices.SortFunc(all, comparePorts)
	return all, nil
}

func newPort(t *maps.Tables, index uint32, n abi.ServiceName) *Port {
	return &Port{
		Namespace: abi.Text(n.Ns),
		Name:      abi.Text(n.Name),
		Port:      abi.Text(n.Port),
		Protocol:  model.Protocol(n.Protocol).String(),
		Family:    model.Family(n.Family).String(),
		Index:     index,
		Frontends: []Frontend{},
		Backends:  []Backend{},
		Cluster:   readSet(t, index, abi.SetCluster),
		Local:     readSet(t, index, abi.SetLocal),
		family:    model.Family(n.Family),
		protocol:  model.Protocol(n.Protocol),
	}
}

func readSet(t *maps.Tables, service uint32, kind abi.SetKind) Set {
	s := Set{Backends: []uint32{}}
	if service >= t.Sets.Services() {
		return s
	}
	base, members := abi.UnpackSet(t.Sets.Load(service, kind))
	if members == 0 {
		s.Empty = "reject"
		if abi.EmptySet(base) == abi.EmptyDrop {
			s.Empty = "drop"
		}
		return s
	}
	// Compared without overflow: the words come from a kernel that another
	// program could have written to.
	for i := base; i < t.Slots.Len() && i-base < members; i++ {
		s.Backends = append(s.Backends, t.Slots.Load(i))
	}
	return s
}

func newFrontend(k abi.FrontendKey, f abi.Frontend) Frontend {
	return Frontend{
		Kind:            kind(f.Flags),
		Address:         address(k),
		InternalPolicy:  policy(f.Flags & abi.FlagInternalLocal),
		ExternalPolicy:  policy(f.Flags & abi.FlagExternalLocal),
		AffinitySeconds: f.AffinitySecs,
		SourceRanges:    f.Flags&abi.FlagSourceRanges != 0,
	}
}

func address(k abi.FrontendKey) string {
	addr, port := abi.NetIP(k.Addr), abi.Port(k.Port)
	if addr.IsUnspecified() {
		return fmt.Sprintf("*:%d", port)
	}
	return netip.AddrPortFrom(addr, port).String()
}

func kind(flags uint32) string {
	for _, k := range []struct {
		flag uint32
		name string
	}{
		{abi.FlagClusterIP, "ClusterIP"}, {abi.FlagNodePort, "NodePort"},
		{abi.FlagLoadBalancer, "LoadBalancer"}, {abi.FlagExternalIP, "ExternalIP"},
	} {
		if flags&k.flag != 0 {
			return k.name
		}
	}
	return fmt.Sprintf("flags %#x", flags)
}

func policy(local uint32) string {
	if local != 0 {
		return "Local"
	}
	return "Cluster"
}

func newBackend(i uint32, b abi.Backend) Backend {
	addr := netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port))
	v := Backend{
		Index:      i,
		Address:    addr.String(),
		State:      state(abi.BackendState(b.State)),
		Local:      b.Local != 0,
		Sets:       []string{},
		Generation: b.Generation,
		addr:       addr,
	}
	if b.Sets&(1<<abi.SetCluster) != 0 {
		v.Sets = append(v.Sets, "cluster")
	}
	if b.Sets&(1<<abi.SetLocal) != 0 {
		v.Sets = append(v.Sets, "local")
	}
	return v
}

func state(s abi.BackendState) string {
	switch s {
	case abi.BackendFree:
		return "free"
	case abi.BackendActive:
		return "active"
	case abi.BackendTerminating:
		return "terminating"
	case abi.BackendDraining:
		return "draining"
	}
	return fmt.Sprintf("state %d", uint32(s))
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Address, b.Address))
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.family, b.family))
}
