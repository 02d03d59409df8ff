// SPDX-License-Identifier: Apache-2.0

// Package oracle says what becomes of a packet on a node, and why: it interprets
// the same plans that the kernel programs get, but in plain Go. Tests ask it for
// a second opinion and `beeline explain` for its reasons. The rules are
// kube-proxy's (k8s.io/kubernetes/pkg/proxy/nftables v1.37).
package oracle

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	// Pass: it is no Service's and left alone.
	Pass Verdict = iota
	// Translate: it goes to one of Answer.Backends.
	Translate
	// Reject: refused at once (ICMP port unreachable, ECONNREFUSED).
	Reject
	// Drop: lost without a word.
	Drop
)

func (v Verdict) String() string { return [...]string{"pass", "translate", "reject", "drop"}[v] }

// View is what a node knows.
type View struct {
	Config plan.Config
	Node   model.Node
	// Local are the addresses of the node's devices, whoever gave them;
	// loopback need not be named.
	Local []netip.Addr
	// Services are the plans of the node.
	Services []plan.Service
}

// Packet is the first packet of a flow, or a later one if Flow is set.
type Packet struct {
	Protocol    model.Protocol
	Source      netip.Addr
	Destination netip.AddrPort
	// Device is where it came in; empty for what the node itself sends.
	Device string
	// Scope is where the client is, if the asker knows better than the
	// configured detection.
	Scope Scope
	// Flow is the backend that an established flow has.
	Flow netip.AddrPort
	// Pinned is the backend that the affinity table holds for Answer.Affinity.
	Pinned netip.AddrPort
}

// Answer is what becomes of a packet.
type Answer struct {
	Verdict Verdict
	Scope   Scope
	// Port is the Service port that decided; zero if none did.
	Port plan.PortID
	// Frontend is the one that matched; nil if none did.
	Frontend *plan.Frontend
	// Backends are those that the packet may go to, all equally likely.
	Backends []Backend
	// Affinity is the key under which the choice is remembered; nil if it is
	// not.
	Affinity *Affinity
	// Steps are the reasons in order, one short line each.
	Steps []string
}

// Backend is a backend that may be chosen.
type Backend struct {
	plan.Backend
	// SourceNAT: it sees an address of this node instead of the client's.
	SourceNAT bool
}

// Affinity is how session affinity knows a client: by its address, and for each
// Service port, whichever of its frontends was used.
type Affinity struct {
	Client netip.Addr
	Port   plan.PortID
	// Timeout counts from the last new flow.
	Timeout time.Duration
}

// Oracle answers for one View.
type Oracle struct {
	view      View
	nodePorts plan.NodePortMatcher
	frontends map[plan.FrontendKey]match
	addresses map[netip.Addr]model.Name
}

// match is a frontend with the port it belongs to.
type match struct {
	port     *plan.Port
	frontend *plan.Frontend
}

// New returns the oracle of a view, which must not change afterwards.
func New(view View) *Oracle {
	o := &Oracle{
		view:      view,
		nodePorts: view.Config.NodePortMatcher(view.Node),
		frontends: map[plan.FrontendKey]match{},
		addresses: map[netip.Addr]model.Name{},
	}
	for i := range view.Services {
		service := &view.Services[i]
		for j := range service.Ports {
			port := &service.Ports[j]
			for k := range port.Frontends {
				f := &port.Frontends[k]
				o.frontends[f.FrontendKey] = match{port, f}
			}
		}
		for _, addr := range service.Addresses {
			o.addresses[addr] = service.Name
		}
	}
	return o
}

// Ask says what becomes of a packet.
func (o *Oracle) Ask(p Packet) Answer {
	p.Source = p.Source.Unmap()
	p.Destination = netip.AddrPortFrom(p.Destination.Addr().Unmap(), p.Destination.Port())
	q := query{Oracle: o, packet: p}
	q.scope()
	m, ok := q.frontend()
	if ok {
		q.answer.Port, q.answer.Frontend = m.port.ID, m.frontend
	}
	switch {
	case q.established(m):
	case !ok:
		q.noFrontend()
	case q.filtered(m.frontend):
	default:
		q.choose(m)
	}
	return q.answer
}

