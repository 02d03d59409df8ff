// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/maps"
)

// The Services' addresses; lab.Cluster says which the nodes and pods have.
const (
	nginxVIP = "10.96.0.80"
	dnsVIP   = "10.96.0.10"
	shopVIP  = "10.96.0.90"
)

// cluster is the stage.
type cluster struct {
	ctx    context.Context
	lab    *lab.Lab
	self   string // our own executable
	nodes  []*node
	client *pod
	dns    *pod
	pods   []*pod // nginx
}

// node is a node with what its agent needs.
type node struct {
	*lab.Node
	manifests string
	agent     *exec.Cmd
	log       string
}

// pod is a pod with the process that runs in it.
type pod struct {
	*lab.Pod
	cmd *exec.Cmd
}

func newCluster(ctx context.Context) (*cluster, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := lab.New("demo")
	if err != nil {
		return nil, err
	}
	c := &cluster{ctx: ctx, lab: l, self: self}
	if err := c.build(); err != nil {
		return c, err
	}
	return c, nil
}

// close removes everything; a nil cluster has nothing to remove.
func (c *cluster) close() error {
	if c == nil {
		return nil
	}
	return c.lab.Close()
}

func (c *cluster) build() error {
	network, err := c.lab.Cluster(2)
	if err != nil {
		return err
	}
	for _, n := range network.Nodes {
		c.nodes = append(c.nodes, &node{
			Node:      n,
			manifests: filepath.Join(c.lab.Dir(), n.Name+"-manifests"),
			log:       filepath.Join(c.lab.Dir(), n.Name+".log"),
		})
	}
	return c.addPods()
}

func (c *cluster) addPods() (err error) {
	if c.client, err = addPod(c.nodes[0], "client"); err != nil {
		return err
	}
	if c.dns, err = addPod(c.nodes[1], "dns"); err != nil {
		return err
	}
	for i, n := range []*node{c.nodes[1], c.nodes[0], c.nodes[1]} {
		p, err := addPod(n, fmt.Sprintf("nginx-%d", i+1))
		if err != nil {
			return err
		}
		c.pods = append(c.pods, p)
	}
	for _, n := range c.nodes {
		if err := errors.Join(os.Mkdir(n.manifests, 0o755), c.publish(n, c.pods)); err != nil {
			return err
		}
	}
	if err := c.startDNS(); err != nil {
		return err
	}
	for _, p := range c.pods {
		if err := c.startNginx(p); err != nil {
			return err
		}
	}
	return os.WriteFile(c.resolvConf(), []byte("nameserver "+dnsVIP+
		"\nsearch default.svc.cluster.local\noptions timeout:1 attempts:1\n"), 0o644)
}

func addPod(n *node, name string) (*pod, error) {
	p, err := n.Pod(name)
	return &pod{Pod: p}, err
}

// start runs a command in the pod until the demo ends.
func (p *pod) start(cmd *exec.Cmd) error {
	p.cmd = cmd
	return lab.Start(cmd, p.NS, p.Cgroup)
}

// stop ends the pod's process at once, as a crash would.
func (p *pod) stop() error {
	if err := p.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("end %s: %w", p.Name, err)
	}
	_ = p.cmd.Wait() // "signal: killed" is what was asked for
	return nil
}

func (c *cluster) startDNS() error {
	return c.dns.start(exec.CommandContext(c.ctx, "dnsmasq",
		"--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--user=root",
		"--pid-file", "--log-facility=-", "--bind-interfaces", "--listen-address="+c.dns.V4.String(),
		"--host-record=nginx.default.svc.cluster.local,"+nginxVIP,
		"--local=/cluster.local/"))
}

const nginxConf = `daemon off;
user root;
worker_processes 1;
error_log stderr;
pid %[1]s/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen 80;
    root %[1]s;
    location = / { try_files /index.html =404; default_type text/html; }
    location = /pod { return 200 "%[2]s\n"; }
  }
}
`

func (c *cluster) startNginx(p *pod) error {
	dir := filepath.Join(c.lab.Dir(), p.Name)
	conf := filepath.Join(dir, "nginx.conf")
	// Debian ships nginx's own welcome page.
	page, err := os.ReadFile("/usr/share/nginx/html/index.html")
	if err != nil {
		return fmt.Errorf("nginx's welcome page: %w", err)
	}
	if err := errors.Join(
		os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "index.html"), page, 0o644),
		os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, p.Name), 0o644)); err != nil {
		return err
	}
	return p.start(exec.CommandContext(c.ctx, "nginx", "-e", "stderr", "-p", dir, "-c", conf))
}

func (c *cluster) resolvConf() string { return filepath.Join(c.lab.Dir(), "resolv.conf") }

// wget asks from the client pod, with the DNS Service as its name server.
func (c *cluster) wget(url string) (string, error) {
	script := fmt.Sprintf("mount --bind %s /etc/resolv.conf && exec wget -qO- --tries=1 --timeout=3 %s", c.resolvConf(), url)
	return lab.Output(c.ctx, c.client.NS, c.client.Cgroup, "unshare", "--mount", "sh", "-c", script)
}

// startAgent starts a node's agent as the DaemonSet would.
func (c *cluster) startAgent(n *node) error {
	logfile, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("agent of %s: %w", n.Name, err)
	}
	defer func() { _ = logfile.Close() }()
	n.agent = exec.CommandContext(c.ctx, c.self, "agent",
		"--manifests", n.manifests, "--node-name", n.Name,
		"--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path)
	n.agent.Stdout, n.agent.Stderr = logfile, logfile
	return lab.Start(n.agent, n.NS, n.Cgroup)
}

func (n *node) killAgent() error {
	if err := n.agent.Process.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill the agent of %s: %w", n.Name, err)
	}
	_ = n.agent.Wait() // "signal: killed" is what was asked for
	return nil
}

