// SPDX-License-Identifier: Apache-2.0

// Package cluster runs a real Kubernetes cluster on one machine: etcd, the
// control plane, and nodes with their own kubelet and containerd, each in a
// box, on a network without an uplink. Services are served by whoever is asked
// to: Beeline, kube-proxy, or nobody.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
	"github.com/beeline-net/beeline/test/cluster/internal/pki"
)

// CNI is how pods reach each other.
type CNI string

// The CNIs: a bridge on each node, and routes or flannel's tunnel between them.
const (
	Routes CNI = "routes"
	VXLAN  CNI = "vxlan"
)

// Config is what a cluster can be asked to be.
type Config struct {
	// Name tells clusters that run at once apart.
	Name string
	// Nodes is their number, 1 to 9.
	Nodes int
	// Zones is their number, which nodes take turns to be in: node1 is in
	// zone-1. With 0, every node has a zone of its own.
	Zones int
	// Dual gives nodes, pods and Services both families, IPv4 first.
	Dual bool
	// CNI is how pods reach each other.
	CNI CNI
	// AgentArgs are added to those in Beeline's manifest.
	AgentArgs []string
}

// Cluster is a running cluster.
type Cluster struct {
	cfg     Config
	kit     *kit.Kit
	log     *slog.Logger
	dirs    Dirs
	lab     *lab.Lab
	ca      *pki.Authority
	control *lab.Namespace
	plans   []nodeNetwork
	boxes   []*box.Box
	doors   []func() error // closes what this process listens on
	closing sync.Once
}

// Dirs says where a cluster of that name keeps its files.
type Dirs struct {
	// State goes away with the cluster.
	State string
	// Logs stays until the next cluster of that name.
	Logs string
}

// DirsOf returns the folders of the cluster of that name.
func DirsOf(cache kit.Cache, name string) Dirs {
	return Dirs{State: cache.Path("run", name), Logs: cache.Path("log", name)}
}

// Kubeconfig is for an administrator anywhere on this machine.
func (d Dirs) Kubeconfig() string { return filepath.Join(d.State, "kubeconfig") }

// Bin is a folder with kubectl.
func (d Dirs) Bin() string { return filepath.Join(d.State, "bin") }

// PidOf is the file with the pid of a box's first process.
func (d Dirs) PidOf(box string) string { return filepath.Join(d.State, box+".pid") }

// ControlBox names the control plane's box.
const ControlBox = "control"

// NodeName names node n, from 1, and its box.
func NodeName(n int) string { return "node" + strconv.Itoa(n) }

// Start starts a cluster without a service proxy and returns when every node
// is ready. What an earlier cluster of that name left is removed first.
func Start(ctx context.Context, cfg Config, k *kit.Kit, cache kit.Cache, log *slog.Logger) (_ *Cluster, err error) {
	c := &Cluster{cfg: cfg, kit: k, log: log, dirs: DirsOf(cache, cfg.Name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if c.lab, err = lab.New(c.labName()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err := c.prepareDirs(); err != nil {
		return nil, err
	}
	if c.ca, err = pki.NewAuthority("beeline-" + cfg.Name); err != nil {
		return nil, err
	}
	for n := 1; n <= cfg.Nodes; n++ {
		c.plans = append(c.plans, planNode(n, cfg.Dual))
	}
	if c.control, err = buildControlNetwork(c.lab); err != nil {
		return nil, err
	}
	if err := c.openDoors(); err != nil {
		return nil, err
	}
	if err := c.startControlPlane(); err != nil {
		return nil, err
	}
	if err := c.startNodes(); err != nil {
		return nil, err
	}
	return c, c.configure(ctx)
}

// ErrInUse says that a cluster of that name is running, or cannot be swept away.
var ErrInUse = errors.New("the cluster's name is not free")

// labName is part of names that the kernel limits.
func (c *Cluster) labName() string { return "cluster-" + c.cfg.Name }

// cgroup is the cluster's cgroup in every hierarchy; the lab makes it in v2.
func (c *Cluster) cgroup() string { return "beeline-" + c.labName() }

func (c *Cluster) prepareDirs() error {
	return errors.Join(
		box.RemoveCgroups(c.cgroup()),
		os.RemoveAll(c.dirs.State),
		os.RemoveAll(c.dirs.Logs),
		os.MkdirAll(c.dirs.State, 0o700),
		os.MkdirAll(c.dirs.Logs, 0o755),
		os.Symlink(c.kit.Kubernetes, c.dirs.Bin()))
}

// startBox starts a box of the cluster and notes its pid for other commands.
func (c *Cluster) startBox(ns *lab.Namespace, spec box.Spec) error {
	cg, err := c.lab.Cgroup(spec.Name)
	if err != nil {
		return err
	}
	if err := box.HandOn(filepath.Dir(cg.Path)); err != nil {
		return err
	}
	spec.Root = c.kit.Debian
	spec.State = filepath.Join(c.dirs.State, spec.Name)
	spec.Cgroup = filepath.Join(c.cgroup(), spec.Name)
	spec.Logs = c.dirs.Logs
	spec.Binds = append(spec.Binds, box.Bind{From: c.kit.Kubernetes, To: kubernetesDir, ReadOnly: true})
	b, err := box.Start(spec, ns, cg)
	if err != nil {
		return err
	}
	c.boxes = append(c.boxes, b)
	return os.WriteFile(c.dirs.PidOf(spec.Name), []byte(strconv.Itoa(b.Pid())), 0o644)
}

// configure waits for the API server, gives the nodes their pod ranges, adds
// what kubeadm adds, and waits for the nodes.
func (c *Cluster) configure(ctx context.Context) error {
	if err := c.waitForAPI(ctx); err != nil {
		return err
	}
	if err := c.startLoadBalancer(); err != nil {
		return err
	}
	nodes, err := toYAML(c.nodeObjects()...)
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, nodes); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	if err := c.applyAddons(ctx, "nftables"); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "wait", "node", "--all", "--for=condition=Ready", "--timeout=180s"); err != nil {
		return fmt.Errorf("wait for the nodes: %w", err)
	}
	// Without it, no pod can be made.
	if _, err := c.Kubectl(ctx, "wait", "serviceaccount/default", "--for=create", "--timeout=60s"); err != nil {
		return fmt.Errorf("wait for the default ServiceAccount: %w", err)
	}
	return nil
}

func (c *Cluster) waitForAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		_, err := c.Kubectl(ctx, "get", "--raw", "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w", err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// nodeObjects are the Nodes as a cloud controller would make them: with their
// pod ranges and zones.
func (c *Cluster) nodeObjects() []any {
	var objects []any
	zones := cmp.Or(c.cfg.Zones, c.cfg.Nodes)
	for n, plan := range c.plans {
		var ranges []string
		for _, p := range plan.pods() {
			ranges = append(ranges, p.String())
		}
		name := NodeName(n + 1)
		objects = append(objects, map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": name, "labels": map[string]string{
				"kubernetes.io/hostname":        name,
				"topology.kubernetes.io/region": "here",
				"topology.kubernetes.io/zone":   fmt.Sprintf("zone-%d", n%zones+1),
			}},
			"spec": map[string]any{"podCIDR": ranges[0], "podCIDRs": ranges},
		})
	}
	return objects
}

