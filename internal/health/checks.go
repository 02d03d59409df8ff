// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// Check looks whether one thing works that Services need, by its effect if
// there is one.
type Check interface {
	// Name is short and stable, such as "programs"; people read it.
	Name() string
	// Run returns what is wrong, or nil. It heeds ctx; one that does not is
	// noticed all the same.
	Run(ctx context.Context) error
}

// NewCheck makes a Check of a function.
func NewCheck(name string, run func(context.Context) error) Check { return check{name, run} }

type check struct {
	name string
	run  func(context.Context) error
}

func (c check) Name() string                  { return c.name }
func (c check) Run(ctx context.Context) error { return c.run(ctx) }

// Schedule says how checks are run. A check that breaks is noticed after Every
// plus Limit at the latest, and one that hangs after Stale.
type Schedule struct {
	// Every is the time from one run's end to the next run's start.
	Every time.Duration
	// Limit is how long a run may take.
	Limit time.Duration
	// Stale is the age at which a success counts no more.
	Stale time.Duration
}

// DefaultSchedule notices everything within 8 seconds.
func DefaultSchedule() Schedule {
	return Schedule{Every: 2 * time.Second, Limit: 3 * time.Second, Stale: 8 * time.Second}
}

// Failure is a check that does not pass.
type Failure struct {
	// Name of the check.
	Name string `json:"name"`
	// Error is what is wrong.
	Error string `json:"error"`
	// Since is when it began to fail, or when it was last seen to pass; zero if
	// it has not run yet.
	Since time.Time `json:"since,omitzero"`
}

// Checks runs checks and remembers their outcomes. A check that has not run yet
// fails. Its methods are safe for concurrent use; nil has no checks.
type Checks struct {
	now      func() time.Time
	schedule Schedule
	log      *slog.Logger
	checks   []Check

	mu       sync.Mutex
	outcomes map[string]outcome
}

// outcome is what is known of a check.
type outcome struct {
	// err is what the last run said.
	err error
	// ended is when the last run ended; zero for never.
	ended time.Time
	// failed is when the first of the failures in a row ended.
	failed time.Time
}

// NewChecks takes checks with different names, to be run by Run.
func NewChecks(now func() time.Time, schedule Schedule, log *slog.Logger, checks ...Check) *Checks {
	return &Checks{now: now, schedule: schedule, log: log, checks: checks, outcomes: map[string]outcome{}}
}

// Run runs every check again and again until ctx ends, each on its own, so that
// one that hangs does not hide the others.
func (c *Checks) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, check := range c.checks {
		all.Go(func() { c.repeat(ctx, check) })
	}
	all.Wait()
	return nil
}

func (c *Checks) repeat(ctx context.Context, check Check) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, c.schedule.Limit)
		err := check.Run(limited)
		cancel()
		if ctx.Err() != nil {
			return // what is said while everything ends means nothing
		}
		c.record(check.Name(), err)
		select {
		case <-ctx.Done():
		case <-time.After(c.schedule.Every):
		}
	}
}

// record notes the outcome of a run.
func (c *Checks) record(name string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, now := c.outcomes[name], c.now()
	after := outcome{err: err, ended: now}
	switch {
	case err == nil && before.err != nil:
		c.log.Info("check passes again", "check", name, "failed_for", now.Sub(before.failed))
	case err != nil && before.err == nil:
		after.failed = now
		c.log.Warn("check fails", "check", name, "err", err)
	case err != nil:
		after.failed = before.failed
	}
	c.outcomes[name] = after
}

// Failing lists the checks that fail, that have not run yet, or whose success
// is too old, by name.
func (c *Checks) Failing() []Failure {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	var failing []Failure
	for _, check := range c.checks {
		name := check.Name()
		switch o := c.outcomes[name]; {
		case o.ended.IsZero():
			failing = append(failing, Failure{name, "has not run yet", time.Time{}})
		case o.err != nil:
			failing = append(failing, Failure{name, o.err.Error(), o.failed})
		case now.Sub(o.ended) >= c.schedule.Stale:
			failing = append(failing, Failure{name, "has not finished since " + now.Sub(o.ended).Round(time.Second).String(), o.ended})
		}
	}
	slices.SortFunc(failing, func(a, b Failure) int { return strings.Compare(a.Name, b.Name) })
	return failing
}
