// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/apiserver"
)

// The binaries under test, built once by TestMain.
var beeline, kubeProxy string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "beeline-takeover-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if os.Geteuid() != 0 {
			return m.Run() // every test says that it needs root
		}
		for _, b := range []struct {
			out       *string
			dir, pkg  string
			name, env string
		}{
			{&beeline, "../..", "./cmd/beeline", "beeline", "BEELINE_BINARY"},
			{&kubeProxy, "../kubeproxy", "./cmd/kube-proxy", "kube-proxy", "BEELINE_KUBE_PROXY"},
		} {
			if *b.out = os.Getenv(b.env); *b.out != "" {
				continue
			}
			*b.out = filepath.Join(dir, b.name)
			cmd := exec.Command("go", "build", "-buildvcs=false", "-o", *b.out, b.pkg)
			cmd.Dir, cmd.Env = b.dir, append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", b.name, err, out)
				return 1
			}
		}
		return m.Run()
	}())
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

// process is an agent or a kube-proxy.
type process struct {
	cmd *exec.Cmd
	log *output
}

// world is a node that kube-proxy serves, with a neighbour that has pods, too,
// and clients: a pod, and one outside.
type world struct {
	t            *testing.T
	lab          *lab.Lab
	node, other  *lab.Node
	client       *lab.Pod
	outside      *lab.Namespace
	pods         map[string]*lab.Pod
	api          *apiserver.Server
	proxy, agent *process
	mode         string
	// ipv6: the Service and all that goes to it.
	ipv6 bool
}

// way is how kube-proxy works, and for which clients.
type way struct {
	mode string
	ipv6 bool
}

func (w way) String() string { return w.mode + map[bool]string{true: ", IPv6"}[w.ipv6] }

// serviceIP is the Service's address.
func (w *world) serviceIP() netip.Addr {
	if w.ipv6 {
		return netip.MustParseAddr(clusterIP6)
	}
	return netip.MustParseAddr(clusterIP)
}

// nodeIP is the node's address of the Service's family.
func (w *world) nodeIP() netip.Addr {
	if w.ipv6 {
		return w.node.V6
	}
	return w.node.V4
}

func (w *world) podIP(p *lab.Pod) netip.Addr {
	if w.ipv6 {
		return p.V6
	}
	return p.V4
}

// at are addresses for sockets.
func at(ip netip.Addr, port uint16) string { return netip.AddrPortFrom(ip, port).String() }

const (
	serverAt  = "127.0.0.1:6443"
	tcpPort   = 80
	udpPort   = 53
	tcpNode   = 30080
	udpNode   = 30053
	podPort   = 8080
	clusterIP = "10.96.0.80"

	clusterIP6 = "fd00:10:96::80"
)

func newWorld(t *testing.T, how way) *world {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("tko%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	network, err := l.Cluster(3)
	check(t, err)
	w := &world{t: t, lab: l, node: network.Nodes[0], other: network.Nodes[1], outside: network.Nodes[2].NS,
		mode: how.mode, ipv6: how.ipv6, pods: map[string]*lab.Pod{}, api: apiserver.New(t)}
	// The process stands in for a pod's: its sockets are below the node's cgroup.
	w.client, err = w.node.Pod("client")
	check(t, err)
	leave, err := w.client.Cgroup.Enter()
	check(t, err)
	t.Cleanup(func() { check(t, leave()) })
	for name, n := range map[string]*lab.Node{"here": w.node, "there": w.other, "new": w.other} {
		w.pods[name], err = n.Pod(name)
		check(t, err)
		w.serve(name, w.pods[name])
	}
	check(t, w.node.NS.Do(func() error {
		// Flows of UDP end soon enough for a test.
		for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
			if err := os.WriteFile("/proc/sys/net/netfilter/"+name, []byte("4"), 0); err != nil {
				return err
			}
		}
		at, err := net.Listen("tcp", serverAt)
		if err != nil {
			return err
		}
		server := &http.Server{Handler: w.api}
		t.Cleanup(func() { _ = server.Close() })
		go func() { _ = server.Serve(at) }()
		return nil
	}))
	w.annotate("")
	w.publish("here", "there")
	t.Cleanup(w.stop)
	return w
}

// annotate says what is wanted of the node; empty: nothing.
func (w *world) annotate(wish string) {
	annotations := map[string]string{}
	if wish != "" {
		annotations["beeline.dev/takeover"] = wish
	}
	w.api.Put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: w.node.Name, Annotations: annotations},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: w.node.V4.String()}, {Type: corev1.NodeInternalIP, Address: w.node.V6.String()},
		}},
	})
}

// publish makes these pods the Service's endpoints.
func (w *world) publish(pods ...string) {
	svc, slice := w.objects(pods...)
	w.api.Put(svc, slice)
}

