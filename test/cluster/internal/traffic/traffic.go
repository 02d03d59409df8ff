// SPDX-License-Identifier: Apache-2.0

// Package traffic makes connections through a Service of a real cluster, from a
// pod and from outside, while something is done to it.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

const (
	namespace = "traffic"
	clientPod = "client"
	// within bounds each step, on machines that have other work, too.
	within = 3 * time.Minute
)

// objects are a client, servers on both nodes, and their Service.
const objects = `
apiVersion: v1
kind: Namespace
metadata: {name: traffic}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: traffic}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: %d}]}
`

const podObject = `---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: traffic, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 0
  containers: [{name: load, image: "%[4]s:latest", imagePullPolicy: IfNotPresent, args: [serve, %[1]s]}]
`

// Traffic is that of one cluster of two nodes, whose kit has the load program.
type Traffic struct {
	*cluster.Cluster
	// Figures are how it went so far.
	Figures []Figure

	inside, outside []load.Target
}

// Figure is how it went with one kind of traffic.
type Figure struct {
	What string
	load.Kept
}

// Failed is an error if any of the traffic failed, or none was made.
func (r *Traffic) Failed() (err error) {
	for _, f := range r.Figures {
		if f.Failed > 0 || f.Done == 0 {
			err = errors.Join(err, fmt.Errorf("%s: %d of %d failed: %s", f.What, f.Failed, f.Done, f.LastError))
		}
	}
	return err
}

// Prepare runs servers, and waits until a proxy lets the client reach them.
func (r *Traffic) Prepare(ctx context.Context) error {
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
	return Until(ctx, "the Service is reached", func() error {
		for range 4 { // both servers, most likely
			if _, err := r.Kubectl(ctx, "--namespace="+namespace, "exec", clientPod, "--", "/load", "measure", "--requests=1", r.inside[0].String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// applyAll applies manifests of which some need others.
func (r *Traffic) applyAll(ctx context.Context, manifest string) error {
	return Until(ctx, "objects are made", func() error { return r.Apply(ctx, manifest) })
}

// Until tries again and again, for a while.
func Until(ctx context.Context, what string, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if e := Pause(ctx, 500*time.Millisecond); e != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// Pause waits.
func Pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