// query is one question on its way.
type query struct {
	*Oracle
	packet Packet
	answer Answer
	// socket: nothing but the destination can be translated.
	socket bool
}

func (q *query) step(format string, args ...any) {
	q.answer.Steps = append(q.answer.Steps, fmt.Sprintf(format, args...))
}

// local reports whether addr is one of the node's own.
func (o *Oracle) local(addr netip.Addr) bool {
	return addr.IsLoopback() || slices.Contains(o.view.Local, addr)
}

// frontend finds who claims the destination: an address of its own before a
// NodePort on the node's.
func (q *query) frontend() (match, bool) {
	if m, ok := q.ownFrontend(); ok {
		return m, true
	}
	dst, protocol := q.packet.Destination, q.packet.Protocol
	key := plan.FrontendKey{Addr: dst.Addr(), Port: dst.Port(), Protocol: protocol}
	if !q.local(dst.Addr()) {
		return match{}, false
	}
	key.Addr = netip.IPv4Unspecified()
	if dst.Addr().Is6() {
		key.Addr = netip.IPv6Unspecified()
	}
	m, ok := q.frontends[key]
	switch {
	case !ok:
		return match{}, false
	case !q.nodePorts.Match(dst.Addr()):
		q.step("%v does not serve NodePorts", dst.Addr())
		return match{}, false
	}
	q.step("%v is %v of %v", dst, m.frontend.Kind, m.port.ID)
	return m, true
}

// ownFrontend finds who claims the destination as an address of its own.
func (q *query) ownFrontend() (match, bool) {
	dst := q.packet.Destination
	key := plan.FrontendKey{Addr: dst.Addr(), Port: dst.Port(), Protocol: q.packet.Protocol}
	m, ok := q.frontends[key]
	if ok {
		q.step("%v is %v of %v", key, m.frontend.Kind, m.port.ID)
	}
	return m, ok
}

// noFrontend decides about what no frontend claims.
func (q *query) noFrontend() {
	addr := q.packet.Destination.Addr()
	if name, ok := q.addresses[addr]; ok {
		q.step("%v is a ClusterIP of %v, which has no such port", addr, name)
		q.answer.Verdict = Reject
		return
	}
	if q.view.Config.RefuseUnknownPorts && !q.left(addr) {
		for _, cidr := range q.view.Config.ServiceCIDRs {
			if cidr.Contains(addr) {
				q.step("%v is in Service range %v and no Service's ClusterIP", addr, cidr)
				q.answer.Verdict = Drop
				return
			}
		}
	}
	q.step("%v is no frontend", q.packet.Destination)
}

