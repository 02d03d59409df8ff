// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

// withPods names the pods behind a manifest's endpoints, as Kubernetes does.
func withPods(text string, pods ...*lab.Pod) string {
	for _, p := range pods {
		for _, a := range []string{p.V4.String(), p.V6.String()} {
			old := fmt.Sprintf("addresses: [%q]", a)
			text = strings.ReplaceAll(text, old, old+", targetRef: {kind: Pod, name: pod-"+p.Name+"}")
		}
	}
	return text
}

// monitoring is a running `beeline monitor -o json`.
type monitoring struct {
	t      *testing.T
	cmd    *exec.Cmd
	events chan inspect.Event
}

func (n *node) monitor(args ...string) *monitoring {
	n.t.Helper()
	m := &monitoring{t: n.t, events: make(chan inspect.Event, 100)}
	m.cmd = exec.Command(binary, append(append([]string{"monitor", "-o", "json"}, args...), "--bpffs", n.BPFFS)...)
	out, err := m.cmd.StdoutPipe()
	check(n.t, err)
	check(n.t, lab.Start(m.cmd, n.NS, nil))
	n.t.Cleanup(func() { _ = m.cmd.Process.Kill() })
	go func() {
		defer close(m.events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e inspect.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				m.events <- e
			}
		}
	}()
	eventually(n.t, 20*time.Second, n.listenedTo)
	return m
}

// listenedTo reports whether somebody listens to the node's events.
func (n *node) listenedTo() error {
	opened, err := datapath.OpenMaps(datapath.NewPins(n.BPFFS))
	if err != nil {
		return err
	}
	defer datapath.CloseMaps(opened)
	var places abi.ListenerPlaces
	if err := opened[abi.MapListeners].Lookup(uint32(0), &places); err != nil {
		return err
	}
	for _, l := range places.Listener {
		if l.UntilNs != 0 {
			return nil
		}
	}
	return errors.New("nobody listens")
}

func (m *monitoring) next(what string) inspect.Event {
	m.t.Helper()
	select {
	case e := <-m.events:
		return e
	case <-time.After(5 * time.Second):
		m.t.Fatalf("%s: the monitor says nothing", what)
	}
	return inspect.Event{}
}

// end interrupts it and returns its exit status.
func (m *monitoring) end() int {
	m.t.Helper()
	check(m.t, m.cmd.Process.Signal(unix.SIGINT))
	_ = m.cmd.Wait()
	return m.cmd.ProcessState.ExitCode()
}

func TestMonitorTellsWhatGoesOn(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a := s.server(n, "a")
	n.write("web.yaml", withPods(service("web", bothVIPs, a), a))
	n.start()
	m := n.monitor("--service", "web")
	for _, vip := range []string{"10.96.0.80:80", "[fd00:96::80]:80"} {
		_, err := s.ask("tcp", vip)
		check(t, err)
		e := m.next(vip)
		if e.Kind != "socket" || e.Service == nil || e.Service.Name != "web" || e.Frontend != vip ||
			e.Backend == nil || e.Backend.Pod != "pod-a" || e.Client.PID == 0 || !strings.Contains(e.Line(), "default/web") {
			t.Errorf("connect to %s: %+v", vip, e)
		}
	}
	n.write("web.yaml", service("web", bothVIPs))
	eventually(t, 5*time.Second, func() error {
		if _, err := s.ask("tcp", "10.96.0.80:80"); err == nil {
			return fmt.Errorf("still served")
		}
		return nil
	})
	for {
		e := m.next("refusal")
		if e.Kind == "socket" {
			continue // before the change
		}
		if e.Kind != "refused" || e.Reason != "no_backend" || e.Meaning == "" || e.Service == nil {
			t.Errorf("refusal: %+v", e)
		}
		break
	}
	if status := m.end(); status != 0 {
		t.Errorf("the monitor ended with status %d", status)
	}

	// The same without an agent, which only knew the pods' names.
	check(t, n.stop())
	m = n.monitor("--kind", "refused", "-n", "1")
	_, _ = s.ask("tcp", "10.96.0.80:80")
	if e := m.next("without an agent"); e.Kind != "refused" || e.Service == nil || e.Service.Name != "web" {
		t.Errorf("without an agent: %+v", e)
	}
	for _, c := range []struct {
		args   []string
		status int
	}{
		{[]string{"monitor", "--kind", "nonsense"}, 2},
		{[]string{"monitor", "--address", "nonsense"}, 2},
		{[]string{"monitor", "--reason", "nonsense"}, 2},
		{[]string{"monitor", "--for", "10ms"}, 0},
		{[]string{"flow", "list", "--state", "nonsense"}, 2},
		{[]string{"flow", "list", "--protocol", "nonsense"}, 2},
	} {
		if out, status := n.beeline(c.args...); status != c.status {
			t.Errorf("%v: exit %d, want %d: %s", c.args, status, c.status, out)
		}
	}
}

// talk exchanges a datagram from a node's own cgroup: the test process is in
// that of the first one, whose sockets need no flow.
func (n *node) talk(host string, port int) {
	n.t.Helper()
	cmd := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/udp/%s/%d && printf who >&3 && timeout 3 head -c 5 <&3", host, port))
	check(n.t, lab.Start(cmd, n.NS, n.Cgroup))
	check(n.t, cmd.Wait())
}

func TestFlowsAreListed(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote := s.server(n, "local"), s.server(s.nodes[1], "remote")
	n.write("web.yaml", withPods(nodePortService("web", bothVIPs, local, remote), local, remote))
	n.start("--packet-path")
	m := n.monitor("--kind", "flow")
	for range 10 {
		outside.talk(n.V6.String(), 30053)
	}
	if e := m.next("flow"); e.Kind != "flow" || e.Service == nil || e.Service.String() != "default/web:udp" ||
		e.Client.Address == "" || !strings.HasPrefix(e.Backend.Pod, "pod-") || e.Ifindex == 0 {
		t.Errorf("flow: %+v", e)
	}
	m.end()
	list := func(args ...string) (flows []inspect.Flow) {
		out, status := n.beeline(append([]string{"flow", "list", "-o", "json"}, args...)...)
		if status != 0 {
			t.Fatalf("flow list: status %d: %s", status, out)
		}
		check(t, json.Unmarshal([]byte(out), &flows))
		return flows
	}
	all := list("--service", "default/web", "--protocol", "udp", "--state", "answered")
	if len(all) != 10 {
		t.Errorf("10 talks left %d flows", len(all))
	}
	for _, f := range all {
		snat := f.Source != ""
		if f.Service == nil || f.Service.Name != "web" || !strings.HasPrefix(f.Backend.Pod, "pod-") || f.Local && f.Backend.Pod != "pod-local" ||
			!f.Local && !snat || f.Expired || f.AgeSeconds > 60 {
			t.Errorf("flow %+v", f)
		}
	}
	if got := list("--address", remote.V6.String()); len(got) == 0 || len(got) >= len(all) {
		t.Errorf("%d of %d flows are those of one pod", len(got), len(all))
	}
	if got := list("--service", "default/other"); len(got) != 0 {
		t.Errorf("another Service has %d flows", len(got))
	}
}
