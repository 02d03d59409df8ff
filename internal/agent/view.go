// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/link"
)

// View returns what an agent with that configuration would know of this node,
// and its network. It reads the sources once and touches nothing.
func View(ctx context.Context, cfg config.Config, log *slog.Logger) (oracle.View, model.Network, error) {
	network, err := link.Look()
	if err != nil {
		return oracle.View{}, network, err
	}
	store := snapshot.New(time.Now)
	src, err := newSource(cfg, store, log)
	if err != nil {
		return oracle.View{}, network, err
	}
	if err := readOnce(ctx, src, store); err != nil {
		return oracle.View{}, network, err
	}
	planner := plan.New(completed(planConfig(cfg), store, src.server))
	planner.SetNode(store.Node())
	for _, name := range store.Names() {
		service, endpointSlices := store.Service(name)
		planner.Update(name, service, endpointSlices)
	}
	view := oracle.View{Config: planner.Config(), Node: planner.Node()}
	for _, a := range network.Addresses() {
		if a = a.Unmap(); !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			view.Local = append(view.Local, a)
		}
	}
	for s := range planner.Services() {
		view.Services = append(view.Services, s)
	}
	return view, network, nil
}

// errRead ends reading once everything is known.
var errRead = errors.New("read")

func readOnce(ctx context.Context, src source, store *snapshot.Store) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return src.Run(ctx) })
	g.Go(func() error {
		for !store.HasSynced() {
			select {
			case <-ctx.Done():
				return fmt.Errorf("read the sources: %v still unknown: %w", store.Unsynced(), ctx.Err())
			case <-store.Changed():
			}
		}
		return errRead
	})
	if err := g.Wait(); !errors.Is(err, errRead) {
		return err
	}
	return nil
}
