// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/health"
	"github.com/beeline-net/beeline/internal/metrics"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// reporter tells the world what the loop does: metrics, health, the log and
// Events. It is called by the loop only.
type reporter struct {
	log       *slog.Logger
	started   time.Time
	metrics   *metrics.Metrics
	readiness *health.Readiness
	nodePorts *health.NodePorts
	// sourceProblems lists what is wrong with objects or files at present.
	sourceProblems func() []object.Problem
	// event tells people about a Service.
	event func(service model.Name, reason, message string)

	// held is how many Services' updates are held.
	held func() int

	told     map[plan.Problem]bool
	waiting  map[model.Name]bool // Services of which something is not written
	reasons  map[string]int
	targets  map[model.Name][]plan.HealthCheck
	contests map[contest]bool
	noLocals tally
	totals   reconcile.Stats
}

// pass is what the loop did in one go.
type pass struct {
	delta snapshot.Delta
	// plans are those that were applied; full: all there are.
	plans []plan.Service
	full  bool
	// synced: the sources have told everything.
	synced bool
	// configured: the configuration has changed.
	configured bool
	// released: they were held before.
	released bool
	start    time.Time
}

// begins says that changes are under way.
func (r *reporter) begins(d snapshot.Delta) {
	for _, family := range model.Families {
		r.readiness.Queued(family)
		if !d.Since.IsZero() {
			r.metrics.Queued(family, d.Since)
		}
	}
	r.metrics.Changed(d.ServiceChanges, d.SliceChanges)
	r.metrics.SetWaiting(d.ServiceChanges, d.SliceChanges)
}

// ends says how a pass went.
func (r *reporter) ends(p pass, planner *plan.Planner, rec *reconcile.Reconciler) {
	now := time.Now()
	r.kernel(rec)
	late := slices.ContainsFunc(rec.Pending(), mayPass)
	for _, family := range model.Families {
		r.metrics.Sync(family, p.full || p.delta.Node || p.configured, now, now.Sub(p.start))
		if !late && p.synced {
			r.readiness.Updated(family)
		}
	}
	for _, t := range p.delta.Triggers {
		r.metrics.Programmed(t.Family, now.Sub(t.At))
	}
	r.metrics.SetSynced(p.synced)
	r.metrics.SetHeld(r.held())
	if p.synced && p.full {
		r.metrics.InStep(now.Sub(r.started))
	}
	r.metrics.SetWaiting(0, 0)
	r.metrics.SetSourceProblems(len(r.sourceProblems()))
	r.readiness.SetNodeEligible(p.synced && !planner.Node().Draining)
	if p.full || p.delta.Node || p.configured {
		r.nodePorts.SetAddresses(healthAddresses(planner))
	}
	r.services(p.plans)
	r.refusals(planner.Problems())
}

