// SPDX-License-Identifier: Apache-2.0

// Package helm installs Beeline's chart on a real cluster with the real Helm, and
// changes and removes it again under load.
package helm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
	"github.com/beeline-net/beeline/test/cluster/internal/traffic"
)

const release = "beeline"

// run is one run.
type run struct {
	*traffic.Traffic
	tree  string
	table *experiment.Table
}

// Run does it on a cluster that has no proxy, with the chart and the Helm of a work
// tree. It returns what became of the traffic, and an error if any of it failed.
func Run(ctx context.Context, c *cluster.Cluster, tree string, t *experiment.Table) ([]traffic.Figure, error) {
	r := &run{Traffic: &traffic.Traffic{Cluster: c}, tree: tree, table: t}
	mount, err := lab.CgroupMount()
	if err != nil {
		return nil, err
	}
	err = r.helm(ctx, "install", release, r.chart(), "--wait", "--timeout=90s", "--set", "cgroupRoot="+mount)
	if err := t.Step("helm install", err); err != nil {
		return nil, err
	}
	if err := t.Step("the Service is reached", r.Prepare(ctx)); err != nil {
		return nil, err
	}
	loops, err := r.Begin(ctx, "loop")
	if err != nil {
		return nil, err
	}
	streams, err := r.Begin(ctx, "stream")
	if err == nil {
		err = r.change(ctx)
	}
	err = errors.Join(err, r.End("streams", streams), r.End("connections", loops))
	if err := t.Step("no connection failed", errors.Join(err, r.Failed())); err != nil {
		return r.Figures, err
	}
	return r.Figures, t.Step("beeline cleanup leaves nothing on the nodes", r.clean(ctx))
}

// change upgrades the release, and uninstalls it.
func (r *run) change(ctx context.Context) error {
	before, err := r.agents(ctx)
	if err != nil {
		return err
	}
	err = r.helm(ctx, "upgrade", release, r.chart(), "--reuse-values", "--wait", "--timeout=120s",
		"--set", "config.masquerade.all=true", "--set", "podAnnotations.changed=yes")
	if err == nil {
		err = r.replaced(ctx, before)
	}
	if err := r.table.Step("helm upgrade with other values replaces the agents", err); err != nil {
		return err
	}
	err = r.helm(ctx, "uninstall", release, "--wait", "--timeout=90s")
	if err := r.table.Step("helm uninstall", errors.Join(err, r.gone(ctx))); err != nil {
		return err
	}
	const alone = 5 * time.Second
	return r.table.Step("Services go on without agents", traffic.Pause(ctx, alone))
}

func (r *run) chart() string { return filepath.Join(r.tree, "deploy/helm/beeline") }

// helm runs Helm in its pinned version.
func (r *run) helm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(r.tree, "hack/tool"), append([]string{"helm"}, args...)...)
	cmd.Args = append(cmd.Args, "--namespace=kube-system", "--kubeconfig="+r.Dirs().Kubeconfig())
	cmd.Env = os.Environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w: %s", args[0], err, out)
	}
	return nil
}

// agents are the names of the release's pods.
func (r *run) agents(ctx context.Context) ([]string, error) {
	out, err := r.Kubectl(ctx, "--namespace=kube-system", "get", "pods", "--selector=app.kubernetes.io/instance="+release, "--output=name")
	return strings.Fields(out), err
}

// replaced: every node has another agent, which has got the new values.
func (r *run) replaced(ctx context.Context, before []string) error {
	if _, err := r.Kubectl(ctx, "--namespace=kube-system", "rollout", "status", "daemonset/"+release, "--timeout=120s"); err != nil {
		return err
	}
	after, err := r.agents(ctx)
	if err != nil {
		return err
	}
	for _, old := range before {
		for _, now := range after {
			if now == old {
				return fmt.Errorf("%s is still there after the upgrade", old)
			}
		}
	}
	text, err := r.Kubectl(ctx, "--namespace=kube-system", "get", "configmap/"+release, "--output=jsonpath={.data}")
	if err != nil || len(after) != r.Nodes() || !strings.Contains(text, "masquerade") {
		return fmt.Errorf("%d agents on %d nodes, settings %s: %w", len(after), r.Nodes(), text, err)
	}
	return nil
}

// gone: Helm has left no object of the release.
func (r *run) gone(ctx context.Context) error {
	return traffic.Until(ctx, "objects of the release are gone", func() error {
		out, err := r.Kubectl(ctx, "get", "daemonsets,pods,configmaps,serviceaccounts,clusterrolebindings", "--all-namespaces",
			"--selector=app.kubernetes.io/instance="+release, "--output=name")
		if err == nil && strings.TrimSpace(out) != "" {
			err = errors.New(strings.Join(strings.Fields(out), ", "))
		}
		return err
	})
}

// clean removes what outlives the agents.
func (r *run) clean(ctx context.Context) error {
	program, err := r.Beeline()
	if err != nil {
		return err
	}
	for n := range r.Nodes() {
		var said strings.Builder
		if err := r.RunIn(ctx, cluster.NodeName(n+1), &said, program, "cleanup"); err != nil {
			return fmt.Errorf("%s: %w: %s", cluster.NodeName(n+1), err, said.String())
		}
		if err := r.RunIn(ctx, cluster.NodeName(n+1), &said, program, "status"); err == nil {
			return fmt.Errorf("%s: there is something left: %s", cluster.NodeName(n+1), said.String())
		}
	}
	return nil
}
