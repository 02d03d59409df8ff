// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// trace lists everything on a node in which an agent could leave a trace, with
// what is there.
func (n *node) trace(files string) map[string]string {
	n.t.Helper()
	all := map[string]string{}
	walk := func(root string, read bool) {
		check(n.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && path == root {
				return err
			}
			all[path] = d.Type().String()
			if text, err := os.ReadFile(path); read && !d.IsDir() && err == nil {
				all[path] = string(text)
			}
			return nil
		}))
	}
	walk(n.BPFFS, false)
	walk(files, true)
	cgroup, err := os.Open(n.Cgroup.Path)
	check(n.t, err)
	defer func() { _ = cgroup.Close() }()
	for typ := ebpf.AttachCGroupInetIngress; typ <= ebpf.AttachCgroupInetSockRelease; typ++ {
		if res, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: typ}); err == nil {
			for _, p := range res.Programs {
				all[fmt.Sprintf("cgroup %v %d", typ, p.ID)] = "attached"
			}
		}
	}
	check(n.t, n.NS.Do(func() error {
		walk("/proc/sys/net", true)
		devices, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, d := range devices {
			if err := traceDevice(all, d); err != nil {
				return err
			}
		}
		return nil
	}))
	return all
}

func traceDevice(all map[string]string, d netlink.Link) error {
	name := d.Attrs().Name
	for _, typ := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		res, err := link.QueryPrograms(link.QueryOptions{Target: d.Attrs().Index, Attach: typ})
		if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
		if err == nil {
			for _, p := range res.Programs {
				all[fmt.Sprintf("%s %v %d", name, typ, p.ID)] = "attached"
			}
		}
	}
	qdiscs, err := netlink.QdiscList(d)
	for _, q := range qdiscs {
		all[fmt.Sprintf("%s qdisc %s", name, netlink.HandleStr(q.Attrs().Handle))] = q.Type()
	}
	return err
}

// What changes by itself, and what the kernel counts.
func settled(all map[string]string) map[string]string {
	for path := range all {
		for _, busy := range []string{"nf_conntrack_count", "nf_conntrack_buckets", "/stat", "flow_limit", "neigh"} {
			if strings.Contains(path, busy) && strings.HasPrefix(path, "/proc/sys") {
				delete(all, path)
			}
		}
	}
	return all
}

// After cleanup a node is as if Beeline had never been there.
func TestCleanupLeavesNoTrace(t *testing.T) {
	for name, end := range map[string]func(n *node){
		"agent running": func(*node) {},
		"agent stopped": func(n *node) { check(n.t, n.stop()) },
		"agent killed":  func(n *node) { n.kill() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 1)
			n := s.nodes[0]
			files := t.TempDir()
			n.write("web.yaml", nodePortService("web", bothVIPs, s.server(n, "a")))
			before := settled(n.trace(files))
			n.start("--packet-path", "--conntrack-tcp-timeout-close-wait", "17m", "--conntrack-udp-timeout", "33s")
			if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
				t.Errorf("through the Service: %q, %v", name, err)
			}
			if d := cmp.Diff(before, settled(n.trace(files))); d == "" {
				t.Fatal("the agent left no trace at all: the test looks in the wrong places")
			} else if !strings.Contains(d, "udp_timeout") {
				t.Error("the agent changed no setting of connection tracking")
			}
			end(n)
			out, status := n.beeline("cleanup")
			if status != 0 {
				t.Fatalf("cleanup: exit %d: %s", status, out)
			}
			if name == "agent running" && !strings.Contains(out, "stopped the agent") {
				t.Errorf("cleanup beside an agent said: %s", out)
			}
			if d := cmp.Diff(before, settled(n.trace(files))); d != "" {
				t.Errorf("what is left: %s", d)
			}
			if n.agent != nil {
				var exit *exec.ExitError
				if err := n.agent.Wait(); err != nil && !errors.As(err, &exit) {
					t.Error(err)
				}
				n.agent = nil
			}
			if name, err := s.ask("tcp", access[0].addr); err == nil {
				t.Errorf("%q still answers", name)
			}
		})
	}
}
