// SPDX-License-Identifier: Apache-2.0

// Package bench measures the service proxies side by side: one after the other
// on one cluster with the same Services, and each beside connections straight
// to the pod. It writes what it measured into docs/performance.md.
package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// Options say what is measured.
type Options struct {
	// Services are the sizes, from small to large.
	Services []int
	// Proxies take turns at every size.
	Proxies []cluster.Proxy
	// Endpoints is how many a filler has.
	Endpoints int
	// Rounds and Requests are those of load.Plan; Rate is a turn's.
	Rounds, Requests int
	Rate             time.Duration
	// Churn is for how long EndpointSlices change, and ChangesPerSecond how
	// many of the fillers'.
	Churn            time.Duration
	ChangesPerSecond int
	// Budget is the time for all of it: what has not begun by then is left out.
	Budget time.Duration
}

// clientWorkers is how many connections are made at once for a rate.
const clientWorkers = 4

// bench is a run.
type bench struct {
	Options
	cluster *cluster.Cluster
	client  *kubernetes.Clientset
	log     *slog.Logger
	outside string // the load program in the control plane's box
	pods    map[string]netip.Addr
	vips    map[string]netip.Addr
	port    uint16 // of middle on the nodes
	fillers fillers
}

// Run measures on a cluster that has no proxy, and calls done after every cell.
// A cell that failed says so; only what is wrong with the bench itself ends it.
func Run(ctx context.Context, c *cluster.Cluster, o Options, log *slog.Logger, done func(Cell) error) error {
	b := &bench{Options: o, cluster: c, log: log, pods: map[string]netip.Addr{}, vips: map[string]netip.Addr{}}
	end := time.Now().Add(o.Budget)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, services := range o.Services {
		for _, proxy := range o.Proxies {
			cell := Cell{Services: services, Proxy: string(proxy)}
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case time.Now().After(end):
				cell.Failed = "not measured: the time was up"
			default:
				if err := b.fillers.grow(ctx, services-len(measured())); err != nil {
					return err
				}
				if err := b.cell(ctx, proxy, &cell); err != nil {
					cell.Failed = err.Error()
				}
			}
			log.Info("measured", "services", services, "proxy", proxy, "failed", cell.Failed)
			if err := done(cell); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare makes the pods, and the Services that are connected to.
func (b *bench) prepare(ctx context.Context) (err error) {
	outside, inside := b.cluster.SharedDir("bin")
	b.outside = filepath.Join(inside, "load")
	err = errors.Join(os.MkdirAll(outside, 0o755), os.WriteFile(filepath.Join(outside, "load"), b.cluster.Load(), 0o755))
	if err != nil {
		return err
	}
	if b.client, err = b.cluster.Client(); err != nil {
		return err
	}
	if _, err := b.cluster.Kubectl(ctx, "create", "namespace", namespace); err != nil {
		return err
	}
	if _, err := b.cluster.Kubectl(ctx, "--namespace="+namespace, "wait", "serviceaccount/default", "--for=create", "--timeout=60s"); err != nil {
		return err
	}
	if err := b.preparePods(ctx); err != nil {
		return err
	}
	b.fillers = fillers{client: b.client, endpoints: fillerEndpoints(b.pods[serverA], b.Endpoints)}
	for _, name := range measured() {
		if err := b.prepareService(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) preparePods(ctx context.Context) error {
	// The client waits to be told by exec; serving keeps it alive.
	for name, node := range map[string]int{clientPod: clientNode, serverA: serverNode, serverB: serverNode} {
		if _, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod(name, node, "serve", name), metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make pod %s: %w", name, err)
		}
	}
	if _, err := b.cluster.Kubectl(ctx, "--namespace="+namespace, "wait", "pod", "--all", "--for=condition=Ready", "--timeout=90s"); err != nil {
		return err
	}
	for _, name := range []string{serverA, serverB} {
		p, err := b.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if b.pods[name], err = netip.ParseAddr(p.Status.PodIP); err != nil {
			return fmt.Errorf("pod %s: %w", name, err)
		}
	}
	return nil
}

func (b *bench) prepareService(ctx context.Context, name string) error {
	kind := corev1.ServiceTypeClusterIP
	if name == middle {
		kind = corev1.ServiceTypeNodePort
	}
	if err := create(ctx, b.client, service(name, kind), slice(name, 0, b.pods[serverA])); err != nil {
		return err
	}
	s, err := b.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if name == middle {
		b.port = uint16(s.Spec.Ports[0].NodePort)
	}
	b.vips[name], err = netip.ParseAddr(s.Spec.ClusterIP)
	return err
}

// vip is a Service from inside.
func (b *bench) vip(name string) load.Target {
	return load.Target{Name: name, Addr: netip.AddrPortFrom(b.vips[name], servicePort)}
}
