// SPDX-License-Identifier: Apache-2.0

// Package takeover takes a real cluster over from kube-proxy and gives it back,
// under load, the way docs/takeover.md tells.
package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
	"github.com/beeline-net/beeline/test/cluster/internal/traffic"
)

// shared is how long the streams of one proxy go on beside the other's.
const shared = 5 * time.Second

// run is one run.
type run struct {
	*traffic.Traffic
	proxy   cluster.Proxy
	table   *experiment.Table
	beeline string // the program in boxes
}

// Run does it on a cluster that has no proxy and of whose agents --takeover=wait is
// an argument, with that kube-proxy. It returns what became of the traffic, and an
// error if any of it failed.
func Run(ctx context.Context, c *cluster.Cluster, proxy cluster.Proxy, t *experiment.Table) ([]traffic.Figure, error) {
	r := &run{Traffic: &traffic.Traffic{Cluster: c}, proxy: proxy, table: t}
	if err := t.Step(fmt.Sprintf("%s serves", proxy), r.prepare(ctx)); err != nil {
		return nil, err
	}
	loops, err := r.Begin(ctx, "loop")
	if err == nil {
		err = errors.Join(r.takeOver(ctx), ctx.Err())
	}
	if err == nil {
		err = r.giveBack(ctx)
	}
	err = errors.Join(err, r.End("connections", loops))
	return r.Figures, t.Step("no connection failed", errors.Join(err, r.Failed()))
}

func (r *run) prepare(ctx context.Context) (err error) {
	if r.beeline, err = r.Beeline(); err != nil {
		return err
	}
	if err := r.InstallProxy(ctx, r.proxy); err != nil {
		return err
	}
	return r.Prepare(ctx)
}

// takeOver does what docs/takeover.md says, with streams that kube-proxy began.
func (r *run) takeOver(ctx context.Context) error {
	old, err := r.Begin(ctx, "stream")
	if err != nil {
		return err
	}
	if err := r.table.Step("Beeline waits beside it", errors.Join(r.InstallProxy(ctx, cluster.Beeline), r.phase(ctx, "waiting"))); err != nil {
		return err
	}
	if err := r.table.Step("Beeline takes new connections", errors.Join(r.annotate(ctx, "takeover"), r.phase(ctx, "sharing"))); err != nil {
		return err
	}
	_, err = r.Kubectl(ctx, "--namespace=kube-system", "delete", "daemonset/kube-proxy", "--cascade=foreground", "--timeout=90s")
	if err == nil {
		err = traffic.Pause(ctx, shared)
	}
	if err := r.table.Step("kube-proxy is gone", err); err != nil {
		return err
	}
	if err := r.End("streams that kube-proxy began", old); err != nil {
		return err
	}
	// CoreDNS' connections to the API server were kube-proxy's, and last as long
	// as CoreDNS does.
	_, err = r.Kubectl(ctx, "--namespace=kube-system", "rollout", "restart", "deployment/coredns")
	return r.table.Step("its rules are removed", errors.Join(err, r.phase(ctx, "alone")))
}

// giveBack does, with streams that Beeline began.
func (r *run) giveBack(ctx context.Context) error {
	young, err := r.Begin(ctx, "stream")
	if err != nil {
		return err
	}
	if err := r.annotate(ctx, "rollback"); err != nil {
		return err
	}
	if err := r.table.Step(fmt.Sprintf("%s runs again", r.proxy), r.InstallProxy(ctx, r.proxy)); err != nil {
		return err
	}
	if err := r.table.Step("it takes new connections", errors.Join(r.phase(ctx, "returning"), traffic.Pause(ctx, shared))); err != nil {
		return err
	}
	if err := r.End("streams that Beeline began", young); err != nil {
		return err
	}
	for n := range r.Nodes() { // UDP sockets are given two minutes otherwise
		if out, err := r.on(ctx, n+1, "takeover", "--rollback", "--deadline=1s"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	if err := r.table.Step("Beeline has left", r.phase(ctx, "returned")); err != nil {
		return err
	}
	return r.table.Step("Beeline is removed", errors.Join(r.RemoveProxy(ctx, cluster.Beeline), traffic.Pause(ctx, shared)))
}

// annotate says what is wanted of all nodes.
func (r *run) annotate(ctx context.Context, wish string) error {
	_, err := r.Kubectl(ctx, "annotate", "nodes", "--all", "--overwrite", "beeline.dev/takeover="+wish)
	return err
}

// on runs Beeline's command line on a node.
func (r *run) on(ctx context.Context, node int, args ...string) (string, error) {
	var said strings.Builder
	err := r.RunIn(ctx, cluster.NodeName(node), &said, append([]string{r.beeline}, args...)...)
	return said.String(), err
}

// phase waits until all nodes are that far.
func (r *run) phase(ctx context.Context, want string) error {
	return traffic.Until(ctx, "all nodes are "+want, func() error {
		for n := range r.Nodes() {
			out, err := r.on(ctx, n+1, "takeover", "--dry-run", "--output=json")
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			var h struct {
				State struct{ Phase, Why string } `json:"state"`
			}
			if err := json.Unmarshal([]byte(out), &h); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			if h.State.Phase != want {
				return fmt.Errorf("%s is %s: %s", cluster.NodeName(n+1), h.State.Phase, h.State.Why)
			}
		}
		return nil
	})
}
