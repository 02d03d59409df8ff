// SPDX-License-Identifier: Apache-2.0

// Package reconcile makes the kernel's tables say what the plan says. It holds
// what is desired, knows what is there, and writes the difference in an order
// in which a program sees the old state of a Service port or the new one:
//
//  1. the Service port's name and its new backends, which nobody reads yet, and
//     its source ranges: first those to come, then without those to go;
//  2. the members of its sets, into fresh slots;
//  3. each set's word: the one store that publishes them;
//  4. filter bits, then new and changed frontends; one that moves from another
//     Service is overwritten in place, and that Service's backends say so;
//  5. frontends that nobody wants any more, then filter bits without any;
//  6. after a grace period, in which every program ends that may still be
//     using what was taken back: generations become 0, words empty, names and
//     source ranges of frontends that ask for none any more go, and all their numbers may be used again.
//
// Backends leave step 6 with generation 0, not step 3: a program that has read
// the old word a moment before would otherwise find a dead backend and refuse
// a client although others live.
//
// A write that fails is noted for its Service and tried again; what depends on
// it is not written, everything else is.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Options are what a Reconciler takes from outside. Every field may be zero.
type Options struct {
	Log *slog.Logger
	// Now is the clock that retries and Stats go by.
	Now func() time.Time
	// Wait returns once every program has ended that ran when it was called,
	// and an error only if ctx ended first. It is called in the background.
	// Default: maps.WaitForPrograms.
	Wait func(ctx context.Context) error
	// Freed is called after backends got generation 0: who remembers one of them
	// may have to be told. It must not block, nor call the Reconciler.
	Freed func()
}

// Reconciler owns the tables that the agent writes. Its methods must be called
// from one goroutine; Wake may be waited for in any.
type Reconciler struct {
	state
	tables *maps.Tables
	log    *slog.Logger
	now    func() time.Time
	grace  *grace
	freed  func()
	totals Stats
}

// state is what is wanted and what there is.
type state struct {
	services map[model.Name]*service
	// unowned holds what Restore found and no Service port's name explains.
	unowned *service
	failing map[*service]struct{} // those with a problem

	frontends map[abi.FrontendKey]*frontend
	contested map[abi.FrontendKey]struct{} // wanted by several Service ports
	filter    map[uint32]int               // frontends in the kernel a filter bit
	present   int                          // frontends in the kernel

	numbers  *indexes // of Service ports
	backends *indexes
	slots    *extents
	ranges   int // source ranges in the kernel

	node node

	// closing are ports of which something could not be deleted yet.
	closing     []*port
	closingNext time.Time

	pass  uint64     // counts passes, to visit a frontend once in each
	noted []*service // that the present call is not about, with errors
}

func newState(tables *maps.Tables) state {
	return state{
		services: map[model.Name]*service{}, unowned: &service{},
		failing:   map[*service]struct{}{},
		frontends: map[abi.FrontendKey]*frontend{}, contested: map[abi.FrontendKey]struct{}{},
		filter:   map[uint32]int{},
		numbers:  newIndexes(tables.Sets.Services()),
		backends: newIndexes(tables.Backends.Len()),
		slots:    newExtents(tables.Slots.Len()),
		node:     newNode(tables.Packet),
	}
}

// service is one Service: what is wanted and what there is.
type service struct {
	name  model.Name
	want  plan.Service
	named bool // a plan has named it since Restore
	ports []*port
	// keys are the frontends it claims; after Restore, those that were found.
	keys []abi.FrontendKey
	// stuck are frontends it has given up, but which could not be deleted.
	stuck   []abi.FrontendKey
	problem *Problem
	errs    []error // of the present attempt
	queued  bool    // is part of the present call, or noted in it
}

// errNoRoom is the error of a write that needs numbers which are all in use.
var errNoRoom = errors.New("no room left")

// full reports whether an error may go away once something is freed.
func full(err error) bool {
	return errors.Is(err, errNoRoom) || errors.Is(err, syscall.E2BIG) || errors.Is(err, syscall.ENOSPC)
}

// New makes a Reconciler for tables that nobody else writes. Call Restore
// before anything else.
func New(tables *maps.Tables, o Options) *Reconciler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Wait == nil {
		o.Wait = maps.WaitForPrograms
	}
	if o.Freed == nil {
		o.Freed = func() {}
	}
	r := &Reconciler{log: o.Log, now: o.Now, grace: newGrace(o.Wait), freed: o.Freed}
	r.tables = maps.Watch(tables, maps.Watcher{Wrote: r.totals.count})
	r.state = newState(r.tables)
	return r
}

// Close ends the background work. The tables stay as they are.
func (r *Reconciler) Close() { r.grace.close() }

// Wake has an element whenever Retry has something to do, besides the problems
// that NextRetry gives a time for.
func (r *Reconciler) Wake() <-chan struct{} { return r.grace.wake }

// Apply makes each plan the desired state of its Service and writes what
// differs. A plan without ports and addresses removes the Service. If a plan
// does not fit because room is about to become free, Apply waits for that, or
// until ctx ends; otherwise it never blocks. What failed is in Pending.
func (r *Reconciler) Apply(ctx context.Context, plans []plan.Service) Stats {
	before, start := r.totals, r.now()
	r.reclaim(r.grace.take())
	work := make([]*service, 0, len(plans))
	for _, p := range plans {
		s := r.service(p.Name)
		s.want, s.named = p, true
		if !s.queued { // named twice: the last plan counts
			s.queued = true
			work = append(work, s)
		}
	}
	r.run(ctx, work)
	return r.account(before, start, len(plans))
}

