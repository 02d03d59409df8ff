// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/takeover"
)

// runOrStandBy runs the agent, and stands by while the node is kube-proxy's.
func runOrStandBy(ctx context.Context, o Options) error {
	protect(o.Config.OOMScoreAdj, o.Log)
	pins := datapath.NewPins(o.Config.Kernel.BPFFS)
	for {
		h := newHandover(ctx, pins, o)
		if h.state.Phase == takeover.Returned {
			if err := standBy(ctx, o, h); err != nil {
				return err
			}
		}
		h.tune(o.Config.Config)
		err := run(ctx, o, h)
		if !errors.Is(err, errReturned) {
			return err
		}
		if err := datapath.Leave(pins); err != nil {
			return err
		}
		h.note()
		o.Log.Info("the node is kube-proxy's; standing by", "why", h.state.Why)
	}
}

// errWanted ends standing by.
var errWanted = errors.New("the node is wanted again")

// standBy waits until somebody wants the node to be Beeline's again. Nothing of
// the kernel is touched meanwhile.
func standBy(ctx context.Context, o Options, h *handover) error {
	store := snapshot.New(time.Now)
	src, err := newSource(o.Config.Config, store, o.Log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return src.run(ctx) })
	g.Go(func() error {
		tick := time.NewTicker(handoverPeriod)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			if slices.Contains(store.Unsynced(), snapshot.Node) {
				continue
			}
			h.told(store.Node())
			next, _ := takeover.Next(h.state, h.request(), h.look(ctx), time.Now())
			if next.Phase != takeover.Returned {
				h.enter(next)
				h.inForce = inForce(next.Phase)
				return errWanted
			}
		}
	})
	if err := g.Wait(); !errors.Is(err, errWanted) {
		return errors.Join(err, ctx.Err())
	}
	return nil
}

// told takes over what the Node object wants.
func (h *handover) told(n model.Node) { h.node = &n.Takeover }

// decide settles whose the node's flows are before the first of them are taken.
func (l *loop) decide(ctx context.Context, services []plan.Service) {
	l.handover.told(l.store.Node())
	if err := l.handover.decide(ctx, services); err != nil {
		l.log.Warn("takeover goes no further for now", "err", err)
	}
}

// takeFlows notes which flows netfilter has before Beeline takes new ones.
func (l *loop) takeFlows(services []plan.Service) {
	if err := l.handover.begin(services); err != nil {
		l.log.Warn("flows that netfilter translates are not known: UDP flows may change their backend", "err", err)
	}
}

// handOver goes on with a takeover or a rollback. What fails is tried again; only
// that the node was given back is an error.
func (l *loop) handOver(ctx context.Context) error {
	if !l.complete {
		l.handover.watch(ctx)
		return nil
	}
	l.handover.told(l.store.Node())
	services := func() []plan.Service {
		var all []plan.Service
		for s := range l.planner.Services() {
			all = append(all, s)
		}
		return all
	}
	err := l.handover.step(ctx, services)
	if errors.Is(err, errReturned) {
		return err
	}
	if err != nil {
		l.log.Warn("takeover goes no further for now", "err", err)
	}
	return nil
}
