// SPDX-License-Identifier: Apache-2.0

// Package system tests the beeline binary as users run it: agents as processes
// on nodes made of namespaces, manifests as files, clients with real sockets.
package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

// binary is the beeline under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(clientVariable); ok {
		os.Exit(runClient(text))
	}
	if agent, ok := os.LookupEnv(oldKernelVariable); ok {
		fmt.Fprintln(os.Stderr, becomeOld(agent))
		os.Exit(1)
	}
	if agent, ok := os.LookupEnv(noTCXVariable); ok {
		fmt.Fprintln(os.Stderr, becomeWithoutTCX(agent))
		os.Exit(1)
	}
	if agent, ok := os.LookupEnv(crashVariable); ok {
		fmt.Fprintln(os.Stderr, becomeWatched(agent))
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "beeline-system-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "beeline")
		build := exec.Command("go", "build", "-o", binary, "github.com/beeline-net/beeline/cmd/beeline")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build beeline:", err)
			return 1
		}
		return m.Run()
	}())
}

// stage is a cluster of nodes with an agent each, not started yet. The test
// process stands in for a client pod on the first node: its sockets are below
// that node's cgroup.
type stage struct {
	t      *testing.T
	nodes  []*node
	client *lab.Pod
}

type node struct {
	*lab.Node
	t         *testing.T
	manifests string
	agent     *exec.Cmd
	log       *logBuffer
}

// logBuffer collects an agent's output while tests read it.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newStage(t *testing.T, nodes int) *stage {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("sys%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	network, err := l.Cluster(nodes)
	check(t, err)
	s := &stage{t: t}
	for _, n := range network.Nodes {
		dir := filepath.Join(l.Dir(), n.Name)
		check(t, os.Mkdir(dir, 0o755))
		s.nodes = append(s.nodes, &node{Node: n, t: t, manifests: dir, log: &logBuffer{}})
	}
	s.client, err = s.nodes[0].Pod("client")
	check(t, err)
	leave, err := s.client.Cgroup.Enter()
	check(t, err)
	t.Cleanup(func() { check(t, leave()) })
	t.Cleanup(func() {
		for _, n := range s.nodes {
			n.kill()
			if t.Failed() {
				t.Logf("log of the agent of %s:\n%s", n.Name, n.log)
			}
		}
	})
	return s
}

// start starts the node's agent and waits until it is in step.
func (n *node) start(args ...string) {
	n.t.Helper()
	n.launch(args...)
	n.awaitLog("in step")
}

// launch starts the node's agent on its folder of manifests.
func (n *node) launch(args ...string) {
	n.t.Helper()
	n.exec(append([]string{"--manifests", n.manifests, "--node-name", n.Name}, args...)...)
}

// exec starts the node's agent with no more than what it needs to find the lab's
// kernel objects.
func (n *node) exec(args ...string) {
	n.t.Helper()
	n.log = &logBuffer{}
	n.agent = exec.Command(binary, append([]string{"agent", "--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path}, args...)...)
	n.agent.Stdout, n.agent.Stderr = n.log, n.log
	check(n.t, lab.Start(n.agent, n.NS, n.Cgroup))
}

func (n *node) awaitLog(text string) {
	n.t.Helper()
	eventually(n.t, 20*time.Second, func() error {
		if !strings.Contains(n.log.String(), text) {
			return fmt.Errorf("the agent of %s has not said %q:\n%s", n.Name, text, n.log)
		}
		return nil
	})
}

// stop ends the agent as a rollout does and returns its error.
func (n *node) stop() error {
	check(n.t, n.agent.Process.Signal(unix.SIGTERM))
	err := n.agent.Wait()
	n.agent = nil
	return err
}

// kill ends the agent as the OOM killer does.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	_ = n.agent.Process.Kill()
	_ = n.agent.Wait()
	n.agent = nil
}

// beeline runs a verb of the command line on the node.
func (n *node) beeline(args ...string) (stdout string, status int) {
	n.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, append(args, "--bpffs", n.BPFFS)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	check(n.t, lab.Start(cmd, n.NS, nil))
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	return out.String() + errs.String(), cmd.ProcessState.ExitCode()
}

// ports reads the node's live tables through the command line.
func (n *node) ports() (all []inspect.Port) {
	n.t.Helper()
	out, status := n.beeline("service", "list", "-o", "json")
	if status != 0 {
		n.t.Fatalf("service list: status %d: %s", status, out)
	}
	check(n.t, json.Unmarshal([]byte(out), &all))
	return all
}

// write puts a manifest in place in one step.
func (n *node) write(name, text string) {
	n.t.Helper()
	temp := filepath.Join(n.manifests, name+".tmp")
	check(n.t, os.WriteFile(temp, []byte(text), 0o644))
	check(n.t, os.Rename(temp, filepath.Join(n.manifests, name)))
}

// server answers on a pod's port 8080 with the pod's name: TCP and UDP, both
// families.
func (s *stage) server(n *node, name string) *lab.Pod {
	s.t.Helper()
	p, err := n.Pod(name)
	check(s.t, err)
	for _, addr := range []netip.Addr{p.V4, p.V6} {
		at := netip.AddrPortFrom(addr, 8080).String()
		check(s.t, p.NS.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { _ = l.Close() })
			go acceptAll(l, name)
			u, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { _ = u.Close() })
			go answerAll(u, name)
			return nil
		}))
	}
	return p
}

