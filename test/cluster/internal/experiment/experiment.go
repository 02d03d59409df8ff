// SPDX-License-Identifier: Apache-2.0

// Package experiment does on a real cluster what the README promises: without
// a service proxy a Service is unreachable, with Beeline applied it is not.
package experiment

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// welcome is the title of nginx's own page.
const welcome = "Welcome to nginx!"

// Run does the experiment on a cluster without a service proxy.
func Run(ctx context.Context, c *cluster.Cluster, proxy cluster.Proxy, t *Table) error {
	if err := t.Step("nginx runs and has a Service", runNginx(ctx, c)); err != nil {
		return err
	}
	if err := t.Step("without a proxy, wget fails", wantFailure(ctx, c)); err != nil {
		return err
	}
	if err := t.Step(fmt.Sprintf("%s is applied and runs on %d nodes", proxy, c.Nodes()), c.InstallProxy(ctx, proxy)); err != nil {
		return err
	}
	if err := t.Step("cluster DNS is ready", waitForDNS(ctx, c)); err != nil {
		return err
	}
	page, err := wget(ctx, c)
	if err == nil && !strings.Contains(page, welcome) {
		err = fmt.Errorf("wget printed %q, want a page with %q", page, welcome)
	}
	t.Page = page
	return t.Step("wget prints the welcome page", err)
}

// runNginx types the experiment's first line and waits for the pod.
func runNginx(ctx context.Context, c *cluster.Cluster) error {
	if _, err := c.Kubectl(ctx, "run", "nginx", "--image=nginx", "--port=80", "--expose"); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "wait", "pod/nginx", "--for=condition=Ready", "--timeout=90s")
	return err
}

// wget types the experiment's second line.
func wget(ctx context.Context, c *cluster.Cluster) (string, error) {
	return c.Kubectl(ctx, "run", "test-pod", "--image=busybox", "--restart=Never", "--rm", "-i", "--",
		"wget", "-qO-", "nginx")
}

// wantFailure sees that the second line fails because the Service cannot be
// reached, and not because the pod could not run.
func wantFailure(ctx context.Context, c *cluster.Cluster) error {
	page, err := wget(ctx, c)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return fmt.Errorf("wget printed %q without a service proxy", page)
	case !strings.Contains(err.Error(), "bad address"):
		return fmt.Errorf("wget failed for another reason than the name: %w", err)
	}
	return nil
}

// waitForDNS waits for CoreDNS, which itself needs a Service: that of the API server.
func waitForDNS(ctx context.Context, c *cluster.Cluster) error {
	_, err := c.Kubectl(ctx, "--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s")
	return err
}

// Table is the report: what was done and how long it took.
type Table struct {
	// Page is what wget printed.
	Page  string
	start time.Time
	last  time.Time
	rows  []row
}

type row struct {
	what string
	took time.Duration
	err  error
}

// NewTable starts the clock.
func NewTable() *Table { return &Table{start: time.Now(), last: time.Now()} }

// Step notes what has been done since the step before, and returns its error.
func (t *Table) Step(what string, err error) error {
	now := time.Now()
	t.rows = append(t.rows, row{what, now.Sub(t.last), err})
	t.last = now
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
