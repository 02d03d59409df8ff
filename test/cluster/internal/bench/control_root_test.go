// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// The benchmark itself, as small as it can be: every proxy's Services answer, a
// change is seen, and nothing that it measures is empty.
func TestControlPlaneBenchmark(t *testing.T) {
	lab.RequireRoot(t)
	cache, err := kit.OpenCache()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := kit.FindTree()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	programs, err := kit.MakePrograms(t.Context(), cache, tree, log)
	if err != nil {
		t.Fatal(err)
	}
	var cells []ControlCell
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	starts := map[string]int{"beeline": 2} // one proxy's do for how that is done
	for _, p := range []cluster.Proxy{cluster.Beeline, cluster.KubeProxyNFTables, cluster.KubeProxyIPTables} {
		err = RunControlPlane(ctx, programs, ControlOptions{
			Services: []int{20}, Endpoints: 2, Lab: "cp" + strconv.Itoa(os.Getpid()), Proxies: []cluster.Proxy{p},
			Starts: max(starts[string(p)], 1), Churn: time.Second, ChangesPerSecond: 20, CellBudget: 30 * time.Second, Budget: time.Minute,
		}, log, func(c ControlCell) error { cells = append(cells, c); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	var proxies []string
	for _, c := range cells {
		proxies = append(proxies, c.Proxy)
		if c.Failed != "" || c.Churn.Lost > 0 {
			t.Errorf("%s: lost %d, %s", c.Proxy, c.Churn.Lost, c.Failed)
		}
		if len(c.Before) != max(starts[c.Proxy], 1)-1 || len(c.Before) > 0 && (c.Before[0].First <= 0 || c.Before[0].FullSync <= 0) {
			t.Errorf("%s: starts before the last: %+v", c.Proxy, c.Before)
		}
		if s := c.Start; s.First <= 0 || s.All < s.First || s.Probed != 19 || s.CPU <= 0 || s.FullSync <= 0 || s.Resident == 0 || s.Peak < s.Resident {
			t.Errorf("%s: start %+v", c.Proxy, s)
		}
		if h := c.Churn; len(h.Seen) == 0 || slices.Min(h.Seen) <= 0 || h.Changes <= 0 || h.Resident == 0 {
			t.Errorf("%s: churn %+v", c.Proxy, h)
		}
	}
	if want := []string{"beeline", "kube-proxy-nftables", "kube-proxy-iptables"}; !slices.Equal(proxies, want) {
		t.Errorf("measured %v, want %v", proxies, want)
	}
}