func acceptAll(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, name)
		_ = c.Close()
	}
}

func answerAll(u net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		_, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo([]byte(name), from)
	}
}

// ask connects from the client pod and returns the name of who answered.
func (s *stage) ask(network, addr string) (name string, err error) {
	return askFrom(s.client.NS, network, addr)
}

// askFrom is ask in any namespace.
func askFrom(ns *lab.Namespace, network, addr string) (name string, err error) {
	err = ns.Do(func() error {
		c, err := net.DialTimeout(network, addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if strings.HasPrefix(network, "udp") {
			if _, err := c.Write([]byte("who")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		name = string(buf[:n])
		return err
	})
	return name, err
}

// load asks again and again until stopped, about once a millisecond.
type load struct {
	stop chan struct{}
	done sync.WaitGroup

	mu     sync.Mutex
	asked  int
	failed []error
	last   map[string]time.Time // when the last request began that a pod got
}

func (s *stage) load(network, addr string) *load {
	l := &load{stop: make(chan struct{}), last: map[string]time.Time{}}
	l.done.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			start := time.Now()
			name, err := s.ask(network, addr)
			l.mu.Lock()
			l.asked++
			if err != nil {
				l.failed = append(l.failed, err)
			} else {
				l.last[name] = start
			}
			l.mu.Unlock()
			time.Sleep(time.Millisecond - min(time.Millisecond, time.Since(start)))
		}
	})
	return l
}

// finish ends the load and requires that nothing failed.
func (l *load) finish(t *testing.T, what string) {
	t.Helper()
	close(l.stop)
	l.done.Wait()
	if len(l.failed) > 0 || l.asked == 0 {
		t.Errorf("%s: %d of %d requests failed, first: %v", what, len(l.failed), l.asked, append(l.failed, nil)[0])
	}
	t.Logf("%s: %d requests, %d failed", what, l.asked, len(l.failed))
}

func (l *load) lastAt(name string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[name]
}

// service is the manifest of a Service and its slices.
func service(name string, vips []string, pods ...*lab.Pod) string {
	families := map[bool]string{false: "IPv4", true: "IPv6"}
	var fams []string
	for _, v := range vips {
		fams = append(fams, families[strings.Contains(v, ":")])
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  clusterIP: %q
  clusterIPs: [%s]
  ipFamilies: [%s]
  ports:
  - {name: tcp, port: 80, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
`, name, vips[0], `"`+strings.Join(vips, `","`)+`"`, strings.Join(fams, ","))
	for _, family := range fams {
		fmt.Fprintf(&b, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-%[2]s
  namespace: default
  labels: {kubernetes.io/service-name: %[1]s}
addressType: %[3]s
ports:
- {name: tcp, port: 8080, protocol: TCP}
- {name: udp, port: 8080, protocol: UDP}
endpoints:
`, name, strings.ToLower(family), family)
		for _, p := range pods {
			addr := p.V4
			if family == "IPv6" {
				addr = p.V6
			}
			fmt.Fprintf(&b, "- {addresses: [%q], nodeName: %s}\n", addr, p.Node.Name)
		}
	}
	return b.String()
}

func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