func (c *Cluster) applyAddons(ctx context.Context, proxyMode string) error {
	text, err := fill(addonsManifest, c.values(proxyMode))
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, text); err != nil {
		return fmt.Errorf("addons: %w", err)
	}
	return nil
}

func (c *Cluster) values(proxyMode string) values {
	return values{
		ProxyMode: proxyMode, PodRange: c.ranges(podRangeV4, podRangeV6), Server: c.server(),
		DNS: dnsAddress, CoreDNS: c.kit.CoreDNSVersion, Kubernetes: c.kit.KubernetesVersion,
	}
}

// ranges joins the ranges of the cluster's families.
func (c *Cluster) ranges(v4, v6 string) string {
	if c.cfg.Dual {
		return v4 + "," + v6
	}
	return v4
}

// Dirs says where the cluster keeps its files.
func (c *Cluster) Dirs() Dirs { return c.dirs }

// SharedDir is a folder among the logs, as this machine and as boxes see it.
func (c *Cluster) SharedDir(name string) (outside, inside string) {
	return filepath.Join(c.dirs.Logs, name), filepath.Join(box.LogDir, name)
}

// KubernetesVersion is that of every component: "v1.37.2".
func (c *Cluster) KubernetesVersion() string { return c.kit.KubernetesVersion }

// Load is the benchmark's load program; empty if the kit has none.
func (c *Cluster) Load() []byte { return c.kit.Load }

// NodeAddress is the IPv4 address of node n, from 1.
func (c *Cluster) NodeAddress(n int) netip.Addr { return c.plans[n-1].v4 }

// Client is the administrator's, without a limit on its requests.
func (c *Cluster) Client() (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.dirs.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf"
	return kubernetes.NewForConfig(config)
}

// Nodes is their number.
func (c *Cluster) Nodes() int { return c.cfg.Nodes }

// Failed is closed when a box has ended, which none does by itself.
func (c *Cluster) Failed() <-chan struct{} {
	failed := make(chan struct{})
	var once sync.Once
	for _, b := range c.boxes {
		go func() {
			<-b.Done()
			once.Do(func() { close(failed) })
		}()
	}
	return failed
}

// Close removes the cluster with everything in it, but the logs.
func (c *Cluster) Close() (err error) {
	c.closing.Do(func() {
		var errs []error
		for _, shut := range c.doors {
			errs = append(errs, shut())
		}
		for _, b := range c.boxes {
			errs = append(errs, b.Close())
		}
		if c.lab == nil { // another process has a cluster of this name
			err = errors.Join(errs...)
			return
		}
		// The lab holds the name, so it goes last.
		errs = append(errs, box.RemoveCgroups(c.cgroup()), os.RemoveAll(c.dirs.State), c.lab.Close())
		err = errors.Join(errs...)
	})
	return err
}
