// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// promised is how soon readiness must tell that something broke.
const promised = 10 * time.Second

// runChecks runs checks in a bubble of fake time until the test in it ends.
func runChecks(t *testing.T, test func(*testing.T, *Checks), checks ...Check) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := NewChecks(time.Now, DefaultSchedule(), discard(), checks...)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		test(t, c)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// redAfter is how long it takes until a check fails.
func redAfter(c *Checks) time.Duration {
	start := time.Now()
	for len(c.Failing()) == 0 && time.Since(start) < time.Minute {
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(start)
}

func names(failures []Failure) []string {
	var all []string
	for _, f := range failures {
		all = append(all, f.Name+": "+f.Error)
	}
	return all
}

func TestBrokenCheckIsRedInTime(t *testing.T) {
	var broken atomic.Pointer[string]
	check := NewCheck("effect", func(context.Context) error {
		if text := broken.Load(); text != nil {
			return errors.New(*text)
		}
		return nil
	})
	runChecks(t, func(t *testing.T, c *Checks) {
		synctest.Wait()
		if failing := c.Failing(); len(failing) > 0 {
			t.Fatalf("failing: %v", failing)
		}
		text := "connection refused"
		broken.Store(&text)
		if took := redAfter(c); took > promised {
			t.Errorf("red after %v", took)
		}
		if diff := cmp.Diff([]string{"effect: connection refused"}, names(c.Failing())); diff != "" {
			t.Error(diff)
		}
		since := c.Failing()[0].Since
		text2 := "no route"
		broken.Store(&text2)
		time.Sleep(DefaultSchedule().Every * 2)
		if f := c.Failing()[0]; !f.Since.Equal(since) || f.Error != "no route" {
			t.Errorf("after another error: %+v, want the new error since %v", f, since)
		}
		broken.Store(nil)
		time.Sleep(DefaultSchedule().Every * 2)
		if failing := c.Failing(); len(failing) > 0 {
			t.Errorf("failing after repair: %v", failing)
		}
	}, check)
}

func TestCheckThatHangsIsRedInTime(t *testing.T) {
	for name, test := range map[string]struct {
		hang func(ctx context.Context, release <-chan struct{}) error
		want string
	}{
		"and heeds its limit": {
			func(ctx context.Context, _ <-chan struct{}) error { <-ctx.Done(); return ctx.Err() },
			"x: context deadline exceeded",
		},
		"and heeds nothing": {
			func(_ context.Context, release <-chan struct{}) error { <-release; return nil },
			"x: has not finished since 8s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var hangs atomic.Bool
			var release chan struct{}
			check := NewCheck("x", func(ctx context.Context) error {
				if hangs.Load() {
					return test.hang(ctx, release)
				}
				return nil
			})
			runChecks(t, func(t *testing.T, c *Checks) {
				release = make(chan struct{})
				synctest.Wait()
				hangs.Store(true)
				if took := redAfter(c); took > promised {
					t.Errorf("red after %v", took)
				}
				if diff := cmp.Diff([]string{test.want}, names(c.Failing())); diff != "" {
					t.Error(diff)
				}
				hangs.Store(false)
				close(release)
				time.Sleep(DefaultSchedule().Every * 3)
				if failing := c.Failing(); len(failing) > 0 {
					t.Errorf("failing after it came back: %v", failing)
				}
			}, check)
		})
	}
}

func TestChecksDoNotHideEachOther(t *testing.T) {
	hangs := NewCheck("b", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	fails := NewCheck("a", func(context.Context) error { return errors.New("broken") })
	passes := NewCheck("c", func(context.Context) error { return nil })
	runChecks(t, func(t *testing.T, c *Checks) {
		synctest.Wait()
		want := []string{"a: broken", "b: has not run yet"}
		if diff := cmp.Diff(want, names(c.Failing())); diff != "" {
			t.Error(diff)
		}
	}, passes, hangs, fails)
}

func TestScheduleKeepsThePromise(t *testing.T) {
	s := DefaultSchedule()
	if slow := max(s.Every+s.Limit, s.Stale); slow >= promised {
		t.Errorf("a broken check may take %v to be noticed, promised are %v", slow, promised)
	}
	if s.Stale <= s.Every+s.Limit {
		t.Errorf("a success is stale after %v, before the next run must have ended", s.Stale)
	}
}
