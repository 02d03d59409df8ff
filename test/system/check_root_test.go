// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/nftables"

	judge "github.com/beeline-net/beeline/internal/check"
	"github.com/beeline-net/beeline/internal/explain"
)

// checkup is what the tests read of `beeline check -o json`.
type checkup struct {
	Usable   bool
	Findings []judge.Finding
	Programs []judge.Program
}

func (n *node) check(args ...string) (c checkup, status int) {
	n.t.Helper()
	out, errs, status := n.split(append([]string{"check", "-o", "json", "--cgroup-root", n.Cgroup.Path}, args...)...)
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		n.t.Fatalf("check: status %d: %v\n%s%s", status, err, out, errs)
	}
	return c, status
}

func (c checkup) level(name string) judge.Level {
	i := slices.IndexFunc(c.Findings, func(f judge.Finding) bool { return f.Check == name })
	if i < 0 {
		return ""
	}
	return c.Findings[i].Level
}

// A node before an installation, with one, with kube-proxy's rules beside it, and
// with an agent that is gone.
func TestCheckFollowsTheNode(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	before, status := n.check()
	if status != 0 || !before.Usable || before.level("beeline") != judge.Info || before.level("features") != judge.OK {
		t.Errorf("before: status %d, %+v", status, before)
	}
	n.write("web.yaml", nodePortService("web", v4VIP, s.server(n, "a")))
	n.start("--packet-path")
	after, status := n.check()
	if status != 0 || after.level("beeline") != judge.OK {
		t.Errorf("after: status %d, %+v", status, after)
	}
	for _, hook := range []string{"cgroup connect4", "tcx ingress", "tcx egress"} {
		if !slices.ContainsFunc(after.Programs, func(p judge.Program) bool { return p.Ours && p.Hook == hook }) {
			t.Errorf("no program of ours on %s: %+v", hook, after.Programs)
		}
	}
	checkRules(t, n)
	rules, status := n.check()
	if status != 0 || rules.level("kube-proxy") != judge.Warn {
		t.Errorf("with kube-proxy's rules: status %d, %+v", status, rules)
	}
	if _, status := n.check("--strict"); status != 4 {
		t.Errorf("with kube-proxy's rules, strictly: status %d", status)
	}
	all, _ := n.explain("tcp", access[0].addr)
	if !slices.ContainsFunc(all[0].Findings, func(f explain.Finding) bool { return f.Reason == explain.InFront }) {
		t.Errorf("explain does not tell of kube-proxy's rules: %+v", all[0].Findings)
	}
	n.kill()
	if gone, _ := n.check(); gone.level("beeline") != judge.Warn {
		t.Errorf("without an agent: %+v", gone.Findings)
	}
}

// checkRules makes a table as kube-proxy's nftables mode does.
func checkRules(t *testing.T, n *node) {
	t.Helper()
	check(t, n.NS.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"})
		c.AddChain(&nftables.Chain{Table: table, Name: "services"})
		return c.Flush()
	}))
}
