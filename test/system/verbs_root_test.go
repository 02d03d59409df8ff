// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// Every verb that answers, in every format, with the agent up and down. Whoever
// adds a verb adds a row: the test compares with the reference page.
func TestEveryVerbAnswersInEveryFormat(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", nodePortService("web", v4VIP, s.server(n, "a")))
	n.start()
	rows := []verb{
		{args: []string{"status"}},
		{args: []string{"service", "list"}},
		{args: []string{"service", "list", "--rates", "200ms"}},
		{args: []string{"service", "get", "default/web"}},
		{args: []string{"backend", "list"}},
		{args: []string{"backend", "list", "default/web"}},
		{args: []string{"flow", "list"}},
		{args: []string{"explain", "svc/default/web"}},
		{args: []string{"explain", "tcp", access[0].addr}},
		{args: []string{"check", "--cgroup-root", n.Cgroup.Path}},
		{args: []string{"top", "--interval", "200ms", "--once"}},
		{args: []string{"monitor", "--count", "1", "--for", "10s"}, stream: true},
		{args: []string{"capture", "--untouched", "--count", "1", "--for", "10s"}, stream: true},
		{args: []string{"version"}},
	}
	everyVerbHasARow(t, rows, map[string]string{
		"agent":    "answers nothing",
		"demo":     "answers nothing",
		"takeover": "changes the node: test/takeover",
		"cleanup":  "changes the node: below",
	})
	stop := make(chan struct{})
	defer close(stop)
	go func() { // so that streams have something to tell
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				_, _ = s.ask("tcp", access[0].addr)
			}
		}
	}()
	for _, r := range rows {
		t.Run(strings.Join(r.args, " "), func(t *testing.T) { n.answers(t, r) })
	}
	check(t, n.stop())
	for _, r := range rows {
		t.Run("no agent: "+strings.Join(r.args, " "), func(t *testing.T) { n.answers(t, r) })
	}
	t.Run("completion", func(t *testing.T) {
		for want, args := range map[string][]string{
			"svc/default/web": {"__complete", "explain", "svc/"},
			"default/web":     {"__complete", "service", "get", "def"},
			access[0].addr:    {"__complete", "explain", "tcp", "10."},
		} {
			out, errs, _ := n.split(append(args[:len(args)-1:len(args)-1], "--bpffs", n.BPFFS, args[len(args)-1])...)
			if !strings.Contains(out, want+"\n") {
				t.Errorf("%v: no %q in %q %s", args, want, out, errs)
			}
		}
	})
	t.Run("cleanup", func(t *testing.T) { n.answers(t, verb{args: []string{"cleanup"}}) })
}

// verb is a command line that answers.
type verb struct {
	args []string
	// stream: it answers with one object a line, or one document each.
	stream bool
}

// answers asks in every format: the answer can be read, and there are no stack
// traces among the complaints.
func (n *node) answers(t *testing.T, v verb) {
	t.Helper()
	for format, read := range map[string]func([]byte) error{
		"json":  func(b []byte) error { var v any; return json.Unmarshal(b, &v) },
		"yaml":  func(b []byte) error { var v any; return yaml.Unmarshal(b, &v) },
		"table": func([]byte) error { return nil },
	} {
		out, errs, got := n.splitIn(v.args, format)
		if got != 0 || strings.TrimSpace(out) == "" || strings.Contains(errs, "goroutine ") {
			t.Errorf("-o %s: status %d: %s%s", format, got, out, errs)
		}
		if v.stream && strings.Count(strings.TrimSpace(out), "\n") > 0 && format != "yaml" {
			t.Errorf("-o %s: more than one line: %s", format, out)
		}
		if err := read([]byte(out)); err != nil {
			t.Errorf("-o %s: %v: %s", format, err, out)
		}
	}
}

// everyVerbHasARow compares with the reference page, which is made from the
// command line. others are verbs that need none, and why.
func everyVerbHasARow(t *testing.T, rows []verb, others map[string]string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/reference/cli.md")
	check(t, err)
	documented := 0
	for line := range strings.Lines(string(page)) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "## beeline ")
		if !ok {
			continue
		}
		documented++
		tested := slices.ContainsFunc(rows, func(v verb) bool { return strings.HasPrefix(strings.Join(v.args, " ")+" ", name+" ") })
		if !tested && others[name] == "" {
			t.Errorf("beeline %s: has no row here", name)
		}
	}
	if documented < len(others) {
		t.Errorf("the reference page has %d verbs", documented)
	}
}

// splitIn is split with a format. version reads no kernel.
func (n *node) splitIn(args []string, format string) (stdout, stderr string, status int) {
	return n.split(append(args[:len(args):len(args)], "-o", format)...)
}

// An update that takes most backends from many Services is held, and status says
// whose it is; during a takeover it says how far that is.
func TestStatusTellsWhatIsWaitedFor(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	pod := s.server(n, "a")
	var all []string
	for i := range 12 {
		all = append(all, service(fmt.Sprintf("web-%02d", i), []string{fmt.Sprintf("10.96.0.%d", 80+i)}, pod))
	}
	n.write("web.yaml", strings.Join(all, "---\n"))
	n.start("--mass-removal-hold=1h")
	if out, code := n.beeline("status"); code != 0 || strings.Contains(out, "HELD") || strings.Contains(out, "Takeover") {
		t.Errorf("status %d:\n%s", code, out)
	}
	n.write("web.yaml", all[0])
	eventually(t, 10*time.Second, func() error {
		out, code := n.beeline("status")
		if code != 0 || !strings.Contains(out, "HELD:") || !strings.Contains(out, "from 11 Services") || !strings.Contains(out, "default/web-01, ") {
			return fmt.Errorf("status %d:\n%s", code, out)
		}
		return nil
	})
	var status struct {
		Held     struct{ Services []string }
		Takeover struct{ Phase string }
	}
	out, _ := n.beeline("status", "-o", "json")
	check(t, json.Unmarshal([]byte(out), &status))
	if len(status.Held.Services) != 11 || status.Takeover.Phase != "alone" {
		t.Errorf("%+v", status)
	}
	n.kill()
	if out, code := n.beeline("status"); code != 0 || strings.Contains(out, "HELD") {
		t.Errorf("without an agent: status %d:\n%s", code, out)
	}
}
