// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beeline-net/beeline/internal/terminate"
)

// runEndings runs one whose passes end as told, in a world where time stands
// still while nobody waits, and tells how many passes there were.
func runEndings(t *testing.T, took time.Duration, result terminate.Result, err error, then func(e *endings, passes *atomic.Int32)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var passes atomic.Int32
		e := &endings{
			log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1), tell: func(terminate.Result) {},
			shortest: 100 * time.Millisecond, again: 10 * time.Second,
			load: func() (func(context.Context) (terminate.Result, error), error) {
				return func(context.Context) (terminate.Result, error) {
					passes.Add(1)
					time.Sleep(took)
					return result, err
				}, nil
			},
		}
		ctx, stop := context.WithCancel(t.Context())
		inStep, ended := make(chan struct{}), make(chan struct{})
		go func() { defer close(ended); _ = e.run(ctx, inStep) }()
		e.removed()
		time.Sleep(time.Minute)
		if n := passes.Load(); n != 0 {
			t.Errorf("%d passes before the kernel has been told everything", n)
		}
		close(inStep)
		synctest.Wait()
		then(e, &passes)
		stop()
		<-ended
	})
}

func wantPasses(t *testing.T, passes *atomic.Int32, want int32) {
	t.Helper()
	synctest.Wait()
	if got := passes.Load(); got != want {
		t.Errorf("%d passes, want %d", got, want)
	}
}

// Many removals are one pass, and passes take a tenth of the time at most.
func TestEndingsAreLimited(t *testing.T) {
	for took, want := range map[time.Duration]int32{50 * time.Millisecond: 200, time.Second: 50} {
		runEndings(t, took, terminate.Result{}, nil, func(e *endings, passes *atomic.Int32) {
			time.Sleep(30 * time.Second) // the first, and what was asked for before
			wantPasses(t, passes, 2)
			for range 10_000 {
				e.removed()
				time.Sleep(10 * time.Millisecond)
			}
			if n := passes.Load() - 2; n < want*9/10 || n > want*11/10 {
				t.Errorf("%d passes of %v in 100 s, want %d", n, took, want)
			}
		})
	}
}

func TestEndingsAtOnceWhereNothingWasDoneLately(t *testing.T) {
	runEndings(t, 0, terminate.Result{}, nil, func(e *endings, passes *atomic.Int32) {
		time.Sleep(time.Second)
		wantPasses(t, passes, 2)
		e.changed() // nothing was left alone, so no other change matters
		wantPasses(t, passes, 2)
		e.removed()
		wantPasses(t, passes, 3)
	})
}

func TestEndingsLookAgainWhenSomethingWasLeftAlone(t *testing.T) {
	runEndings(t, 0, terminate.Result{Kept: 1}, nil, func(e *endings, passes *atomic.Int32) {
		time.Sleep(time.Second)
		e.changed()
		wantPasses(t, passes, 3)
	})
}

func TestEndingsTryAgainWhatFailed(t *testing.T) {
	runEndings(t, 0, terminate.Result{Missed: 1}, errors.New("no such namespace"), func(_ *endings, passes *atomic.Int32) {
		time.Sleep(5 * time.Second)
		wantPasses(t, passes, 2)
		time.Sleep(10 * time.Second)
		wantPasses(t, passes, 3)
	})
}

// An agent that does not end sockets asks for nothing.
func TestNoEndings(*testing.T) {
	var e *endings
	e.removed()
	e.changed()
}
