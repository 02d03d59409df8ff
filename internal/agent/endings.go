// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/terminate"
)

// endings ends sockets that are connected to removed backends (pains A1). It
// works in the background, so that no change of Services waits for it. A nil
// endings does nothing.
type endings struct {
	log *slog.Logger
	// load gives pass.
	load func() (pass func(context.Context) (terminate.Result, error), err error)
	pass func(context.Context) (terminate.Result, error)
	tell func(terminate.Result)
	wake chan struct{} // has an element if a pass is asked for
	// kept: some sockets were left alone that the next change may concern.
	kept atomic.Bool
	// shortest is how long passes are apart at least, again how long one waits
	// before it tries again what it could not do.
	shortest, again time.Duration
}

// share is how much longer than a pass the pause after it is, so that passes
// take a tenth of a CPU at most. A pass that the machine had no time for must
// not be followed by a pause of many seconds, in which clients are lost.
const (
	share   = 9
	longest = time.Second
)

func newEndings(dp *datapath.Datapath, tables *maps.Tables, c config.Config, log *slog.Logger) *endings {
	e := &endings{
		log: log, wake: make(chan struct{}, 1), tell: func(terminate.Result) {},
		shortest: 100 * time.Millisecond, again: 10 * time.Second,
	}
	if !c.Datapath.TerminateUDPSockets {
		return nil
	}
	e.load = func() (func(context.Context) (terminate.Result, error), error) {
		t, err := terminate.New(terminate.Options{Kernel: dp.Maps(), Tables: tables, Log: log})
		if err != nil {
			return nil, err
		}
		return t.UDP, nil
	}
	return e
}

// removed says that backends are gone. It does not block.
func (e *endings) removed() {
	if e == nil {
		return
	}
	select {
	case e.wake <- struct{}{}:
	default: // the pass that is asked for already will see it
	}
}

// changed says that something else has changed: an address may have got a
// Service again.
func (e *endings) changed() {
	if e != nil && e.kept.Load() {
		e.removed()
	}
}

// run works until ctx ends. It begins once the kernel has been told everything,
// with what an earlier agent has left undone; the programs that find sockets are
// loaded then, because clients would wait for that.
func (e *endings) run(ctx context.Context, inStep <-chan struct{}) (err error) {
	select {
	case <-ctx.Done():
		return nil
	case <-inStep:
	}
	if e.pass, err = e.load(); err != nil {
		e.log.Warn("UDP sockets that are connected to removed backends are not ended", "err", err)
		return nil
	}
	missing := false
	for {
		start := time.Now()
		result, err := e.pass(ctx)
		took := time.Since(start)
		e.kept.Store(result.Kept > 0)
		e.tell(result)
		if result.Ended > 0 {
			e.log.Info("ended UDP sockets that were connected to removed backends", "sockets", result.Ended, "took", took)
		}
		if err != nil && !missing && ctx.Err() == nil {
			e.log.Warn("UDP sockets stay connected to removed backends", "sockets", result.Missed, "err", err)
		}
		missing = err != nil
		if !e.wait(ctx, min(max(e.shortest, share*took), longest), missing) {
			return nil
		}
	}
}

// wait lets some time pass, and then waits until there is something to do;
// false if ctx ends first.
func (e *endings) wait(ctx context.Context, pause time.Duration, missing bool) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
	}
	var again <-chan time.Time
	if missing {
		again = time.After(e.again)
	}
	select {
	case <-ctx.Done():
		return false
	case <-e.wake:
	case <-again:
	}
	return true
}
