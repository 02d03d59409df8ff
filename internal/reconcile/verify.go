// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
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
// by table and object. It takes time in proportion to everything there is,
// and returns ErrBusy while something is failing or waits for a grace period,
// or before Prune.
func (r *Reconciler) Verify(ctx context.Context) ([]Drift, error) {
	if !r.unowned.named || !r.grace.idle() || len(r.failing)+len(r.closing) > 0 {
		return nil, ErrBusy
	}
	tables, changes, err := maps.Overlay(r.tables)
	if err != nil {
		return nil, fmt.Errorf("read tables back: %w", err)
	}
	// What a new process would write is what is wrong.
	dry := New(tables, Options{Now: r.now, Wait: context.Cause})
	defer dry.Close()
	dry.kept = r.kept
	if err := errors.Join(dry.restart(ctx, r.wanted()), dry.Drain(ctx)); err != nil {
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
	plans := r.wanted()
	r.state = newState(r.tables)
	err := r.restart(ctx, plans)
	r.totals.Took = before.Took // counted by restart already
	return r.account(before, start, 0), err
}

// restart does all that a new process does.
func (r *Reconciler) restart(ctx context.Context, plans []plan.Service) error {
	if err := r.Restore(ctx); err != nil {
		return err
	}
	r.Apply(ctx, plans)
	r.Prune(ctx)
	return nil
}

// wanted returns the desired state, sorted.
func (r *Reconciler) wanted() []plan.Service {
	var plans []plan.Service
	for _, s := range r.services {
		if s.named {
			plans = append(plans, s.want)
		}
	}
	slices.SortFunc(plans, func(a, b plan.Service) int { return a.Name.Compare(b.Name) })
	return plans
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
	// Slots are left out: what changes there is a consequence of a set's change.
	slices.SortFunc(drifts, func(a, b Drift) int { return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Object, b.Object)) })
	return drifts
}