// objects are the Service and its endpoints.
func (w *world) objects(pods ...string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	ip, family, kind := w.serviceIP().String(), corev1.IPv4Protocol, discoveryv1.AddressTypeIPv4
	if w.ipv6 {
		family, kind = corev1.IPv6Protocol, discoveryv1.AddressTypeIPv6
	}
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilies: []corev1.IPFamily{family},
			Ports: []corev1.ServicePort{
				{Name: "tcp", Port: tcpPort, NodePort: tcpNode, Protocol: corev1.ProtocolTCP},
				{Name: "udp", Port: udpPort, NodePort: udpNode, Protocol: corev1.ProtocolUDP},
			},
		},
	}
	name, number := func(s string) *string { return &s }, func(n int32) *int32 { return &n }
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: kind,
		Ports: []discoveryv1.EndpointPort{
			{Name: name("tcp"), Port: number(podPort), Protocol: &tcp}, {Name: name("udp"), Port: number(podPort), Protocol: &udp},
		},
	}
	for _, p := range pods {
		pod := w.pods[p]
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{w.podIP(pod).String()}, NodeName: &pod.Node.Name})
	}
	return svc, slice
}

// serve answers with the pod's name: once on a TCP connection and then with all
// that comes, and on every datagram, which it repeats.
func (w *world) serve(name string, p *lab.Pod) {
	at := at(w.podIP(p), podPort)
	check(w.t, p.NS.Do(func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = l.Close() })
		go acceptAll(l, name)
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = u.Close() })
		go answerAll(u, name)
		return nil
	}))
}

func acceptAll(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			if _, err := fmt.Fprintf(c, "%s\n", name); err != nil {
				return
			}
			buf := make([]byte, 64)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				if _, err := c.Write(buf[:n]); err != nil {
					return
				}
			}
		}()
	}
}

func answerAll(u net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		n, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo(fmt.Appendf(nil, "%s %s", name, buf[:n]), from)
	}
}

// start starts a process on the node.
func (w *world) start(name string, args ...string) *process {
	w.t.Helper()
	p := &process{cmd: exec.Command(name, args...), log: &output{}}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	check(w.t, lab.Start(p.cmd, w.node.NS, w.node.Cgroup))
	return p
}

// end ends a process as kubelet does.
func (p *process) end() {
	if p != nil && p.cmd.ProcessState == nil {
		// unshare(1) does not pass a signal on.
		inside, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid))
		pid, err := strconv.Atoi(strings.TrimSpace(string(inside)))
		if err != nil {
			pid = p.cmd.Process.Pid
		}
		_ = unix.Kill(pid, unix.SIGTERM)
		late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
		defer late.Stop()
		_ = p.cmd.Wait()
	}
}

func (w *world) stop() {
	w.proxy.end()
	w.agent.end()
	if w.t.Failed() {
		for what, p := range map[string]*process{"agent": w.agent, "kube-proxy": w.proxy} {
			if p != nil {
				w.t.Logf("log of the %s:\n%s", what, p.log)
			}
		}
	}
}

func (w *world) startProxy(args ...string) {
	w.t.Helper()
	w.proxy = w.start(kubeProxy, append(args, "--proxy-mode", w.mode, "--master", "http://"+serverAt, "--hostname-override", w.node.Name,
		"--cluster-cidr", clusterCIDR, "--conntrack-max-per-core", "0", "--conntrack-min", "0",
		"--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0", "--v", "2")...)
}

// clusterCIDR is where pods are.
const clusterCIDR = "10.244.0.0/16,fd00:244::/48"

func (w *world) startAgent(args ...string) {
	w.t.Helper()
	w.launchAgent(args...)
	eventually(w.t, time.Minute, func() error {
		if !strings.Contains(w.agent.log.String(), "in step") {
			return fmt.Errorf("the agent is not in step")
		}
		return nil
	})
}

// launchAgent starts an agent, which may have nothing to do.
func (w *world) launchAgent(args ...string) {
	w.t.Helper()
	// As in a container, which does not see the node's processes.
	w.agent = w.start("unshare", append([]string{"--pid", "--fork", "--kill-child", "--mount-proc", beeline, "agent", "--master", "http://" + serverAt, "--node-name", w.node.Name,
		"--bpffs", w.node.BPFFS, "--cgroup-root", w.node.Cgroup.Path, "--cluster-cidr", clusterCIDR, "--packet-path"}, args...)...)
}

// beeline runs a verb of the command line on the node.
func (w *world) beeline(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	return lab.Output(ctx, w.node.NS, nil, beeline, append(args, "--bpffs", w.node.BPFFS)...)
}

// phase waits until the node is that far.
func (w *world) phase(within time.Duration, want, why string) {
	w.t.Helper()
	eventually(w.t, within, func() error {
		out, err := w.beeline("takeover", "--dry-run")
		if err != nil {
			return err
		}
		if !strings.Contains(out, "state:       "+want+",") || !strings.Contains(out, why) {
			return fmt.Errorf("want %s, %q:\n%s", want, why, out)
		}
		return nil
	})
}

func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
