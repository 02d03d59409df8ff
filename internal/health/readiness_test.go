// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/model"
)

// clock is a time that stands still until it is told to move.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time        { return c.at }
func (c *clock) pass(by time.Duration) { c.at = c.at.Add(by) }

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

const timeout = time.Minute

// get asks a handler and returns what came back.
func get(t *testing.T, h http.Handler, path string) (code int, text string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	for header, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff",
	} {
		if got := w.Header().Get(header); got != want {
			t.Errorf("%s: header %s is %q, want %q", path, header, got, want)
		}
	}
	return w.Code, w.Body.String()
}

func TestHealthzAndLivez(t *testing.T) {
	const (
		t0  = `"2026-11-23T10:00:00Z"`
		t60 = `"2026-11-23T10:01:00Z"`
	)
	for name, test := range map[string]struct {
		do                 func(*Readiness, *clock, *Checks)
		healthz, livez     int
		healthzBody, lives string
	}{
		"at the start, of an eligible node": {
			do:          func(r *Readiness, _ *clock, c *Checks) { r.SetNodeEligible(true); c.record("x", nil) },
			healthz:     200,
			healthzBody: `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"nodeEligible":true,"healthy":true}`,
			livez:       200,
			lives:       `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"healthy":true}`,
		},
		"at the start, of a node that nobody knows": {
			do:          func(_ *Readiness, _ *clock, c *Checks) { c.record("x", nil) },
			healthz:     503,
			healthzBody: `{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":` + t0 + `,"nodeEligible":false,"healthy":true}`,
			livez:       200,
			lives:       `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"healthy":true}`,
		},
		"both families written, some time ago": {
			do: func(r *Readiness, at *clock, c *Checks) {
				r.SetNodeEligible(true)
				r.Updated(model.IPv4)
				r.Updated(model.IPv6)
				at.pass(timeout)
				c.record("x", nil)
			},
			healthz: 200,
			healthzBody: `{"lastUpdated":` + t60 + `,"currentTime":` + t60 + `,"nodeEligible":true,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":true},"IPv6":{"lastUpdated":` + t0 + `,"healthy":true}}}`,
			livez: 200,
			lives: `{"lastUpdated":` + t60 + `,"currentTime":` + t60 + `,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":true},"IPv6":{"lastUpdated":` + t0 + `,"healthy":true}}}`,
		},
		"a change of one family waits too long": {
			do: func(r *Readiness, at *clock, c *Checks) {
				r.SetNodeEligible(true)
				r.Updated(model.IPv4)
				r.Updated(model.IPv6)
				r.Queued(model.IPv4)
				at.pass(timeout)
				r.Queued(model.IPv4)
				c.record("x", nil)
			},
			healthz: 503,
			healthzBody: `{"lastUpdated":` + t0 + `,"currentTime":` + t60 + `,"nodeEligible":true,"healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":false},"IPv6":{"lastUpdated":` + t0 + `,"healthy":true}}}`,
			livez: 503,
			lives: `{"lastUpdated":` + t0 + `,"currentTime":` + t60 + `,"healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":false},"IPv6":{"lastUpdated":` + t0 + `,"healthy":true}}}`,
		},
		"a check fails": {
			do: func(r *Readiness, at *clock, c *Checks) {
				r.SetNodeEligible(true)
				r.Updated(model.IPv4)
				c.record("x", errors.New(`link "sock4" is gone`))
			},
			healthz: 503,
			healthzBody: `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"nodeEligible":true,"healthy":false,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":true}},` +
				`"failingChecks":[{"name":"x","error":"link \"sock4\" is gone","since":` + t0 + `}]}`,
			livez: 200,
			lives: `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"healthy":true,` +
				`"status":{"IPv4":{"lastUpdated":` + t0 + `,"healthy":true}}}`,
		},
		"a check has not run yet": {
			do:      func(r *Readiness, _ *clock, _ *Checks) { r.SetNodeEligible(true) },
			healthz: 503,
			healthzBody: `{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":` + t0 + `,"nodeEligible":true,"healthy":false,` +
				`"failingChecks":[{"name":"x","error":"has not run yet"}]}`,
			livez: 200,
			lives: `{"lastUpdated":` + t0 + `,"currentTime":` + t0 + `,"healthy":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			at := newClock()
			checks := NewChecks(at.now, DefaultSchedule(), discard(), NewCheck("x", nil))
			r := NewReadiness(at.now, timeout, checks)
			test.do(r, at, checks)
			var probed []int
			h := r.Handler(Probed{
				Healthz: func(code int) { probed = append(probed, code) },
				Livez:   func(code int) { probed = append(probed, code) },
			})
			code, text := get(t, h, "/healthz")
			if code != test.healthz || text != test.healthzBody {
				t.Errorf("/healthz: %d\n got %s\nwant %s", code, text, test.healthzBody)
			}
			code, text = get(t, h, "/livez")
			if code != test.livez || text != test.lives {
				t.Errorf("/livez: %d\n got %s\nwant %s", code, text, test.lives)
			}
			if diff := cmp.Diff([]int{test.healthz, test.livez}, probed); diff != "" {
				t.Errorf("reported status codes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOtherPathsAreNotFound(t *testing.T) {
	w := httptest.NewRecorder()
	NewReadiness(time.Now, timeout, nil).Handler(Probed{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("/: %d, want 404", w.Code)
	}
}

func TestChangesMayWait(t *testing.T) {
	at := newClock()
	r := NewReadiness(at.now, timeout, nil)
	step := func(what string, want bool) {
		t.Helper()
		if got := r.Report().InTime(); got != want {
			t.Errorf("%s: in time is %t, want %t", what, got, want)
		}
	}
	step("at the start", true)
	r.Queued(model.IPv4)
	at.pass(timeout - 1)
	step("just before the timeout", true)
	r.Queued(model.IPv4)
	at.pass(1)
	step("a first sync that never ends", false)
	r.Updated(model.IPv4)
	step("written", true)
	at.pass(time.Hour)
	step("nothing to do for an hour", true)
	r.Queued(model.IPv6)
	r.SetTimeout(time.Second)
	at.pass(time.Second)
	step("with a shorter timeout", false)
	r.Updated(model.IPv4)
	step("the other family written", false)
	r.Updated(model.IPv6)
	step("both written", true)
}

func TestHealthyNeedsChecksAndTime(t *testing.T) {
	at := newClock()
	checks := NewChecks(at.now, DefaultSchedule(), discard(), NewCheck("x", func(context.Context) error { return nil }))
	r := NewReadiness(at.now, timeout, checks)
	if r.Report().Healthy() {
		t.Error("healthy before the check has run")
	}
	checks.record("x", nil)
	if !r.Report().Healthy() {
		t.Error("not healthy although the check passes")
	}
	r.Queued(model.IPv4)
	at.pass(timeout)
	checks.record("x", nil)
	if r.Report().Healthy() {
		t.Error("healthy although a change waits too long")
	}
}
