// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheCommandLineReadsTheKernel(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	if out, status := n.beeline("status"); status != 3 {
		t.Errorf("status where Beeline never ran: exit %d: %s", status, out)
	}
	a := s.server(n, "a")
	n.write("web.yaml", service("web", bothVIPs, a))
	n.start()
	check(t, n.stop())
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"status"}, []string{"not running", "beeline_connect4", "frontends"}},
		{[]string{"service", "list"}, []string{"web", "10.96.0.80:80/TCP", "[fd00:96::80]:53/UDP"}},
		{[]string{"service", "get", "default/web"}, []string{"Frontends", a.V4.String() + ":8080", "active"}},
		{[]string{"service", "get", "web", "-o", "json"}, []string{`"address": "10.96.0.80:80"`}},
		{[]string{"backend", "list"}, []string{a.V6.String(), "true"}},
		{[]string{"backend", "list", "web", "-o", "yaml"}, []string{"address: " + a.V4.String() + ":8080"}},
	} {
		out, status := n.beeline(c.args...)
		if status != 0 {
			t.Errorf("%v: exit %d: %s", c.args, status, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in:\n%s", c.args, want, out)
			}
		}
	}
	if out, status := n.beeline("service", "get", "nobody"); status != 3 {
		t.Errorf("get of a Service that is not there: exit %d: %s", status, out)
	}
	if out, status := n.beeline("service", "get"); status != 2 {
		t.Errorf("get of nothing: exit %d: %s", status, out)
	}
	if out, status := n.beeline("status", "-o", "nonsense"); status != 2 {
		t.Errorf("nonsense format: exit %d: %s", status, out)
	}
}

func TestASecondAgentIsRefused(t *testing.T) {
	s := newStage(t, 2)
	n := s.nodes[0]
	n.start()
	for name, bpffs := range map[string]string{"same BPF filesystem": n.BPFFS, "another": s.nodes[1].BPFFS} {
		place := *n.Node
		place.BPFFS = bpffs
		second := &node{Node: &place, t: t, manifests: n.manifests}
		second.launch()
		err := second.agent.Wait()
		second.agent = nil
		if err == nil || !strings.Contains(second.log.String(), "another Beeline") {
			t.Errorf("%s: %v, said: %s", name, err, second.log)
		}
	}
}

func TestCleanupEndsService(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", v4VIP, s.server(n, "a")))
	n.start()
	check(t, n.stop())
	if out, status := n.beeline("cleanup"); status != 0 || !strings.Contains(out, "removed") {
		t.Fatalf("cleanup: exit %d: %s", status, out)
	}
	if name, err := s.ask("tcp", access[0].addr); err == nil {
		t.Errorf("%q still answers", name)
	}
	if _, status := n.beeline("status"); status != 3 {
		t.Errorf("status after cleanup: exit %d", status)
	}
	if out, status := n.beeline("cleanup"); status != 0 || !strings.Contains(out, "nothing") {
		t.Errorf("cleanup again: exit %d: %s", status, out)
	}
	n.start() // and it can come back
	if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
		t.Errorf("after coming back: %q, %v", name, err)
	}
}

func TestNonsenseOnTheCommandLine(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"--cgroup-root", "/proc"},
		{"--manifests", "/does/not/exist"},
		{"--map-frontends", "-1"},
	} {
		n.launch(args...)
		err := n.agent.Wait()
		n.agent = nil
		if err == nil {
			t.Errorf("%v: the agent ended without an error", args)
		}
		said := n.log.String()
		if said == "" || strings.Contains(said, "goroutine ") {
			t.Errorf("%v: said %q", args, said)
		}
		t.Logf("%v: %s", args, strings.TrimSpace(said))
	}
}

// What does not fit is said everywhere, costs nobody else anything, and is no
// reason to restart the agent or to take the node out of service (pains B3).
func TestAFullTable(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a := s.server(n, "a")
	for i := range 10 {
		n.write(fmt.Sprintf("s%d.yaml", i), service(fmt.Sprintf("s%d", i), []string{fmt.Sprintf("10.96.1.%d", i)}, a))
	}
	// Three keys a Service (two ports and its address), one is the self-test's.
	n.start("--max-frontends", "16", "--sync-period", "1s")
	n.awaitLog("in use")
	served := 0
	for i := range 10 {
		if name, err := s.ask("tcp", fmt.Sprintf("10.96.1.%d:80", i)); err == nil && name == "a" {
			served++
		}
	}
	if served < 4 || served == 10 {
		t.Errorf("%d of 10 Services are served from a table with room for about 5", served)
	}
	if out, status := n.beeline("status"); status != 4 || !strings.Contains(out, "table frontends is full") {
		t.Errorf("status: exit %d: %s", status, out)
	}
	time.Sleep(3 * time.Second) // longer than a change may wait
	for _, url := range []string{healthz, livez} {
		if code, body, err := n.get(url); code != http.StatusOK {
			t.Errorf("%s: %d, %v: %s", url, code, err, body)
		}
	}
	for i := range 8 {
		check(t, os.Remove(filepath.Join(n.manifests, fmt.Sprintf("s%d.yaml", i))))
	}
	for _, addr := range []string{"10.96.1.8:80", "10.96.1.9:80"} {
		eventually(t, 5*time.Second, func() error {
			if name, err := s.ask("tcp", addr); err != nil || name != "a" {
				return fmt.Errorf("%s, after there is room: %q, %w", addr, name, err)
			}
			return nil
		})
	}
}
