// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// ErrBusy is the error of Verify while not everything wanted is written.
var ErrBusy = errors.New("the tables are being changed")

// Drift is a part of a table that is not what it was left as.
type Drift struct {
	Table string // its name in package abi
	// Service is whose part it is; zero if nobody's.
	Service model.Name
	// Object names the part for people.
	Object string
}

// Verify reads all tables back and returns what differs from what is wanted,
// by table and object. Left out is what could not be written as it is wanted,
// which is in Pending: a table that is full must not hide what happens to the
// others. It takes time in proportion to everything there is, and returns ErrBusy
// while something waits for a grace period, or before Prune.
func (r *Reconciler) Verify(ctx context.Context) ([]Drift, error) {
	if !r.unowned.named || !r.grace.idle() {
		return nil, ErrBusy
	}
	tables, changes, err := maps.Overlay(r.tables)
	if err != nil {
		return nil, fmt.Errorf("read tables back: %w", err)
	}
	// What a new process would write is what is wrong.
	dry := New(tables, Options{Now: r.now, Wait: context.Cause})
	defer dry.Close()
	want := r.wanted()
	if r.node.problem != nil {
		want.host = nil
	}
	want.untouched = r.unsettled()
	if err := errors.Join(dry.restart(ctx, want), dry.Drain(ctx)); err != nil {
		return nil, err
	}
	return r.drifts(changes()), nil
}

// Repair makes everything as it is wanted, whatever the tables hold, and keeps
// from them what can be kept: it does what a new process would do. It waits
// for grace periods.
func (r *Reconciler) Repair(ctx context.Context) (Stats, error) {
	before, start := r.totals, r.now()
	if err := r.Drain(ctx); err != nil {
		return Stats{}, err
	}
	want := r.wanted()
	r.state = newState(r.tables)
	err := r.restart(ctx, want)
	r.totals.Took = before.Took // counted by restart already
	return r.account(before, start, 0), err
}

// wanted is a desired state.
type wanted struct {
	plans []plan.Service // sorted
	host  *host.Tables   // nil as long as nobody has said
	// untouched are left as they are found, whatever is wanted of them; the one
	// without a name stands for what nobody owns.
	untouched map[model.Name]bool
}

// unsettled are the Services that are not as they are wanted.
func (r *Reconciler) unsettled() map[model.Name]bool {
	all := map[model.Name]bool{}
	for s := range r.failing {
		all[s.name] = true
	}
	for _, p := range r.closing {
		all[p.owner.name] = true
	}
	return all
}

// restart does all that a new process does.
func (r *Reconciler) restart(ctx context.Context, w wanted) error {
	if err := r.Restore(ctx); err != nil {
		return err
	}
	if w.host != nil {
		r.ApplyHost(*w.host)
	}
	for name := range w.untouched {
		s := r.unowned
		if name != (model.Name{}) {
			s = r.service(name)
		}
		s.named = true // so that it is not pruned
	}
	r.Apply(ctx, slices.DeleteFunc(w.plans, func(p plan.Service) bool { return w.untouched[p.Name] }))
	r.Prune(ctx)
	return nil
}

// wanted returns the desired state.
func (r *Reconciler) wanted() wanted {
	var w wanted
	for _, s := range r.services {
		if s.named {
			w.plans = append(w.plans, s.want)
		}
	}
	slices.SortFunc(w.plans, func(a, b plan.Service) int { return a.Name.Compare(b.Name) })
	if host := r.node.want; r.node.named {
		w.host = &host
	}
	return w
}

// drifts says what the changes are about.
func (r *Reconciler) drifts(c maps.Changes) []Drift {
	owners := map[uint32]*port{}
	for _, s := range r.services {
		for _, p := range s.ports {
			owners[p.index] = p
		}
	}
	var drifts []Drift
	add := func(table string, number uint32, format string, args ...any) {
		d := Drift{Table: table, Object: fmt.Sprintf(format, args...)}
		if p := owners[number]; p != nil {
			d.Service = p.id.Service
			d.Object = fmt.Sprintf("%v: %s", p.id, d.Object)
		}
		drifts = append(drifts, d)
	}
	for key := range c.Frontends {
		d := Drift{Table: abi.MapFrontends, Object: keyString(key)}
		if f := r.frontends[key]; f != nil {
			d.Service = f.owner.name
		}
		drifts = append(drifts, d)
	}
	for i := range c.Services {
		add(abi.MapServices, i, "name of index %d", i)
	}
	for i := range c.Sets {
		add(abi.MapSets, i/abi.SetKinds, "set %d", i)
	}
	for i := range c.Backends {
		b := r.tables.Backends.Load(i)
		add(abi.MapBackends, b.Service, "backend %d", i)
	}
	for i := range c.Filter {
		add(abi.MapVIPFilter, maps.NoService, "word %d", i)
	}
	for key := range c.SourceRanges {
		add(abi.MapSourceRanges, key.Service, "source range %s", rangeString(key))
	}
	drifts = append(drifts, r.hostDrifts(c)...)
	// Slots are left out: what changes there is a consequence of a set's change.
	slices.SortFunc(drifts, func(a, b Drift) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Object, b.Object)) })
	return drifts
}

// hostDrifts says what the changes of the tables about the node are about.
func (r *Reconciler) hostDrifts(c maps.Changes) []Drift {
	var drifts []Drift
	for ip := range c.LocalAddrs {
		drifts = append(drifts, Drift{Table: abi.MapLocalAddrs, Object: r.node.locals.name(ip)})
	}
	for key := range c.PodRanges {
		drifts = append(drifts, Drift{Table: abi.MapPodRanges, Object: r.node.pods.name(key)})
	}
	for key := range c.EgressAddrs {
		drifts = append(drifts, Drift{Table: abi.MapEgressAddrs, Object: r.node.sources.name(key)})
	}
	for word := range c.ReservedPorts {
		drifts = append(drifts, Drift{Table: abi.MapReservedPorts, Object: fmt.Sprintf("ports %d-%d", word*64, word*64+63)})
	}
	return drifts
}
