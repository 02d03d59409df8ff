// SPDX-License-Identifier: Apache-2.0

package experiment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// OptOut shows which pods have their sockets balanced and which reach Services
// packet by packet, on a cluster whose agents have --socket-opt-out. role is
// what lets them read Pods and Namespaces.
func OptOut(ctx context.Context, c *cluster.Cluster, role string, t *Table) error {
	if err := t.Step("nginx runs and has a Service", runNginx(ctx, c)); err != nil {
		return err
	}
	err := errors.Join(c.Apply(ctx, role), c.InstallProxy(ctx, cluster.Beeline))
	if err := t.Step("Beeline runs, and may read Pods and Namespaces", err); err != nil {
		return err
	}
	if err := t.Step("pods of every kind run", runClients(ctx, c)); err != nil {
		return err
	}
	for _, p := range clients() {
		how := "by its socket"
		if p.alone {
			how = "packet by packet"
		}
		if err := t.Step(fmt.Sprintf("%s reaches the Service %s", p, how), p.asks(ctx, c)); err != nil {
			return err
		}
	}
	return t.Step("an annotation that changes counts for the next connection", changeMind(ctx, c))
}

// client is a pod, with what its and its Namespace's annotation say.
type client struct {
	namespace, name string
	annotation      string
	// alone: its sockets are.
	alone bool
}

func (p client) String() string { return p.namespace + "/" + p.name }

// meshNamespace has the annotation "false".
const meshNamespace = "mesh"

func clients() []client {
	return []client{
		{"default", "plain", "", false},
		{"default", "meshed", "false", true},
		{meshNamespace, "as-namespace", "", true},
		{meshNamespace, "in-again", "true", false},
	}
}

const annotation = "beeline.dev/socket-balancing"

func runClients(ctx context.Context, c *cluster.Cluster) error {
	manifests := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, annotations: {%s: \"false\"}}\n", meshNamespace, annotation)
	for _, p := range clients() {
		said := ""
		if p.annotation != "" {
			said = fmt.Sprintf("%s: %q", annotation, p.annotation)
		}
		manifests += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, annotations: {%s}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: busybox, command: [sleep, "3600"]}]
`, p.name, p.namespace, said)
	}
	// The Namespace's default service account takes a moment.
	var err error
	for range 50 {
		if err = c.Apply(ctx, manifests); err == nil || ctx.Err() != nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	for _, p := range clients() {
		if _, err := c.Kubectl(ctx, "--namespace="+p.namespace, "wait", "pod/"+p.name, "--for=condition=Ready", "--timeout=90s"); err != nil {
			return err
		}
	}
	return nil
}

// asks lets the pod ask, and looks whether the packet path has a flow of it.
func (p client) asks(ctx context.Context, c *cluster.Cluster) error {
	before, err := p.flows(ctx, c)
	if err != nil {
		return err
	}
	vip, err := c.Kubectl(ctx, "get", "service/nginx", "--output=jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	const times = 3
	for range times {
		page, err := c.Kubectl(ctx, "--namespace="+p.namespace, "exec", p.name, "--", "wget", "-qO-", vip)
		if err != nil {
			return err
		}
		if !strings.Contains(page, welcome) {
			return fmt.Errorf("%v got %q", p, page)
		}
	}
	after, err := p.flows(ctx, c)
	if err != nil {
		return err
	}
	want := 0
	if p.alone {
		want = times
	}
	if after-before != want {
		return fmt.Errorf("%v asked %d times and made %d flows in the packet path, want %d", p, times, after-before, want)
	}
	return nil
}

// flows counts the pod's flows in the packet path of its node.
func (p client) flows(ctx context.Context, c *cluster.Cluster) (n int, err error) {
	addr, err := c.Kubectl(ctx, "--namespace="+p.namespace, "get", "pod/"+p.name, "--output=jsonpath={.status.podIP}")
	if err != nil {
		return 0, err
	}
	agent, err := c.Kubectl(ctx, "--namespace=kube-system", "get", "pods", "--selector=app.kubernetes.io/name=beeline",
		"--field-selector=spec.nodeName=node1", "--output=jsonpath={.items[0].metadata.name}")
	if err != nil {
		return 0, err
	}
	out, err := c.Kubectl(ctx, "--namespace=kube-system", "exec", agent, "--", "/beeline", "flow", "list", "--output=json", "--service=default/nginx")
	if err != nil {
		return 0, err
	}
	var flows []struct{ Client struct{ Address string } }
	if err := json.Unmarshal([]byte(out), &flows); err != nil {
		return 0, fmt.Errorf("flow list: %w: %s", err, out)
	}
	for _, f := range flows {
		if host, _, _ := strings.Cut(f.Client.Address, ":"); host == addr {
			n++
		}
	}
	return n, nil
}

// changeMind turns both kinds of pods into the other.
func changeMind(ctx context.Context, c *cluster.Cluster) error {
	for _, p := range []client{{"default", "plain", "false", true}, {"default", "meshed", "true", false}} {
		_, err := c.Kubectl(ctx, "annotate", "--overwrite", "pod/"+p.name, annotation+"="+p.annotation)
		if err != nil {
			return err
		}
		for range 50 { // what the API server knows now, the agent knows a moment later
			if err = p.asks(ctx, c); err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