// Retry does what has become due: it frees what outlived its readers and tries
// again what failed. Call it when Wake has an element and at NextRetry.
func (r *Reconciler) Retry(ctx context.Context) Stats {
	before, start := r.totals, r.now()
	r.reclaim(r.grace.take())
	r.reclaim(&retired{}) // what could not be deleted
	var due []*service
	for s := range r.failing {
		if !s.problem.Next.After(start) {
			due = append(due, s)
		}
	}
	slices.SortFunc(due, func(a, b *service) int { return a.name.Compare(b.name) })
	r.run(ctx, due)
	if p := r.node.problem; p != nil && !p.Next.After(start) {
		r.settleHost()
	}
	return r.account(before, start, len(due))
}

// Prune removes what Restore found and nobody has named since. Call it once
// all sources have told everything they know, and not before.
func (r *Reconciler) Prune(ctx context.Context) Stats {
	before, start := r.totals, r.now()
	var work []*service
	for _, s := range r.services {
		if !s.named {
			s.named = true
			work = append(work, s)
		}
	}
	slices.SortFunc(work, func(a, b *service) int { return a.name.Compare(b.name) })
	if gone := len(work); gone > 0 {
		r.log.Info("remove Services that are gone", "services", gone)
	}
	if !r.unowned.named {
		r.unowned.named = true
		work = append(work, r.unowned)
	}
	r.run(ctx, work)
	r.pruneFilter()
	return r.account(before, start, len(work))
}

// Drain waits until everything retired has been freed, or ctx ends.
func (r *Reconciler) Drain(ctx context.Context) error {
	for !r.grace.idle() {
		r.reclaim(r.grace.await(ctx))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for running programs: %w", err)
		}
	}
	return nil
}

func (r *Reconciler) service(name model.Name) *service {
	s := r.services[name]
	if s == nil {
		s = &service{name: name}
		r.services[name] = s
	}
	return s
}

// run brings the given Services to what is wanted of them. Those that find no
// room get it from what is retired and, only if that does not help, from the
// holders of frontends that should move to them.
func (r *Reconciler) run(ctx context.Context, work []*service) {
	for _, s := range work {
		s.queued = true
	}
	r.once(work, moveInPlace)
	for _, mode := range [...]moveMode{moveInPlace, moveByRemoval, moveInPlace} {
		starved := slices.DeleteFunc(slices.Clone(work), func(s *service) bool { return !slices.ContainsFunc(s.errs, full) })
		if len(starved) == 0 {
			break
		}
		if mode == moveInPlace && !r.grace.idle() {
			r.reclaim(r.grace.await(ctx))
			r.reclaim(r.grace.await(ctx)) // what was retired while one ran
		}
		r.once(starved, mode)
	}
	concerned := append(work, r.noted...)
	r.noted = nil
	for _, s := range concerned {
		s.queued = false
		r.conclude(s)
		r.forget(s)
	}
}

// once makes one attempt at the given Services, in the package's order.
func (r *Reconciler) once(work []*service, mode moveMode) {
	if len(work) == 0 {
		return
	}
	r.pass++
	t := &touched{mode: mode}
	for _, s := range work {
		s.errs = nil
		r.adopt(s)
		r.claim(s, t)
	}
	r.register(work)
	for _, s := range work {
		r.publish(s)
	}
	r.settle(t)
	for _, s := range work {
		t.ports = append(t.ports, s.ports...)
	}
	for _, p := range t.ports {
		r.retireRanges(p, mode)
		r.retirePort(p)
	}
	r.grace.start()
	for _, p := range t.ports {
		r.forget(p.owner)
	}
}

// publish writes the backends and sets of a Service's ports.
func (r *Reconciler) publish(s *service) {
	for i := range s.want.Ports {
		w := &s.want.Ports[i]
		p := s.port(w.ID)
		if !p.named { // register has noted why
			continue
		}
		if err := r.publishPort(p, w); err != nil {
			r.note(s, fmt.Errorf("port %v: %w", w.ID, err))
		}
	}
}

// reclaim frees what no program uses any more. Nil is nothing.
func (r *Reconciler) reclaim(b *retired) {
	if b == nil {
		return
	}
	before := r.backends.used
	for _, s := range b.sets {
		if s.port.sets[s.kind].leaving == b { // otherwise it is in use again
			r.emptySet(s.port, s.kind)
		}
	}
	for _, i := range b.backends {
		r.freeBackend(i)
	}
	for _, e := range b.slots {
		r.slots.release(e)
	}
	over := slices.Concat(r.closing, b.ports)
	for _, p := range b.guards {
		if p.guard.leaving == b && !p.retired { // otherwise it is in use again
			over = append(over, p)
		}
	}
	r.closing = nil
	for _, p := range over {
		if p.problem = r.finish(p); p.problem != nil {
			r.closing = append(r.closing, p)
		}
	}
	r.closingNext = r.now().Add(retryMax)
	if r.backends.used != before {
		r.freed()
	}
	if !b.empty() {
		for s := range r.failing {
			s.hurry(r.now())
		}
	}
	r.grace.start()
}

// finish ends what no program uses any more of a port: all of it, or its source
// ranges.
func (r *Reconciler) finish(p *port) error {
	if p.retired {
		return r.closePort(p)
	}
	if err := r.dropRanges(p, nil); err != nil {
		return fmt.Errorf("port %v: %w", p.id, err)
	}
	p.guard.leaving = nil
	return nil
}

// reopen takes a port back that was closing.
func (r *Reconciler) reopen(p *port) {
	r.closing = slices.DeleteFunc(r.closing, func(o *port) bool { return o == p })
}

// forget drops the record of a Service of which nothing is left.
func (r *Reconciler) forget(s *service) {
	if s.named && !s.queued && s.problem == nil && len(s.ports)+len(s.keys)+len(s.stuck) == 0 && s != r.unowned {
		delete(r.services, s.name)
	}
}
