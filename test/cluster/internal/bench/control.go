// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// ControlOptions say what is measured of a proxy against an API server that has
// nothing behind it.
type ControlOptions struct {
	// Services are the sizes, from small to large; each has so many Endpoints.
	Services  []int
	Endpoints int
	// Proxies take turns at every size.
	Proxies []cluster.Proxy
	// Starts is how often each proxy starts where there are few Services, the
	// proxies in turn: such a start is short, and what else the machine does is
	// much of it.
	Starts int
	// Churn is for how long EndpointSlices change, and ChangesPerSecond how
	// many of them.
	Churn            time.Duration
	ChangesPerSecond int
	// CellBudget is the time for a start, and again for one change to be seen;
	// Budget that for all of it: what has not begun by then is left out.
	CellBudget, Budget time.Duration
	// Lab names the namespaces.
	Lab string `json:"-"`
}

// ControlCell is what was measured of a proxy at a size.
type ControlCell struct {
	Services int
	Proxy    string
	// Start is the last one, after which Churn was measured; Before are those
	// before.
	Start  ControlStart
	Before []ControlStart
	Churn  Churn
	// Load is the machine's load average just before.
	Load string
	// Failed says why some of it is missing; empty if nothing is.
	Failed string
}

// ControlStart is a start: All is through the last of Probed Services.
type ControlStart struct {
	Start
	Probed int
	// FullSync is how long a pass over all Services took, as the proxy itself
	// says once there was one; CPU what all took until then, that of commands
	// it ran included.
	FullSync, CPU time.Duration
	// Resident is the agent's memory then, Peak the most until then, in bytes.
	Resident, Peak uint64
}

// control is a run.
type control struct {
	ControlOptions
	programs *kit.Programs
	objects  *objects
	log      *slog.Logger
}

// RunControlPlane measures in namespaces of its own, and calls done after every
// cell. A cell that failed says so; only what is wrong with the bench itself
// ends it.
func RunControlPlane(ctx context.Context, programs *kit.Programs, o ControlOptions, log *slog.Logger, done func(ControlCell) error) error {
	objects, err := newObjects(o.Endpoints)
	if err != nil {
		return err
	}
	defer objects.api.Stop()
	// So that the first start is not one from a cold disk.
	if out, err := exec.CommandContext(ctx, programs.KubeProxy, "--version").CombinedOutput(); err != nil {
		return fmt.Errorf("kube-proxy: %w: %s", err, out)
	}
	c := &control{ControlOptions: o, programs: programs, objects: objects, log: log}
	end := time.Now().Add(o.Budget)
	for _, services := range o.Services {
		objects.grow(services)
		before := c.starts(ctx, services, end)
		for _, proxy := range o.Proxies {
			cell := ControlCell{Services: services, Proxy: string(proxy), Before: before[proxy], Load: LoadAverage()}
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case time.Now().After(end):
				cell.Failed = "not measured: the time was up"
			default:
				if err := c.cell(ctx, proxy, &cell); err != nil {
					log.Warn("not measured to the end", "services", services, "proxy", proxy, "err", err)
					cell.Failed, _, _ = strings.Cut(err.Error(), "\n") // what the proxy said is not kept
				}
			}
			log.Info("measured", "services", services, "proxy", proxy, "start", cell.Start.Start, "failed", cell.Failed)
			if err := done(cell); err != nil {
				return err
			}
		}
	}
	return nil
}

// fewServices is the size up to which starts are repeated.
const fewServices = 1000

// starts measures starts of every proxy in turn; the last one of each is left to
// its cell. One that fails is left out: the cell's will, too, and says why.
func (c *control) starts(ctx context.Context, services int, end time.Time) map[cluster.Proxy][]ControlStart {
	all := map[cluster.Proxy][]ControlStart{}
	for range c.Starts - 1 {
		for _, p := range c.Proxies {
			if services > fewServices || time.Now().After(end) || ctx.Err() != nil {
				return all
			}
			var cell ControlCell
			if err := c.inWorld(ctx, p, &cell, func(*controlWorld) error { return nil }); err != nil {
				c.log.Warn("a start failed", "services", services, "proxy", p, "err", err)
				continue
			}
			all[p] = append(all[p], cell.Start)
		}
	}
	return all
}

