// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/terminate"
)

// Connections to an endpoint that takes no new ones end when their Service's
// time is over, and not before; those of other Services never do.
func TestDrainedConnectionsEndInTime(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here"})
	now := time.Now()
	var ended []string
	d := w.loop.drains
	d.now = func() time.Time { return now }
	d.sockets = func(_ context.Context, all []terminate.Backend) (terminate.Result, error) {
		for _, b := range all {
			ended = append(ended, b.Addr.String())
		}
		return terminate.Result{Ended: len(all)}, nil
	}
	w.store.SetService(service("resets", "10.96.0.1", func(s *model.Service) { s.Drain = model.Drain{Reset: true, After: 30 * time.Second} }))
	w.store.SetService(service("keeps", "10.96.0.2"))
	for _, name := range []string{"resets", "keeps"} {
		w.store.SetSlice(slice(name, "10.1.0.1", "10.1.0.2"))
	}
	w.synced()
	// One connection to every backend.
	cookie := uint64(0)
	for i := range w.tables.Backends.Len() {
		if b := w.tables.Backends.Load(i); b.Generation != 0 {
			cookie++
			check(t, w.tables.Peers.Put(cookie, abi.Peer{Service: b.Service, Backend: i, Generation: b.Generation}))
		}
	}
	at := func(when string, passed time.Duration, want ...string) {
		t.Helper()
		now = now.Add(passed)
		ended = nil
		check(t, d.pass(t.Context()))
		slices.Sort(ended)
		if !slices.Equal(ended, want) {
			t.Errorf("%s: ended those to %v, want %v", when, ended, want)
		}
	}
	at("all take connections", time.Hour)
	for _, name := range []string{"resets", "keeps"} {
		w.store.SetSlice(slice(name, "10.1.0.1"))
	}
	w.pass()
	check(t, w.loop.reconcile.Drain(t.Context()))
	at("one is gone", 0)
	at("not yet", 29*time.Second)
	at("now", time.Second, "10.1.0.2:8080")
	w.store.SetService(service("resets", "10.96.0.1"))
	w.pass()
	at("the policy is gone", time.Hour)
}
