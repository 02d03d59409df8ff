// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"
	"net/netip"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// Ends are the addresses and ports at which packets of Services begin and end.
type Ends struct {
	// Chosen are the ends of the Service that was asked for; for packets without
	// ports, pings and later fragments, there are ends with port 0.
	Chosen []abi.FrontendKey
	// Known reports whether that Service is in the kernel.
	Known bool

	frontends map[abi.FrontendKey]uint32 // Service index
}

// ReadEnds reads the frontends of all Services, and chooses those of one:
// "namespace/name" or "namespace/name:port"; backends chooses its backends, too.
// A NodePort has an end on every address of the node that serves it.
func ReadEnds(t *maps.Tables, service string, backends bool) (*Ends, error) {
	e := &Ends{frontends: map[abi.FrontendKey]uint32{}}
	chosen := map[uint32]bool{}
	err := t.Services.Each(func(index uint32, n abi.ServiceName) bool {
		port := ServicePort{abi.Text(n.Ns), abi.Text(n.Name), abi.Text(n.Port)}
		chosen[index] = port.Matches(service)
		e.Known = e.Known || chosen[index]
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read Services: %w", err)
	}
	nodes, err := nodePortAddresses(t)
	if err != nil {
		return nil, err
	}
	err = t.Frontends.Each(func(k abi.FrontendKey, f abi.Frontend) bool {
		if k.Port == 0 {
			return true // an address as such
		}
		for _, addr := range reached(abi.NetIP(k.Addr), nodes) {
			at := abi.FrontendKey{Addr: abi.Addr(addr), Port: k.Port, Protocol: k.Protocol}
			e.frontends[at] = f.Service
			if chosen[f.Service] {
				e.choose(at, f.Flags&abi.FlagNodePort == 0)
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read frontends: %w", err)
	}
	for i := range t.Backends.Len() {
		if b := t.Backends.Load(i); backends && b.Generation != 0 && chosen[b.Service] {
			if name, ok, _ := t.Services.Get(b.Service); ok {
				e.choose(abi.FrontendKey{Addr: b.Addr, Port: b.Port, Protocol: name.Protocol}, true)
			}
		}
	}
	return e, nil
}

// choose adds an end, and what its packets without ports look like; pings only
// where the address is not the node's.
func (e *Ends) choose(at abi.FrontendKey, pings bool) {
	fragment, ping := at, at
	fragment.Port, ping.Port = 0, 0
	ping.Protocol = protocolICMP
	if abi.NetIP(at.Addr).Is6() {
		ping.Protocol = protocolICMPv6
	}
	e.Chosen = append(e.Chosen, at, fragment)
	if pings {
		e.Chosen = append(e.Chosen, ping)
	}
}

// Numbers of protocols (IANA).
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

func nodePortAddresses(t *maps.Tables) (all []netip.Addr, err error) {
	if t.Packet == nil {
		return nil, nil
	}
	err = t.Packet.LocalAddrs.Each(func(a abi.IP, flags uint32) bool {
		if flags&abi.LocalAddrNodePort != 0 {
			all = append(all, abi.NetIP(a))
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read the node's addresses: %w", err)
	}
	return all, nil
}

// reached are the addresses that a frontend's stands for.
func reached(addr netip.Addr, nodes []netip.Addr) (all []netip.Addr) {
	if !addr.IsUnspecified() {
		return []netip.Addr{addr}
	}
	for _, n := range nodes {
		if model.FamilyOf(n) == model.FamilyOf(addr) {
			all = append(all, n)
		}
	}
	return all
}

// Service returns the index of the Service whose frontend it is.
func (e *Ends) Service(at netip.AddrPort, protocol uint8) (index uint32, ok bool) {
	index, ok = e.frontends[abi.NewFrontendKey(at.Addr(), at.Port(), protocol)]
	return index, ok
}
