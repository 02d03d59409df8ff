// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/apiserver"
)

// The origins of probes, and where backends are.
const (
	client  = "client" // outside
	node1   = "node1"  // where the router sends what is for Services
	node2   = "node2"
	pod     = "pod"     // on node 1
	machine = "machine" // as pod, but the node's kernel does not see its sockets
	local   = "local"   // a backend on node 1
	remote  = "remote"  // a backend on node 2
	pod2    = "pod2"    // on node 2
	meshed  = "meshed"  // as pod, but it wants its sockets left alone
	router  = "router"  // between client and nodes; also the load balancer of ipMode Proxy
)

// meshedUID is the UID of the pod that wants its sockets left alone.
const meshedUID = "3c1fd4a2-8f6b-4f0e-9d52-6c2f1c0b7a11"

// world is a cluster's network that one of the proxies serves.
type world struct {
	t      *testing.T
	proxy  proxy
	lab    *lab.Lab
	nodes  []*lab.Node
	wire   *lab.Namespace
	actors map[string]*actor
	// servers are processes of their own: clients must not keep them waiting.
	servers map[string]*actor
	addrs   map[string][2]netip.Addr // IPv4, IPv6

	running []*process
}

// proxy is one of the two.
type proxy struct {
	name string
	// command returns what to run on a node.
	command func(n *lab.Node, config string) *exec.Cmd
}

// process is a proxy on a node.
type process struct {
	cmd *exec.Cmd
	log *output
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// serverPort is where the API server listens, on every node's loopback.
const serverPort = 6443

func newWorld(t *testing.T, p proxy, api *apiserver.Server) *world {
	t.Helper()
	l, err := lab.New(fmt.Sprintf("peer-%s%d", p.name[:1], os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	network, err := l.Cluster(2)
	check(t, err)
	outside, err := network.Outside(client)
	check(t, err)
	w := &world{
		t: t, proxy: p, lab: l, nodes: network.Nodes, wire: network.Wire, actors: map[string]*actor{}, servers: map[string]*actor{},
		addrs: map[string][2]netip.Addr{client: {outside.V4, outside.V6}},
	}
	w.actors[client] = startActor(t, client, outside.NS, nil)
	w.addrs[router] = [2]netip.Addr{netip.MustParseAddr("192.168.77.254"), netip.MustParseAddr("fd77::fe")}
	w.servers[router] = startActor(t, router, w.wire, nil)
	for _, n := range w.nodes {
		w.addrs[n.Name] = [2]netip.Addr{n.V4, n.V6}
		w.actors[n.Name] = startActor(t, n.Name, n.NS, n.Cgroup)
		w.servers[n.Name] = startActor(t, n.Name, n.NS, n.Cgroup)
		unlimitICMP(t, n.NS)
		check(t, n.NS.Do(func() error {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", serverPort))
			if err != nil {
				return err
			}
			server := &http.Server{Handler: api}
			t.Cleanup(func() { _ = server.Close() })
			go func() { _ = server.Serve(l) }()
			return nil
		}))
	}
	for _, p := range []struct {
		name string
		node int
	}{{local, 0}, {pod, 0}, {machine, 0}, {meshed, 0}, {remote, 1}, {pod2, 1}} {
		w.addPod(p.name, w.nodes[p.node])
	}
	unlimitICMP(t, w.wire)
	for _, block := range routed {
		via := w.nodes[0].V4
		if strings.Contains(block, ":") {
			via = w.nodes[0].V6
		}
		check(t, w.wire.Route(block, via.String()))
	}
	t.Cleanup(w.stop)
	w.serve()
	return w
}

// balance lets the router be the load balancer of a Service, which has its
// addresses for itself.
func (w *world) balance(s *service) {
	b := &serve{Name: "balancer"}
	for family := range families {
		to := s.frontends(w, family)[loadBalancer]
		check(w.t, w.wire.Address("lo", netip.PrefixFrom(to.Addr(), to.Addr().BitLen()).String()))
		b.At = append(b.At, to.String())
	}
	_, err := w.servers[router].do(order{Serve: b})
	check(w.t, err)
}

func (w *world) addPod(name string, n *lab.Node) {
	p, err := n.Pod(name)
	check(w.t, err)
	check(w.t, n.NS.Hairpin("v-"+name))
	unlimitICMP(w.t, p.NS)
	w.addrs[name] = [2]netip.Addr{p.V4, p.V6}
	cg := p.Cgroup
	switch name {
	case machine:
		cg = nil
	case meshed: // Beeline finds it where kubelet would make it
		cg, err = w.lab.Cgroup(filepath.Join(n.Name, "kubepods", "pod"+meshedUID))
		check(w.t, err)
	}
	w.actors[name] = startActor(w.t, name, p.NS, cg)
	if name == local || name == remote {
		w.servers[name] = startActor(w.t, name, p.NS, cg)
	}
}

// unlimitICMP lets a namespace's kernel refuse as often as it is asked to.
func unlimitICMP(t *testing.T, ns *lab.Namespace) {
	for name, value := range map[string]string{
		"net/ipv4/icmp_ratelimit": "0", "net/ipv4/icmp_ratemask": "0",
		"net/ipv6/icmp/ratelimit": "0", "net/ipv6/icmp/ratemask": "0",
	} {
		check(t, ns.Sysctl(name, value))
	}
}

// backendPort is where backends answer, a node's own as well.
const backendPort = 8080

func (w *world) serve() {
	for _, name := range []string{local, remote, node1, node2, router} {
		s := &serve{Name: name}
		for _, a := range w.addrs[name] {
			s.At = append(s.At, netip.AddrPortFrom(a, backendPort).String())
		}
		_, err := w.servers[name].do(order{Serve: s})
		check(w.t, err)
	}
}

// start runs the proxy on both nodes.
func (w *world) start(settings settings) {
	w.t.Helper()
	kubeconfig := filepath.Join(w.lab.Dir(), "kubeconfig")
	check(w.t, os.WriteFile(kubeconfig, []byte(fmt.Sprintf(kubeconfigText, serverPort)), 0o600))
	for _, n := range w.nodes {
		config := filepath.Join(w.lab.Dir(), n.Name+".conf")
		check(w.t, os.WriteFile(config, []byte(settings.text(kubeconfig, n.Name)), 0o600))
		p := &process{cmd: w.proxy.command(n, config), log: &output{}}
		p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
		check(w.t, lab.Start(p.cmd, n.NS, n.Cgroup))
		w.running = append(w.running, p)
	}
}

// stop ends the proxy as a rollout does; what it put into the kernel stays.
func (w *world) stop() {
	for _, p := range w.running {
		_ = p.cmd.Process.Signal(unix.SIGTERM)
	}
	for i, p := range w.running {
		patience := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait()
		patience.Stop()
		if w.t.Failed() {
			text := p.log.String()
			w.t.Logf("%s on node %d said:\n%s", w.proxy.name, i+1, text[max(0, len(text)-4000):])
		}
	}
	w.running = nil
}

// settings are what the two are configured with, as kube-proxy's file has it.
type settings struct {
	name string
	mode string
	// more is YAML that is added to the file.
	more string
}

func (s settings) text(kubeconfig, node string) string {
	mode := s.mode
	if mode == "" {
		mode = "nftables"
	}
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
mode: %s
oomScoreAdj: 0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
# These are the whole machine's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
%s
`, kubeconfig, node, mode, s.more)
}

const kubeconfigText = `apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "http://127.0.0.1:%d"}}]
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
current-context: lab
users: [{name: lab, user: {}}]
`
