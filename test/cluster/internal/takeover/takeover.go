// SPDX-License-Identifier: Apache-2.0

// Package takeover takes a real cluster over from kube-proxy and gives it back,
// under load, the way docs/takeover.md tells.
package takeover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

const (
	namespace = "takeover"
	clientPod = "client"
	// within bounds each step, on machines that have other work, too.
	within = 3 * time.Minute
	// shared is how long the streams of one proxy go on beside the other's.
	shared = 5 * time.Second
)

// objects are a client, servers on both nodes, and their Service.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: takeover}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: takeover}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: %d}]}
`

const podObject = `---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: takeover, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers: [{name: load, image: "%[4]s:latest", imagePullPolicy: IfNotPresent, args: [serve, %[1]s]}]
`

// run is one run.
type run struct {
	*cluster.Cluster
	proxy   cluster.Proxy
	table   *experiment.Table
	beeline string // the program in boxes
	inside  []load.Target
	outside []load.Target
	figures []Figure
}

// Figure is how it went with one kind of traffic.
type Figure struct {
	What string
	load.Kept
}

// Run does it on a cluster that has no proxy and of whose agents --takeover=wait is
// an argument, with that kube-proxy. It returns what became of the traffic, and an
// error if any of it failed.
func Run(ctx context.Context, c *cluster.Cluster, proxy cluster.Proxy, t *experiment.Table) ([]Figure, error) {
	r := &run{Cluster: c, proxy: proxy, table: t}
	if err := t.Step(fmt.Sprintf("%s serves", proxy), r.prepare(ctx)); err != nil {
		return nil, err
	}
	loops, err := r.begin(ctx, "loop")
	if err == nil {
		err = errors.Join(r.takeOver(ctx), ctx.Err())
	}
	if err == nil {
		err = r.giveBack(ctx)
	}
	err = errors.Join(err, r.end("connections", loops))
	for _, f := range r.figures {
		if f.Failed > 0 || f.Done == 0 {
			err = errors.Join(err, fmt.Errorf("%s: %d of %d failed: %s", f.What, f.Failed, f.Done, f.LastError))
		}
	}
	return r.figures, t.Step("no connection failed", err)
}

func (r *run) prepare(ctx context.Context) (err error) {
	if r.beeline, err = r.Beeline(); err != nil {
		return err
	}
	if err := r.InstallProxy(ctx, r.proxy); err != nil {
		return err
	}
	manifest := fmt.Sprintf(objects, load.Port) + fmt.Sprintf(podObject, clientPod, "client", cluster.NodeName(1), kit.LoadImage)
	for n := 1; n <= 2; n++ {
		manifest += fmt.Sprintf(podObject, fmt.Sprintf("web%d", n), "web", cluster.NodeName(n), kit.LoadImage)
	}
	if err := r.applyAll(ctx, manifest); err != nil {
		return err
	}
	if _, err := r.Kubectl(ctx, "--namespace="+namespace, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=90s"); err != nil {
		return err
	}
	client, err := r.Client()
	if err != nil {
		return err
	}
	s, err := client.CoreV1().Services(namespace).Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	vip, err := netip.ParseAddr(s.Spec.ClusterIP)
	if err != nil {
		return err
	}
	r.inside = []load.Target{{Name: "pod to ClusterIP", Addr: netip.AddrPortFrom(vip, 80)}}
	for n := 1; n <= 2; n++ {
		at := netip.AddrPortFrom(r.NodeAddress(n), uint16(s.Spec.Ports[0].NodePort))
		r.outside = append(r.outside, load.Target{Name: "outside to NodePort of " + cluster.NodeName(n), Addr: at})
	}
	return r.until(ctx, "the Service is reached", func() error {
		for range 4 { // both servers, most likely
			if _, err := r.Kubectl(ctx, "--namespace="+namespace, "exec", clientPod, "--", "/load", "measure", "--requests=1", r.inside[0].String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// applyAll applies manifests of which some need others.
func (r *run) applyAll(ctx context.Context, manifest string) error {
	return r.until(ctx, "objects are made", func() error { return r.Apply(ctx, manifest) })
}

// takeOver does what docs/takeover.md says, with streams that kube-proxy began.
func (r *run) takeOver(ctx context.Context) error {
	old, err := r.begin(ctx, "stream")
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
		err = pause(ctx, shared)
	}
	if err := r.table.Step("kube-proxy is gone", err); err != nil {
		return err
	}
	if err := r.end("streams that kube-proxy began", old); err != nil {
		return err
	}
	// CoreDNS' connections to the API server were kube-proxy's, and last as long
	// as CoreDNS does.
	_, err = r.Kubectl(ctx, "--namespace=kube-system", "rollout", "restart", "deployment/coredns")
	return r.table.Step("its rules are removed", errors.Join(err, r.phase(ctx, "alone")))
}

// giveBack does, with streams that Beeline began.
func (r *run) giveBack(ctx context.Context) error {
	young, err := r.begin(ctx, "stream")
	if err != nil {
		return err
	}
	if err := r.annotate(ctx, "rollback"); err != nil {
		return err
	}
	if err := r.table.Step(fmt.Sprintf("%s runs again", r.proxy), r.InstallProxy(ctx, r.proxy)); err != nil {
		return err
	}
	if err := r.table.Step("it takes new connections", errors.Join(r.phase(ctx, "returning"), pause(ctx, shared))); err != nil {
		return err
	}
	if err := r.end("streams that Beeline began", young); err != nil {
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
	return r.table.Step("Beeline is removed", errors.Join(r.RemoveProxy(ctx, cluster.Beeline), pause(ctx, shared)))
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
	return r.until(ctx, "all nodes are "+want, func() error {
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

func (r *run) until(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if e := pause(ctx, 500*time.Millisecond); e != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
