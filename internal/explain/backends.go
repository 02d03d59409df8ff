// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// match says what the target is, in the words of the answer.
func (e *explainer) match() {
	f := e.decided.Frontend
	if f == nil {
		return
	}
	e.Service, e.Port, e.Frontend = e.decided.Port.Service.String(), e.decided.Port.Port, f.Kind.String()
}

// kernelPort is the port that decided, as the kernel has it; nil if none did.
func (e *explainer) kernelPort() *plan.Port {
	for i := range e.Kernel.View.Services {
		s := &e.Kernel.View.Services[i]
		for j := range s.Ports {
			if e.decided.Frontend != nil && s.Ports[j].ID == e.decided.Port {
				return &s.Ports[j]
			}
		}
	}
	return nil
}

// policyLocal reports whether the client was given the local set.
func (e *explainer) policyLocal() bool {
	f := e.decided.Frontend
	if f == nil {
		return false
	}
	if e.decided.Scope == oracle.External {
		return f.ExternalLocal
	}
	return f.InternalLocal
}

// stated is the object of a Service; nil if nobody told of it.
func (e *explainer) stated(name model.Name) *model.Stated {
	if e.Facts == nil {
		return nil
	}
	i := slices.IndexFunc(e.Facts.Stated, func(s model.Stated) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &e.Facts.Stated[i]
}

// backends lists every endpoint: those of the kernel and those that the objects
// tell of, and why a client does not get it.
func (e *explainer) backends() {
	port := e.kernelPort()
	if port == nil {
		return
	}
	at := map[netip.AddrPort]int{}
	set := port.Cluster
	if e.policyLocal() {
		set = port.Local
	}
	for i, b := range port.Backends {
		v := Backend{Address: b.Addr.String(), Pod: b.Target, Eligible: slices.Contains(set.Members, i)}
		switch {
		case v.Eligible && b.State == plan.Terminating:
			v.Why = "terminating; used because no endpoint is ready"
		case v.Eligible:
		case b.State == plan.Draining:
			v.Why = "in no set: keeps the flows it has"
		case e.policyLocal():
			v.Why = "not on this node, and the policy is Local"
		default:
			v.Why = "not in the set for traffic policy Cluster"
		}
		at[b.Addr] = len(e.Answer.Backends)
		e.Answer.Backends = append(e.Answer.Backends, v)
	}
	if s := e.stated(port.ID.Service); s != nil {
		e.statedBackends(s, port.ID, at)
	}
	e.pinnedBackends()
}

// pinnedBackends marks what session affinity leaves out, and whom the backends
// see.
func (e *explainer) pinnedBackends() {
	for i := range e.Answer.Backends {
		b := &e.Answer.Backends[i]
		if !b.Eligible || e.decided.Verdict != oracle.Translate || len(e.decided.Backends) == 0 {
			continue
		}
		j := slices.IndexFunc(e.decided.Backends, func(o oracle.Backend) bool { return o.Addr.String() == b.Address })
		if j < 0 {
			b.Eligible, b.Why = false, "session affinity pins the client to another"
			continue
		}
		b.SourceNAT = e.decided.Backends[j].SourceNAT
	}
}

// statedBackends adds what the objects know to the kernel's list.
func (e *explainer) statedBackends(s *model.Stated, id plan.PortID, at map[netip.AddrPort]int) {
	for i := range s.Slices {
		slice := &s.Slices[i]
		if slice.AddressType != id.Family.String() {
			continue
		}
		number, why := slicePort(slice, id)
		for j := range slice.Endpoints {
			ep := &slice.Endpoints[j]
			addr, err := netip.ParseAddr(ep.Addr)
			if err != nil {
				continue
			}
			key := netip.AddrPortFrom(addr.Unmap(), number)
			v := Backend{Address: key.String(), Pod: ep.Target, Node: ep.Node}
			if number == 0 {
				v.Address = addr.String()
			}
			if v.Why = why; why == "" {
				v.Why = e.exclusion(s, ep, key)
			}
			k, there := at[key]
			if !there {
				at[key] = len(e.Answer.Backends)
				e.Answer.Backends = append(e.Answer.Backends, v)
				continue
			}
			b := &e.Answer.Backends[k]
			b.Pod, b.Node = v.Pod, v.Node
			if !b.Eligible {
				b.Why = v.Why
			}
		}
	}
}

// slicePort is the port number of a slice for a Service port, or why it has none.
func slicePort(slice *model.StatedSlice, id plan.PortID) (number uint16, why string) {
	if slice.Headless {
		return 0, fmt.Sprintf("EndpointSlice %s carries the label service.kubernetes.io/headless: no proxy looks at it", slice.Name)
	}
	var names []string
	for _, p := range slice.Ports {
		if p.Name == id.Port && p.Protocol == id.Protocol.String() {
			if p.Port == 0 {
				return 0, fmt.Sprintf("port %q of EndpointSlice %s has no number", p.Name, slice.Name)
			}
			return uint16(p.Port), ""
		}
		names = append(names, fmt.Sprintf("%q/%s", p.Name, p.Protocol))
	}
	has := "none"
	if len(names) > 0 {
		has = strings.Join(names, ", ")
	}
	return 0, fmt.Sprintf("EndpointSlice %s has no port named %q/%v; it has: %s", slice.Name, id.Port, id.Protocol, has)
}

// exclusion says why an endpoint is not eligible for this client; it is called
// for those that are, too, and then what it says is not used.
func (e *explainer) exclusion(s *model.Stated, ep *model.StatedEndpoint, addr netip.AddrPort) string {
	for _, p := range e.Facts.Problems {
		about := p.Reason == plan.BackendIsFrontend || p.Reason == plan.BackendRefused
		if about && p.Service == s.Name && strings.Contains(p.Message, addr.Addr().String()) {
			return p.Message
		}
	}
	switch {
	case !ep.Ready && ep.Terminating && ep.Serving:
		return "terminating: used only while no endpoint is ready"
	case !ep.Ready && ep.Terminating:
		return "terminating, and no longer serving"
	case !ep.Ready:
		return "not ready" + podWhy(s, ep)
	case e.policyLocal() && ep.Node == "":
		return "on no node, and the policy is Local"
	case e.policyLocal() && e.Facts.Node != "" && ep.Node != e.Facts.Node:
		return fmt.Sprintf("on node %s, and the policy is Local: only those on %s", ep.Node, e.Facts.Node)
	case len(ep.ForNodes) > 0 && !slices.Contains(ep.ForNodes, e.Facts.Node):
		return fmt.Sprintf("topology hints give it to node %s", strings.Join(ep.ForNodes, ", "))
	case len(ep.ForZones) > 0 && !slices.Contains(ep.ForZones, e.Facts.Zone):
		return fmt.Sprintf("topology hints give it to zone %s, and this node is in %s", strings.Join(ep.ForZones, ", "), orNone(e.Facts.Zone))
	}
	return "should be eligible, but the kernel does not have it: the agent is behind, or its table is full"
}

func podWhy(s *model.Stated, ep *model.StatedEndpoint) string {
	for _, p := range s.Pods {
		if p.Name == ep.Target && p.Why != "" {
			return " (" + p.Why + ")"
		}
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
