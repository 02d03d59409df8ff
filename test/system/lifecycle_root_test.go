// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
)

// withEcho is nodePortService with ports for streams: 81 (NodePort 30081) and,
// by UDP, 54 (30054).
func withEcho(name string, vips []string, pods ...*lab.Pod) string {
	text := nodePortService(name, vips, pods...)
	text = strings.Replace(text, "  - {name: tcp,", "  - {name: stream, port: 81, nodePort: 30081, targetPort: 9090, protocol: TCP}\n"+
		"  - {name: datagrams, port: 54, nodePort: 30054, targetPort: 9090, protocol: UDP}\n  - {name: tcp,", 1)
	return strings.ReplaceAll(text, "- {name: tcp, port: 8080, protocol: TCP}", "- {name: stream, port: 9090, protocol: TCP}\n"+
		"- {name: datagrams, port: 9090, protocol: UDP}\n- {name: tcp, port: 8080, protocol: TCP}")
}

// everyClient starts all kinds of clients of that Service: in a pod of the node
// through the ClusterIP, and outside through the NodePort.
func (s *stage) everyClient(n, outside *node) (all []*client) {
	for _, place := range []struct {
		ns   *lab.Namespace
		cg   *lab.Cgroup
		addr string
		to   [3]int
	}{
		{s.client.NS, s.client.Cgroup, "10.96.0.80", [3]int{80, 81, 54}},
		{s.client.NS, s.client.Cgroup, "[fd00:96::80]", [3]int{80, 81, 54}},
		{outside.NS, outside.Cgroup, n.V4.String(), [3]int{30080, 30081, 30054}},
		{outside.NS, outside.Cgroup, "[" + n.V6.String() + "]", [3]int{30080, 30081, 30054}},
	} {
		for i, kind := range []string{"connect", "stream", "datagrams"} {
			all = append(all, startClient(s.t, place.ns, place.cg, job{kind, fmt.Sprintf("%s:%d", place.addr, place.to[i])}))
		}
	}
	return all
}

// unharmed ends clients. No connection may have failed; of each datagram stream
// as many may be lost as were in flight when programs were exchanged.
func unharmed(t *testing.T, all []*client, exchanges int) {
	t.Helper()
	for _, c := range all {
		o := c.finish()
		allowed := 0
		if c.job.Kind == "datagrams" {
			allowed = exchanges
		}
		if o.Failed > allowed {
			t.Errorf("%s %s: %d of %d failed, at most %d may; first: %s", c.job.Kind, c.job.Addr, o.Failed, o.Done, allowed, o.First)
		}
	}
}

// sizes are two configurations whose maps differ in size, so that going from
// one to the other moves them all.
var sizes = [][]string{
	{"--max-frontends=1024", "--max-services=512", "--max-slots=2048", "--max-backends=1024", "--max-peers=8192", "--max-affinities=256"},
	nil,
}

// The promise of the project's first line: whatever happens to the agent,
// connections are made and go on (pains A5, A6, B2, D3).
func TestNothingBreaksWhileAgentsComeAndGo(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote := s.server(n, "local"), s.server(s.nodes[1], "remote")
	s.echo(local)
	s.echo(remote)
	n.write("web.yaml", withEcho("web", bothVIPs, local, remote))
	n.start("--packet-path")
	n.awaitNodePorts(outside)
	clients := s.everyClient(n, outside)
	exchanges := 0
	for range 20 {
		n.kill()
		n.launch("--packet-path")
		exchanges++
		// Sometimes before it has begun, sometimes when all is done.
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
	}
	for i := range 5 { // an upgrade: every program is replaced, and every map moves
		if err := n.stop(); err != nil && err.Error() != "signal: terminated" {
			t.Error(err)
		}
		n.start(append([]string{"--packet-path"}, sizes[i%2]...)...)
		exchanges++
	}
	unharmed(t, clients, exchanges)
}

// awaitNodePorts waits until the packet path is on the devices: it comes there
// when everything else is in step.
func (n *node) awaitNodePorts(outside *node) {
	n.t.Helper()
	for _, addr := range []string{n.V4.String(), "[" + n.V6.String() + "]"} {
		eventually(n.t, 10*time.Second, func() error {
			_, err := askAsOutsider(outside, "tcp", addr+":30080")
			return err
		})
	}
}

