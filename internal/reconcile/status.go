// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// How long to wait before trying again: doubled with every attempt.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 30 * time.Second
)

// Problem says what of a Service is not in the kernel as it is wanted.
type Problem struct {
	// Service is zero if it is about the node's own tables.
	Service model.Name
	// Err names the object, a port or a frontend, and why it failed; Errors is
	// how many failed, of which it is the first.
	Err    error
	Errors int
	// Since is when it first failed, Attempts how often it has been tried.
	Since    time.Time
	Attempts int
	// Next is when it is tried again; zero if not by itself.
	Next time.Time
	// Full is true if it failed because something has no room left.
	Full bool
}

// ErrContested is the error of a Problem about a frontend that another Service
// has.
var ErrContested = errors.New("another Service has it")

// Stats counts work.
type Stats struct {
	// Services were handled.
	Services int
	// Puts and Deletes are entries of hash tables, Stores are words of arrays,
	// all that were written. Syscalls wrote the entries; words need none.
	Puts, Deletes, Stores, Syscalls int
	// Took is the time spent.
	Took time.Duration
}

func (s *Stats) count(w maps.Write) {
	switch w.Op {
	case maps.Put, maps.PutAll:
		s.Puts += w.Entries
	case maps.Delete:
		s.Deletes += w.Entries
	case maps.Store:
		s.Stores += w.Entries
		return
	}
	s.Syscalls++
}

// Writes is how much was written in all.
func (s Stats) Writes() int { return s.Puts + s.Deletes + s.Stores }

// account completes the totals and returns what was added since before.
func (r *Reconciler) account(before Stats, start time.Time, services int) Stats {
	r.totals.Services += services
	r.totals.Took += r.now().Sub(start)
	return Stats{
		Services: r.totals.Services - before.Services,
		Puts:     r.totals.Puts - before.Puts,
		Deletes:  r.totals.Deletes - before.Deletes,
		Stores:   r.totals.Stores - before.Stores,
		Syscalls: r.totals.Syscalls - before.Syscalls,
		Took:     r.totals.Took - before.Took,
	}
}

// Totals returns the Stats of all calls.
func (r *Reconciler) Totals() Stats { return r.totals }

// Usage is how full a table is.
type Usage struct {
	Table          string // its name in package abi
	Used, Capacity int
}

// Usage returns how full the tables are that the agent writes. What waits for
// programs to end is in use.
func (r *Reconciler) Usage() []Usage {
	usage := []Usage{
		{abi.MapFrontends, r.present, r.tables.Frontends.Capacity()},
		{abi.MapServices, int(r.numbers.used), min(int(r.numbers.size), r.tables.Services.Capacity())},
		{abi.MapSlots, int(r.slots.used), int(r.slots.size)},
		{abi.MapBackends, int(r.backends.used), int(r.backends.size)},
	}
	if p := r.tables.Packet; p != nil {
		usage = append(usage,
			Usage{abi.MapSourceRanges, r.ranges, p.SourceRanges.Capacity()},
			Usage{abi.MapLocalAddrs, len(r.node.locals.have), p.LocalAddrs.Capacity()},
			Usage{abi.MapPodRanges, len(r.node.pods.have), p.PodRanges.Capacity()},
			Usage{abi.MapEgressAddrs, len(r.node.sources.have), p.EgressAddrs.Capacity()})
	}
	return usage
}

// note records that something of the Service failed.
func (r *Reconciler) note(s *service, err error) {
	s.errs = append(s.errs, err)
	if !s.queued {
		s.queued = true
		r.noted = append(r.noted, s)
	}
}

// starved reports whether the Service needs room.
func (s *service) starved() bool {
	return slices.ContainsFunc(s.errs, full) || s.problem != nil && s.problem.Full
}

// hurry makes a Service that needs room due at once.
func (s *service) hurry(now time.Time) {
	if s.problem.Full {
		s.problem.Next = now
	}
}

// conclude turns the errors of a pass into a problem, or ends the one there was.
func (r *Reconciler) conclude(s *service) {
	s.problem = r.outcome(s.problem, s.name, s.errs)
	s.errs = nil
	if s.problem == nil {
		delete(r.failing, s)
	} else {
		r.failing[s] = struct{}{}
	}
}

// outcome returns the problem that an attempt with these errors leaves, where
// there was the given one before; nil is none. A zero name is the node.
func (r *Reconciler) outcome(p *Problem, name model.Name, errs []error) *Problem {
	if len(errs) == 0 {
		if p != nil {
			r.log.Info(subject(name)+" is in the kernel now", "service", name, "attempts", p.Attempts+1)
		}
		return nil
	}
	if p == nil {
		p = &Problem{Service: name, Since: r.now()}
		r.log.Warn(subject(name)+" is not in the kernel as it should be", "service", name, "errors", len(errs), "error", errs[0])
	}
	p.Err, p.Errors, p.Full = errs[0], len(errs), slices.ContainsFunc(errs, full)
	p.Next = r.now().Add(min(retryMin<<min(p.Attempts, 16), retryMax))
	p.Attempts++
	return p
}

func subject(name model.Name) string {
	if name == (model.Name{}) {
		return "the node's own network"
	}
	return "Service"
}

// Pending returns what is not in the kernel as it is wanted, by Service; the
// node's own comes first.
func (r *Reconciler) Pending() []Problem {
	var problems []Problem
	for s := range r.failing {
		problems = append(problems, *s.problem)
	}
	for _, p := range r.closing {
		problems = append(problems, Problem{Service: p.id.Service, Err: p.problem, Errors: 1, Next: r.closingNext})
	}
	if p := r.node.problem; p != nil {
		problems = append(problems, *p)
	}
	for key := range r.contested {
		f := r.frontends[key]
		won := f.winner()
		for i := range f.claims {
			if c := &f.claims[i]; c != won {
				err := fmt.Errorf("frontend %s: %w: %v", keyString(key), ErrContested, won.port.id)
				problems = append(problems, Problem{Service: c.service.name, Err: err, Errors: 1})
			}
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return a.Service.Compare(b.Service) })
	return problems
}

// NextRetry returns when Retry has something to try again, zero if nothing
// failed.
func (r *Reconciler) NextRetry() time.Time {
	var next time.Time
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for s := range r.failing {
		earliest(s.problem.Next)
	}
	if len(r.closing) > 0 {
		earliest(r.closingNext)
	}
	if p := r.node.problem; p != nil {
		earliest(p.Next)
	}
	return next
}

// Members returns how many places the sets of a Service have in the kernel: 0 if
// a new connection to it finds nothing.
func (r *Reconciler) Members(name model.Name) (n int) {
	s := r.services[name]
	if s == nil {
		return 0
	}
	for _, p := range s.ports {
		for _, set := range p.sets {
			n += int(set.extent().count)
		}
	}
	return n
}

// Endpoints returns what new connections to a Service find in the kernel, each
// once, sorted.
func (r *Reconciler) Endpoints(name model.Name) (found []netip.AddrPort) {
	s := r.services[name]
	if s == nil {
		return nil
	}
	for _, p := range s.ports {
		for _, set := range p.sets {
			e := set.extent()
			for i := range e.count {
				b := r.tables.Backends.Load(r.tables.Slots.Load(e.base + i))
				found = append(found, netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)))
			}
		}
	}
	slices.SortFunc(found, netip.AddrPort.Compare)
	return slices.Compact(found)
}

// Served lists the Services of which Members is not 0, sorted.
func (r *Reconciler) Served() (names []model.Name) {
	for name := range r.services {
		if r.Members(name) > 0 {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, model.Name.Compare)
	return names
}
