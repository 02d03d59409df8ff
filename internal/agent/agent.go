// SPDX-License-Identifier: Apache-2.0

// Package agent puts the parts together and keeps them running: a source fills
// the snapshot, the loop plans and reconciles, the datapath holds on to the
// kernel. It is the only place that knows all of them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// Run works as this node's service proxy until ctx ends. When it returns, the
// kernel goes on with what it was told last.
func Run(ctx context.Context, cfg config.Config, log *slog.Logger) (err error) {
	started := time.Now()
	dp, err := datapath.Open(datapathOptions(cfg, log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	tables, err := maps.New(dp.Maps())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tables.Close()) }()

	rec := reconcile.New(tables, reconcile.Options{Log: log})
	defer rec.Close()
	if err := rec.Restore(ctx); err != nil {
		return fmt.Errorf("restore from the kernel: %w", err)
	}
	store := snapshot.New(time.Now)
	src, err := newSource(cfg, store, log)
	if err != nil {
		return err
	}
	probe, err := newSelfTest()
	if err != nil {
		return err
	}
	l := &loop{
		log:       log,
		store:     store,
		planner:   plan.New(planConfig(cfg)),
		reconcile: rec,
		minPeriod: cfg.Sync.MinPeriod,
		selfTest:  probe,
		observer:  silent{},
	}
	log.Info("programs attached", "cgroup", cfg.Kernel.CgroupRoot, "took", time.Since(started))

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return src.Run(ctx) })
	g.Go(func() error { return l.run(ctx) })
	g.Go(func() error { return probe.serve(ctx) })
	return g.Wait()
}