// An agent may die at any step of its start, also at the first one there is, and
// also while every map moves: traffic does not notice, and the next start goes
// on from there.
func TestAnAgentDiesAtEveryStepOfItsStart(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote := s.server(n, "local"), s.server(s.nodes[1], "remote")
	s.echo(local)
	s.echo(remote)
	n.write("web.yaml", withEcho("web", bothVIPs, local, remote))
	s.dieAtEveryStep(n, "the first start", [][]string{{"--packet-path"}})
	n.start("--packet-path")
	n.awaitNodePorts(outside)
	n.kill()
	clients := s.everyClient(n, outside)
	var moving [][]string
	for _, args := range sizes {
		moving = append(moving, append([]string{"--packet-path"}, args...))
	}
	crashes := s.dieAtEveryStep(n, "a start with maps that move", moving)
	n.start("--packet-path")
	n.awaitStatus(healthz, http.StatusOK, 15*time.Second)
	if out, code := n.beeline("status"); code != 0 {
		t.Errorf("status: %d: %s", code, out)
	}
	if left, err := filepath.Glob(filepath.Join(n.BPFFS, "beeline", "*", "next")); err != nil || len(left) > 0 {
		t.Errorf("a move was never brought to its end: %v, %v", left, err)
	}
	unharmed(t, clients, crashes)
}

// everyStep bounds the test's time: behind so many steps some are left out,
// others each time.
const everyStep = 40

// dieAtEveryStep starts agents one after the other, with each configuration in
// turn, each dying some steps later than the one before. It returns how many
// died.
func (s *stage) dieAtEveryStep(n *node, what string, configurations [][]string) (crashes int) {
	s.t.Helper()
	stride := 1
	for at := 1; ; at += stride {
		w := n.execWatched(at, configurations[crashes%len(configurations)]...)
		died := w.await(n)
		n.kill()
		<-w.ended
		if !died {
			s.t.Logf("%s: %d agents died; it has %d steps", what, crashes, w.taken.Load())
			return crashes
		}
		if crashes++; crashes == everyStep {
			stride = 2 + rand.IntN(3)
		}
	}
}

// awaitOnly waits until new connections get nobody else.
func (n *node) awaitOnly(outside *node, pod *lab.Pod) {
	n.t.Helper()
	eventually(n.t, 10*time.Second, func() error {
		for range 20 {
			name, err := askAsOutsider(outside, "tcp", n.V4.String()+":30080")
			if err != nil || name != pod.Name {
				return fmt.Errorf("%s answers, %w", name, err)
			}
		}
		return nil
	})
}

// What a Service's annotation says happens to the connections of an endpoint
// that is gone from it but lives: those of a client with a socket here, and those
// that come through the packet path.
func TestDrainPolicy(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	gone, stays := s.server(n, "gone"), s.server(n, "stays")
	s.echo(gone)
	s.echo(stays)
	with := func(policy string, pods ...*lab.Pod) string {
		return strings.Replace(withEcho("web", v4VIP, pods...), "metadata: {name: web, namespace: default}",
			fmt.Sprintf("metadata: {name: web, namespace: default, annotations: {beeline.dev/drain: %q}}", policy), 1)
	}
	n.write("web.yaml", with("keep", gone))
	n.start("--packet-path")
	for policy, reset := range map[string]bool{"keep": false, "reset:1s": true} {
		n.write("web.yaml", with(policy, gone))
		n.awaitOnly(outside, gone)
		clients := []*client{
			startClient(t, s.client.NS, s.client.Cgroup, job{"stream", "10.96.0.80:81"}),
			startClient(t, outside.NS, outside.Cgroup, job{"stream", n.V4.String() + ":30081"}),
		}
		time.Sleep(500 * time.Millisecond)
		n.write("web.yaml", with(policy, stays))
		n.awaitOnly(outside, stays)
		time.Sleep(4 * time.Second)
		for _, c := range clients {
			o := c.finish()
			if (o.Failed > 0) != reset {
				t.Errorf("%s, %s: %d failed: %s", policy, c.job.Addr, o.Failed, o.First)
			}
			if reset && !strings.Contains(o.First, "reset") && !strings.Contains(o.First, "abort") {
				t.Errorf("%s, %s: ended with %q, want a reset", policy, c.job.Addr, o.First)
			}
		}
	}
}
