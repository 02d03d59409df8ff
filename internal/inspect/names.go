// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// ServicePort names a Service port.
type ServicePort struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Port      string `json:"port,omitempty"`
}

func (p ServicePort) String() string {
	s := p.Namespace + "/" + p.Name
	if p.Port != "" {
		s += ":" + p.Port
	}
	return s
}

// Matches reports whether it is the Service "namespace/name", or its port
// "namespace/name:port".
func (p ServicePort) Matches(name string) bool {
	return name == p.String() || name == p.Namespace+"/"+p.Name
}

// nameLife is how long a name is taken for granted: an index may get another
// Service.
const nameLife = time.Second

// Names turns the kernel's numbers into names. It belongs to one goroutine.
type Names struct {
	services maps.Hash[uint32, abi.ServiceName]
	pod      func(netip.AddrPort) string
	now      func() time.Time
	known    map[uint32]namedPort
}

type namedPort struct {
	name  ServicePort
	ok    bool
	until time.Time
}

// NewNames reads the names of Services from the kernel. pod tells the name of
// the pod behind an endpoint, or nothing if it does not know; it may be nil. now
// is the clock by which names are asked for again.
func NewNames(t *maps.Tables, pod func(netip.AddrPort) string, now func() time.Time) *Names {
	if pod == nil {
		pod = func(netip.AddrPort) string { return "" }
	}
	return &Names{services: t.Services, pod: pod, now: now, known: map[uint32]namedPort{}}
}

// Service names an index; nil if nobody has it.
func (n *Names) Service(index uint32) *ServicePort {
	if index == abi.ServiceNone {
		return nil
	}
	now := n.now()
	p, ok := n.known[index]
	if !ok || now.After(p.until) {
		name, there, err := n.services.Get(index)
		p = namedPort{
			name:  ServicePort{abi.Text(name.Ns), abi.Text(name.Name), abi.Text(name.Port)},
			ok:    there && err == nil,
			until: now.Add(nameLife),
		}
		n.known[index] = p
	}
	if !p.ok {
		return nil
	}
	return &p.name
}

// Party names an end of a connection.
func (n *Names) Party(at netip.AddrPort) Party {
	return Party{Address: at.String(), Pod: n.pod(at), at: at}
}

// Party is one end of a connection.
type Party struct {
	Address string `json:"address,omitempty"`
	// Pod is the pod that has the address, as far as it is known.
	Pod string `json:"pod,omitempty"`

	at netip.AddrPort
}

func (n *Names) party(addr abi.IP, port uint16) Party {
	return n.Party(netip.AddrPortFrom(abi.NetIP(addr), abi.Port(port)))
}

func (p Party) String() string {
	if p.Pod != "" {
		return p.Pod + " (" + p.Address + ")"
	}
	return p.Address
}

func protocolName(p uint8) string { return model.Protocol(p).String() }
