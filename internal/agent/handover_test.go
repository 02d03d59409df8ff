// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/conntrack"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/takeover"
)

// A dump of nf_conntrack that fails must not leave a node on which nobody begins
// flows: it holds a takeover only while kube-proxy's rules serve.
func TestFlowsThatCannotBeCounted(t *testing.T) {
	for _, c := range []struct {
		name  string
		wish  takeover.Wish
		rules bool
		holds bool
	}{
		{"serve beside stale rules", takeover.Serve, true, false},
		{"serve", takeover.Serve, false, false},
		{"takeover, the rules serve", takeover.Takeover, true, true},
		{"takeover, nobody serves", takeover.Takeover, false, false},
		{"waited, kube-proxy is gone", takeover.Wait, false, false},
		{"back from a rollback, rules gone", takeover.Rollback, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handover{
				log: slog.New(slog.DiscardHandler), pins: datapath.NewPins(t.TempDir()), setting: c.wish, node: new(string), rules: c.rules,
				translated: func() ([]conntrack.Flow, error) { return nil, errors.New("no answer") },
			}
			if err := h.noteFlows(); (err != nil) != c.holds {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Whose the ports are while nobody has seen a kube-proxy on a node that boots.
func TestPortsOfAnAwaitedKubeProxy(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name string
		wish takeover.Wish // empty: the Node was not read
		ran  bool
		gone time.Duration
		open bool
	}{
		{"waits", takeover.Wait, false, time.Second, false},
		{"waited long enough", takeover.Wait, false, takeover.Settle, true},
		{"the Node was not read", "", false, time.Second, false},
		{"the Node was never read", "", false, takeover.Settle, true},
		{"serves", takeover.Serve, false, time.Second, true},
		{"serves, it ran before the agent restarted", takeover.Serve, true, time.Second, false},
		{"serves, it was stopped before that", takeover.Serve, true, time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handover{
				pins: datapath.NewPins(t.TempDir()), setting: c.wish, ran: c.ran,
				state: takeover.State{Phase: takeover.Alone, Gone: now.Add(-c.gone)},
			}
			if c.wish != "" {
				h.node = new(string)
			}
			runs, awaited, _ := h.claims(now)
			if open := !runs && !awaited; open != c.open {
				t.Errorf("runs %t, awaited %t; open should be %t", runs, awaited, c.open)
			}
		})
	}
}

// Looking costs dumps of all rules and flows: every second only while something
// is under way.
func TestHowOftenItIsLookedAt(t *testing.T) {
	now := time.Now()
	const alone, sharing, uncounted = takeover.Alone, takeover.Sharing, "stale rules, the agent restarted"
	for _, c := range []struct {
		name  string
		phase takeover.Phase
		wish  takeover.Wish
		rules bool
		flows int
		gone  time.Duration // zero: kube-proxy runs
		quiet bool
	}{
		{"alone", alone, takeover.Serve, false, 0, time.Minute, true},
		{"alone, rollback", alone, takeover.Rollback, false, 0, time.Minute, false},
		{"stale rules", sharing, takeover.Serve, true, 0, time.Minute, true},
		{uncounted, sharing, takeover.Serve, true, 0, time.Minute, false},
		{"stale rules, flows", sharing, takeover.Serve, true, 1, time.Minute, false},
		{"stale rules, to be removed", sharing, takeover.Takeover, true, 0, time.Minute, false},
		{"rules just gone", sharing, takeover.Serve, false, 0, time.Minute, false},
		{"kube-proxy just stopped", sharing, takeover.Serve, true, 0, time.Second, false},
		{"kube-proxy runs", sharing, takeover.Serve, true, 0, 0, false},
		{"waiting", takeover.Waiting, takeover.Wait, true, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &handover{rules: c.rules, counted: c.name != uncounted, state: takeover.State{Phase: c.phase, Flows: c.flows}}
			if c.gone > 0 {
				h.state.Gone = now.Add(-c.gone)
			}
			if got := h.quiet(c.wish, now); got != c.quiet {
				t.Errorf("quiet: %t", got)
			}
		})
	}
}
