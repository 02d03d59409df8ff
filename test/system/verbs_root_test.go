// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Every verb that answers, in every format, with the agent up and down. Whoever
// adds a verb adds a row.
func TestEveryVerbAnswersInEveryFormat(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", v4VIP, s.server(n, "a")))
	n.start()
	rows := []struct {
		args []string
		down int // exit status without an agent
	}{
		{[]string{"status"}, 0},
		{[]string{"service", "list"}, 0},
		{[]string{"service", "get", "default/web"}, 0},
		{[]string{"backend", "list"}, 0},
		{[]string{"backend", "list", "default/web"}, 0},
		{[]string{"explain", "svc/default/web"}, 0},
		{[]string{"explain", "tcp", access[0].addr}, 0},
		{[]string{"check", "--cgroup-root", n.Cgroup.Path}, 0},
		{[]string{"version"}, 0},
	}
	ask := func(t *testing.T, status int, args []string) {
		t.Helper()
		for format, read := range map[string]func([]byte) error{
			"json":  func(b []byte) error { var v any; return json.Unmarshal(b, &v) },
			"yaml":  func(b []byte) error { var v any; return yaml.Unmarshal(b, &v) },
			"table": func([]byte) error { return nil },
		} {
			out, errs, got := n.splitIn(args, format)
			if got != status || strings.TrimSpace(out) == "" || strings.Contains(errs, "goroutine ") {
				t.Errorf("-o %s: status %d, want %d: %s%s", format, got, status, out, errs)
			}
			if err := read([]byte(out)); err != nil {
				t.Errorf("-o %s: %v: %s", format, err, out)
			}
		}
	}
	for _, r := range rows {
		t.Run(strings.Join(r.args, " "), func(t *testing.T) { ask(t, 0, r.args) })
	}
	check(t, n.stop())
	for _, r := range rows {
		t.Run("no agent: "+strings.Join(r.args, " "), func(t *testing.T) { ask(t, r.down, r.args) })
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
	t.Run("cleanup", func(t *testing.T) { ask(t, 0, []string{"cleanup"}) })
}

// splitIn is split with a format. version reads no kernel.
func (n *node) splitIn(args []string, format string) (stdout, stderr string, status int) {
	return n.split(append(args[:len(args):len(args)], "-o", format)...)
}