// awaitServices waits until the node's kernel has all backends.
func (c *cluster) awaitServices(n *node) error {
	want := len(c.pods) + 1 // the DNS server has one port with a backend
	err := c.await(n, func(ports []inspect.Port) bool {
		backends := 0
		for _, p := range ports {
			backends += len(p.Cluster.Backends)
		}
		return backends >= want
	})
	if err != nil {
		agentLog, _ := os.ReadFile(n.log)
		return fmt.Errorf("the Services of %s never came up: %w; its agent says:\n%s", n.Name, err, agentLog)
	}
	return nil
}

// await polls a node's live maps.
func (c *cluster) await(n *node, done func([]inspect.Port) bool) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	for {
		err := n.poll(ctx, done)
		if err == nil {
			return nil
		}
		// The agent may not have made the maps yet.
		if pause(ctx, 10*time.Millisecond) != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// poll opens the node's maps and reads them until done is satisfied.
func (n *node) poll(ctx context.Context, done func([]inspect.Port) bool) error {
	opened, err := datapath.OpenMaps(datapath.NewPins(n.BPFFS))
	if err != nil {
		return err
	}
	defer datapath.CloseMaps(opened)
	tables, err := maps.NewReadOnly(opened)
	if err != nil {
		return err
	}
	defer func() { _ = tables.Close() }()
	for {
		ports, err := inspect.Ports(tables)
		if err != nil {
			return err
		}
		if done(ports) {
			return nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
}

// remove takes a pod out of its Service's EndpointSlice on every node, as the
// control plane would, and returns how long it took the slowest kernel.
func (c *cluster) remove(victim *pod) (time.Duration, error) {
	var left []*pod
	for _, p := range c.pods {
		if p != victim {
			left = append(left, p)
		}
	}
	start := time.Now()
	for _, n := range c.nodes {
		if err := c.publish(n, left); err != nil {
			return 0, err
		}
	}
	for _, n := range c.nodes {
		err := c.await(n, func(ports []inspect.Port) bool {
			for _, p := range ports {
				if p.Name == "nginx" {
					return len(p.Cluster.Backends) == len(left)
				}
			}
			return false
		})
		if err != nil {
			return 0, fmt.Errorf("removal of %s from %s: %w", victim.Name, n.Name, err)
		}
	}
	c.pods = left
	return time.Since(start), nil
}

const serviceYAML = `apiVersion: v1
kind: Service
metadata: {name: nginx, namespace: default}
spec:
  clusterIP: ` + nginxVIP + `
  ports: [{port: 80, targetPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: ` + dnsVIP + `
  ports: [{name: dns, protocol: UDP, port: 53, targetPort: 53}]
`

// shopName is a Service whose port has another name than its endpoints'.
const shopName = "shop"

const shopYAML = `apiVersion: v1
kind: Service
metadata: {name: ` + shopName + `, namespace: default}
spec:
  clusterIP: ` + shopVIP + `
  selector: {app: nginx}
  ports: [{name: http, port: 80, targetPort: web}]
---
`

// publishShop gives the client's node that Service, and waits until its kernel has
// it.
func (c *cluster) publishShop() error {
	n := c.nodes[0]
	text := shopYAML + slice("default", shopName, "web", "TCP", 80, c.pods)
	if err := os.WriteFile(filepath.Join(n.manifests, shopName+".yaml"), []byte(text), 0o644); err != nil {
		return fmt.Errorf("manifest of %s: %w", shopName, err)
	}
	return c.await(n, func(ports []inspect.Port) bool {
		return slices.ContainsFunc(ports, func(p inspect.Port) bool { return p.Name == shopName })
	})
}

// explain asks our own command line on the client's node. That something is wrong
// is what it is asked about, and no error.
func (c *cluster) explain(target string) (string, error) {
	const somethingIsWrong = 4
	var said, problems strings.Builder
	n := c.nodes[0]
	cmd := exec.CommandContext(c.ctx, c.self, "explain", target, "--bpffs", n.BPFFS)
	cmd.Stdout, cmd.Stderr = &said, &problems
	if err := lab.Start(cmd, n.NS, nil); err != nil {
		return "", err
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != somethingIsWrong {
		return "", fmt.Errorf("explain %s: %w: %s", target, err, problems.String())
	}
	return said.String(), nil
}

// publish writes a node's manifests: what the API server would tell it. The
// rename makes the change one event.
func (c *cluster) publish(n *node, pods []*pod) error {
	files := map[string]string{
		"services.yaml": serviceYAML,
		"nginx.yaml":    slice("default", "nginx", "", "TCP", 80, pods),
		"dns.yaml":      slice("kube-system", "kube-dns", "dns", "UDP", 53, []*pod{c.dns}),
	}
	for name, text := range files {
		path := filepath.Join(n.manifests, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == text {
			continue
		}
		temp := path + ".tmp"
		if err := errors.Join(os.WriteFile(temp, []byte(text), 0o644), os.Rename(temp, path)); err != nil {
			return fmt.Errorf("manifest %s: %w", name, err)
		}
	}
	return nil
}

func slice(namespace, service, port, protocol string, number int, pods []*pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[2]s-1
  namespace: %[1]s
  labels: {kubernetes.io/service-name: %[2]s}
addressType: IPv4
ports: [{name: %[3]q, protocol: %[4]s, port: %[5]d}]
endpoints:
`, namespace, service, port, protocol, number)
	for _, p := range pods {
		fmt.Fprintf(&b, "- addresses: [%s]\n  nodeName: %s\n  targetRef: {kind: Pod, namespace: %s, name: %s}\n", p.V4, p.Node.Name, namespace, p.Name)
	}
	return b.String()
}