// left reports whether an address is somebody else's by configuration.
func (q *query) left(addr netip.Addr) bool {
	return slices.ContainsFunc(q.view.Config.Leave, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// established reports whether the packet belongs to a flow that goes on: such a
// one is not judged again, whatever has changed since. A UDP flow ends with its
// backend (kube-proxy: conntrack/cleanup.go), others do not.
func (q *query) established(m match) bool {
	flow := q.packet.Flow
	if !flow.IsValid() {
		return false
	}
	backend, known := plan.Backend{Addr: flow}, false
	if m.port != nil {
		if i := slices.IndexFunc(m.port.Backends, func(b plan.Backend) bool { return b.Addr == flow }); i >= 0 {
			backend, known = m.port.Backends[i], true
		}
	}
	if !known && q.packet.Protocol == model.UDP {
		q.step("the flow's backend %v is gone", flow)
		return false
	}
	q.step("the flow keeps its backend %v", flow)
	q.answer.Verdict = Translate
	q.answer.Backends = []Backend{{Backend: backend}}
	return true
}

// filtered reports whether the source ranges keep the client out. They come
// first, and bind clients inside the cluster, too.
func (q *query) filtered(f *plan.Frontend) bool {
	if len(f.SourceRanges) == 0 {
		return false
	}
	for _, r := range f.SourceRanges {
		if r.Contains(q.packet.Source) {
			q.step("source range %v lets %v pass", r, q.packet.Source)
			return false
		}
	}
	q.step("no source range lets %v pass", q.packet.Source)
	q.answer.Verdict = Drop
	return true
}

// choose lists the backends that the client may get.
func (q *query) choose(m match) {
	set, name := &m.port.Cluster, "cluster"
	if q.policyLocal(m.frontend) {
		set, name = &m.port.Local, "local"
	}
	if len(set.Members) == 0 {
		q.answer.Verdict = Reject
		if set.Empty == plan.Drop {
			q.answer.Verdict = Drop
			q.step("the %s set is empty, but other nodes have endpoints", name)
			return
		}
		q.step("no usable endpoint anywhere")
		return
	}
	q.answer.Verdict = Translate
	members := q.pinned(m, set)
	translated := !q.socket && q.sourceNAT(m.frontend)
	for _, i := range members {
		b := m.port.Backends[i]
		q.answer.Backends = append(q.answer.Backends, Backend{b, !q.socket && !q.own(b) && (translated || q.hairpin(b))})
	}
	q.step("%d of the %d backends may be chosen (%s set)", len(members), len(m.port.Backends), name)
}

// policyLocal reports whether this client gets the local set.
func (q *query) policyLocal(f *plan.Frontend) bool {
	if q.answer.Scope == External {
		return f.ExternalLocal
	}
	if f.ExternalLocal && !f.InternalLocal {
		q.step("clients inside the cluster are not bound by the external traffic policy")
	}
	return f.InternalLocal
}

// pinned returns the members that session affinity leaves.
func (q *query) pinned(m match, set *plan.Set) []int {
	timeout := m.frontend.AffinityTimeout
	if timeout == 0 {
		return set.Members
	}
	q.answer.Affinity = &Affinity{q.packet.Source, m.port.ID, timeout}
	for _, i := range set.Members {
		if m.port.Backends[i].Addr == q.packet.Pinned {
			q.step("session affinity: back to %v", q.packet.Pinned)
			return []int{i}
		}
	}
	if q.packet.Pinned.IsValid() {
		q.step("session affinity: %v is not in the set any more", q.packet.Pinned)
	}
	return set.Members
}

// sourceNAT reports whether every backend sees an address of this node: where
// the reply might not come back through it otherwise.
func (q *query) sourceNAT(f *plan.Frontend) bool {
	switch {
	case f.Kind == plan.ClusterIP && q.view.Config.MasqueradeAll:
		q.step("source NAT: masqueradeAll")
	case f.Kind == plan.ClusterIP && q.answer.Scope != Pod && q.detects():
		q.step("source NAT: sent to a ClusterIP, and not by a pod")
	case f.Kind == plan.ClusterIP:
		return false
	case !f.ExternalLocal:
		q.step("source NAT: external traffic policy Cluster")
	case q.answer.Scope == Node:
		q.step("source NAT: sent by the node to an external address")
	default:
		return false
	}
	return true
}

// own reports whether a backend is a process of this node, which sees its
// clients as they are: masquerading is for what leaves.
func (q *query) own(b plan.Backend) bool {
	if !slices.Contains(q.view.Local, b.Addr.Addr()) {
		return false
	}
	q.step("no source NAT to %v: it is this node's own address", b.Addr.Addr())
	return true
}

// hairpin reports whether a backend would see itself as client, and answer
// itself.
func (q *query) hairpin(b plan.Backend) bool {
	if !b.Local || b.Addr.Addr() != q.packet.Source {
		return false
	}
	q.step("source NAT: %v is client and backend", b.Addr.Addr())
	return true
}
