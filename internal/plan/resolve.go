// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// resolve makes the plan of a draft: its wishes as far as they are granted, its
// endpoints as far as they are no frontends.
func (p *Planner) resolve(name model.Name, d draft) (Service, []Problem) {
	r := resolver{Planner: p, name: name, problems: d.problems}
	granted := make([][]Frontend, len(d.ports))
	for _, w := range d.wishes {
		if r.grants(w) {
			granted[w.port] = append(granted[w.port], w.Frontend)
		}
	}
	plan := Service{Name: name}
	for i, dp := range d.ports {
		if len(granted[i]) > 0 {
			plan.Ports = append(plan.Ports, r.port(dp, granted[i]))
		}
	}
	slices.SortFunc(plan.Ports, func(a, b Port) int { return a.ID.Compare(b.ID) })
	for _, addr := range d.addresses {
		if w, _ := p.claims.winner(addressKey(addr)); w.service == name {
			plan.Addresses = append(plan.Addresses, addr)
		}
	}
	if !plan.Empty() {
		plan.Health = d.health
	}
	return plan, condense(r.problems)
}

// resolver makes one plan.
type resolver struct {
	*Planner
	name     model.Name
	problems []Problem
}

// grants reports whether the Service gets a frontend.
func (r *resolver) grants(w wish) bool {
	winner, _ := r.claims.winner(w.FrontendKey)
	switch {
	case winner.service != r.name:
		r.problem(FrontendConflict, "%v %v belongs to Service %v", w.Kind, w.FrontendKey, winner.service)
		return false
	case w.yields:
		r.problem(FrontendIsBackend, "%v %v is an endpoint of the Service itself and reached directly", w.Kind, w.FrontendKey)
		return false
	case winner.meek && r.targets.any(w.FrontendKey) != nil:
		r.problem(FrontendIsBackend, "%v %v is an endpoint of Service %v", w.Kind, w.FrontendKey, r.targets.any(w.FrontendKey).plan.Name)
		return false
	}
	return true
}

// port plans one Service port with the frontends it got.
func (r *resolver) port(dp draftPort, frontends []Frontend) Port {
	port := Port{ID: dp.id, Frontends: frontends}
	var useCluster, useLocal bool
	for _, f := range frontends {
		useCluster = useCluster || !f.InternalLocal || !f.ExternalLocal
		useLocal = useLocal || f.InternalLocal || f.ExternalLocal
	}
	eps := slices.DeleteFunc(dp.endpoints, func(e endpoint) bool { return e.usable() && r.loops(dp.id, e) })
	usable := categorise(eps, r.scene.vantage)
	port.Backends = slices.Grow(port.Backends, len(eps))
	if useCluster {
		port.Cluster.Members = slices.Grow(port.Cluster.Members, len(eps))
	}
	for i := range eps {
		e := &eps[i]
		e.inCluster = e.inCluster && useCluster
		e.inLocal = e.inLocal && useLocal
		if !e.remembered(dp.id.Protocol) {
			continue
		}
		if e.inCluster {
			port.Cluster.Members = append(port.Cluster.Members, len(port.Backends))
		}
		if e.inLocal {
			port.Local.Members = append(port.Local.Members, len(port.Backends))
		}
		port.Backends = append(port.Backends, Backend{Addr: e.addr, State: e.state(), Local: e.local, Target: e.Target})
	}
	if useLocal && usable && len(port.Local.Members) == 0 {
		port.Local.Empty = Drop
	}
	return port
}

// loops reports whether what is sent to an endpoint would be translated again.
func (r *resolver) loops(id PortID, e endpoint) bool {
	var keys [2]FrontendKey
	for _, key := range r.scene.appendReached(keys[:0], e.addr, id.Protocol) {
		// The endpoint itself makes the key a target: who is meek gives way.
		if owner, ok := r.claims.winner(key); ok && !owner.yields && !owner.meek {
			r.problem(BackendIsFrontend, "endpoint %v/%v is a frontend of Service %v", e.addr, id.Protocol, owner.service)
			return true
		}
	}
	return false
}

func (r *resolver) problem(reason Reason, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.name, reason, fmt.Sprintf(format, args...)})
}

// remembered reports whether an endpoint is a backend at all. One that is in no
// set keeps the flows it has, whatever its conditions; but a UDP flow to one
// that does not serve is given another (kube-proxy: conntrack/cleanup.go).
func (e *endpoint) remembered(protocol model.Protocol) bool {
	return e.inCluster || e.inLocal || e.Serving || protocol != model.UDP
}

func (e *endpoint) state() State {
	switch {
	case !e.inCluster && !e.inLocal:
		return Draining
	case e.Ready:
		return Active
	}
	return Terminating
}