// healthAddresses are where health check ports listen: where NodePorts do.
func healthAddresses(p *plan.Planner) []netip.Addr {
	matcher := p.Config().NodePortMatcher(p.Node())
	var addrs []netip.Addr
	for _, family := range model.Families {
		if matcher.MatchAll(family) {
			addrs = append(addrs, map[model.Family]netip.Addr{
				model.IPv4: netip.IPv4Unspecified(), model.IPv6: netip.IPv6Unspecified(),
			}[family])
			continue
		}
		for _, a := range p.Node().Addresses {
			if model.FamilyOf(a) == family && matcher.Match(a) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// kernel reports what the reconciler wrote and what it could not.
func (r *reporter) kernel(rec *reconcile.Reconciler) {
	now, before := rec.Totals(), r.totals
	r.totals = now
	r.metrics.Wrote(now.Puts-before.Puts, now.Deletes-before.Deletes, now.Stores-before.Stores, now.Syscalls-before.Syscalls)
	for _, u := range rec.Usage() {
		r.metrics.SetMap(u.Table, u.Used, u.Capacity)
	}
	r.unplaced(rec.Pending())
}

// mayPass tells that trying again may help by itself. What has no room waits for
// an operator: a node that serves all the other Services is not late, and
// restarting its agent would change nothing.
func mayPass(p reconcile.Problem) bool {
	return !p.Full && !errors.Is(p.Err, reconcile.ErrContested)
}

// unplaced reports what could not be written; of each Service once, while it
// lasts.
func (r *reporter) unplaced(pending []reconcile.Problem) {
	r.metrics.SetFailing(len(pending))
	failed := 0
	waiting := make(map[model.Name]bool, len(pending))
	for _, p := range pending {
		failed += p.Errors
		waiting[p.Service] = true
		if !r.waiting[p.Service] {
			r.event(p.Service, "NotInKernel", p.Err.Error())
		}
	}
	r.waiting = waiting
	r.metrics.WriteFailed(failed)
	if slices.ContainsFunc(pending, mayPass) {
		for _, family := range model.Families {
			r.readiness.Queued(family)
		}
	}
}

// services brings up to date what is counted per Service.
func (r *reporter) services(plans []plan.Service) {
	checks := false
	for _, p := range plans {
		r.noLocals.set(p)
		if len(p.Health) == 0 && r.targets[p.Name] == nil {
			continue
		}
		checks = true
		if delete(r.targets, p.Name); len(p.Health) > 0 {
			r.targets[p.Name] = p.Health
		}
	}
	r.noLocals.report(r.metrics)
	if !checks {
		return
	}
	r.nodePorts.SetTargets(r.healthTargets())
}

// contest is a health check port that two Services ask for, which no API server
// lets be.
type contest struct {
	loser, winner model.Name
	port          uint16
}

// healthTargets says for each health check port whose it is. Of two Services the
// first by name has it, and the other is told so once.
func (r *reporter) healthTargets() map[health.NodePort]health.Target {
	targets, contests := map[health.NodePort]health.Target{}, map[contest]bool{}
	for _, name := range slices.SortedFunc(maps.Keys(r.targets), model.Name.Compare) {
		for _, h := range r.targets[name] {
			port := health.NodePort{Family: h.Family, Port: h.Port}
			first, taken := targets[port]
			if !taken {
				targets[port] = health.Target{Service: name, LocalEndpoints: h.LocalReady}
				continue
			}
			c := contest{name, first.Service, h.Port}
			if !r.contests[c] && !contests[c] {
				message := fmt.Sprintf("health check port %d belongs to Service %v", c.port, c.winner)
				r.log.Warn("health check port not served", "service", c.loser, "problem", message)
				r.event(c.loser, noHealthCheck, message)
			}
			contests[c] = true
		}
	}
	r.contests = contests
	return targets
}

// noHealthCheck is kube-proxy's reason of an Event about a health check port.
const noHealthCheck = "FailedToStartServiceHealthcheck"

// refusals tells each problem of a plan once: when it is new.
func (r *reporter) refusals(problems []plan.Problem) {
	byReason := map[string]int{}
	for reason := range r.reasons {
		byReason[reason] = 0
	}
	told := make(map[plan.Problem]bool, len(problems))
	for _, p := range problems {
		byReason[string(p.Reason)]++
		told[p] = true
		if r.told[p] {
			continue
		}
		r.log.Warn("part of a Service is not served", "service", p.Service, "reason", p.Reason, "problem", p.Message)
		r.event(p.Service, string(p.Reason), p.Message)
	}
	r.told, r.reasons = told, byReason
	r.metrics.SetRefusals(byReason)
}

// tally counts Service ports with policy Local, endpoints, and none of them on
// this node, keeping each Service's share so that a change costs that Service.
type tally struct {
	shares map[model.Name]map[tallyKey]int
	sums   map[tallyKey]int
}

type tallyKey struct {
	policy metrics.Policy
	family model.Family
}

func newTally() tally {
	return tally{shares: map[model.Name]map[tallyKey]int{}, sums: map[tallyKey]int{}}
}

func (t tally) set(s plan.Service) {
	for k, n := range t.shares[s.Name] {
		t.sums[k] -= n
	}
	delete(t.shares, s.Name)
	share := map[tallyKey]int{}
	for _, p := range s.Ports {
		if len(p.Local.Members) > 0 || p.Local.Empty != plan.Drop {
			continue
		}
		internal, external := policies(p)
		if internal {
			share[tallyKey{metrics.Internal, p.ID.Family}]++
		}
		if external {
			share[tallyKey{metrics.External, p.ID.Family}]++
		}
	}
	if len(share) == 0 {
		return
	}
	t.shares[s.Name] = share
	for k, n := range share {
		t.sums[k] += n
	}
}

// policies tells which of a port's traffic policies are Local.
func policies(p plan.Port) (internal, external bool) {
	for _, f := range p.Frontends {
		if f.Kind == plan.ClusterIP {
			internal = internal || f.InternalLocal
		} else {
			external = external || f.ExternalLocal
		}
	}
	return internal, external
}

func (t tally) report(m *metrics.Metrics) {
	for _, family := range model.Families {
		for _, policy := range []metrics.Policy{metrics.Internal, metrics.External} {
			m.SetNoLocalEndpoints(policy, family, t.sums[tallyKey{policy, family}])
		}
	}
}