// cell measures a proxy, from its start on a node without rules to its end.
func (c *control) cell(ctx context.Context, p cluster.Proxy, cell *ControlCell) error {
	return c.inWorld(ctx, p, cell, func(w *controlWorld) error {
		if err := c.churn(ctx, w, &cell.Churn); err != nil {
			return fmt.Errorf("changes: %w%s", err, w.said())
		}
		return nil
	})
}

// inWorld starts a proxy on a node without rules, goes on, and removes all.
func (c *control) inWorld(ctx context.Context, p cluster.Proxy, cell *ControlCell, then func(*controlWorld) error) (err error) {
	w, err := newControlWorld(c.Lab, c.programs, c.objects.api)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := c.start(ctx, w, p, &cell.Start); err != nil {
		return fmt.Errorf("start: %w%s", err, w.said())
	}
	return then(w)
}

// start runs the proxy while the client already tries to connect: to three
// Services at once for the first, and to a sample of all, one after the other,
// for the last.
func (c *control) start(ctx context.Context, w *controlWorld, p cluster.Proxy, start *ControlStart) (err error) {
	one, err := w.client(ctx, "first", c.objects.targets(first, startOther, last)...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.close()) }()
	sample := c.objects.sample()
	every, err := w.client(ctx, "every", sample...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, every.close()) }()
	began := time.Now()
	if err := w.run(ctx, p, c.objects.agentArgs()...); err != nil {
		return err
	}
	if err := start.await(ctx, one, 3, began, c.CellBudget); err != nil {
		return err
	}
	for range sample {
		e, err := every.next(ctx, c.CellBudget)
		if err != nil {
			return fmt.Errorf("%d of %d Services answered: %w", start.Probed, len(sample), err)
		}
		start.Probed++
		start.All = max(start.All, e.at.Sub(began))
	}
	if start.FullSync, err = w.fullSync(ctx, c.CellBudget); err != nil {
		return err
	}
	usage, err := w.usage()
	start.CPU, start.Resident, start.Peak = usage.CPU, usage.Resident, usage.Peak
	return err
}

// churn changes the server of one Service again and again, and endpoints of
// others beside it.
func (c *control) churn(ctx context.Context, w *controlWorld, churn *Churn) (err error) {
	move := func(to string) error {
		c.objects.api.Put(slice(flip, 0, w.servers[to]))
		return nil
	}
	_ = move(serverA)
	s, err := w.client(ctx, "watch", c.objects.targets(flip)...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.until(ctx, serverA, c.CellBudget); err != nil {
		return err
	}
	before, err := w.usage()
	if err != nil {
		return err
	}
	begin := time.Now()
	background, stop := context.WithCancel(ctx)
	changes := make(chan int, 1)
	go func() { changes <- c.changeOthers(background) }()
	flipErr := flips(ctx, s, begin.Add(c.Churn), c.CellBudget, move, churn)
	stop()
	others := <-changes
	took := time.Since(begin)
	after, err := w.usage()
	churn.spent(before, after, took, others)
	return errors.Join(flipErr, err)
}

// changeOthers changes random fillers until ctx ends, and returns how many.
func (c *control) changeOthers(ctx context.Context) (made int) {
	if c.objects.fillers == 0 || c.ChangesPerSecond == 0 {
		return 0
	}
	ticker := time.NewTicker(time.Second / time.Duration(c.ChangesPerSecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return made
		case <-ticker.C:
		}
		c.objects.change(rand.N(c.objects.fillers))
		made++
	}
}
