// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"strings"
	"testing"
)

// sound is a node with nothing wrong.
func sound() Facts {
	return Facts{
		Kernel: "Linux 6.12", BTF: true, JIT: true,
		Needed: []Probe{{Name: "socket address hooks", Since: "4.17"}}, Packet: []Probe{{Name: "tc programs", Since: "4.1"}},
		Better: []Probe{{Name: "tcx", Since: "6.6"}},
		Cgroup: Cgroup{Path: "/sys/fs/cgroup", V2: true, Root: true}, BPFFS: BPFFS{Path: "/sys/fs/bpf", Mounted: true},
		Sysctls:   map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.ip_local_port_range": "32768\t60999"},
		Installed: true, AgentRunning: true, NodePorts: []uint16{30080},
	}
}

func TestEveryFindingSaysWhatItCostsAndHowToMendIt(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Facts)
		check  string
		level  Level
		says   string
	}{
		{"no BTF", func(f *Facts) { f.BTF = false }, "btf", Fail, "btf/vmlinux"},
		{"no JIT", func(f *Facts) { f.JIT = false }, "jit", Warn, "interpreted"},
		{"no capability", func(f *Facts) { f.Capabilities = []string{"CAP_BPF"} }, "capabilities", Fail, "CAP_BPF"},
		{"an old kernel", func(f *Facts) { f.Needed[0].Missing = "not supported" }, "features", Fail, "socket address hooks (Linux 4.17)"},
		{"no packet path", func(f *Facts) { f.Packet[0].Missing = "not supported" }, "packet path", Warn, "tc programs"},
		{"cgroup v1", func(f *Facts) { f.Cgroup = Cgroup{Path: "/sys/fs/cgroup", Found: "/sys/fs/cgroup/unified"} }, "cgroup", Fail, "not in a cgroup2"},
		{"no cgroup2 at all", func(f *Facts) { f.Cgroup = Cgroup{Path: "/sys/fs/cgroup"} }, "cgroup", Fail, "no cgroup2"},
		{"a child cgroup", func(f *Facts) { f.Cgroup.Root = false }, "cgroup", Warn, "not the root"},
		{"no bpffs", func(f *Facts) { f.BPFFS.Mounted = false }, "bpffs", Fail, "/sys/fs/bpf"},
		{"a hook is gone", func(f *Facts) { f.Problems = []string{"beeline_connect4: gone"} }, "beeline", Warn, "connect4"},
		{"the agent is down", func(f *Facts) { f.AgentRunning = false }, "beeline", Warn, "no agent runs"},
		{"kube-proxy runs", func(f *Facts) { f.KubeProxyRuns = true }, "kube-proxy", Warn, "runs"},
		{"kube-proxy left rules", func(f *Facts) { f.KubeProxy = []string{"nf_tables ip kube-proxy (9 chains)"} }, "kube-proxy", Warn, "nf_tables ip kube-proxy"},
		{"IPVS", func(f *Facts) { f.IPVS = 4 }, "ipvs", Warn, "4 virtual servers"},
		{"Cilium", func(f *Facts) { f.OtherCNIs = []string{"Cilium (pins)"} }, "other eBPF proxies", Warn, "Cilium"},
		{"a program before ours", func(f *Facts) {
			f.Programs = []Program{{Hook: "tcx ingress", Device: "eth0", Name: "theirs", ID: 7, Before: true}}
		}, "programs before", Warn, "theirs (id 7) on tcx ingress of eth0"},
		{"no forwarding", func(f *Facts) { f.Sysctls["net.ipv4.ip_forward"] = "0" }, "ip_forward", Warn, "=0"},
		{"strict rp_filter", func(f *Facts) { f.StrictRPFilter = []string{"eth0"} }, "rp_filter", Warn, "eth0"},
		{"a NodePort among local ports", func(f *Facts) { f.NodePorts = []uint16{30080, 40000} }, "node ports", Warn, "40000 may"},
		{"a full conntrack table", func(f *Facts) { f.Conntrack, f.ConntrackMax = 95, 100 }, "conntrack", Warn, "95 of 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := sound()
			c.change(&f)
			all := Judge(f)
			i := slices.IndexFunc(all, func(f Finding) bool { return f.Check == c.check && f.Level == c.level })
			if i < 0 {
				t.Fatalf("no finding %s, %s: %+v", c.check, c.level, all)
			}
			if !strings.Contains(all[i].Found, c.says) || all[i].Costs == "" || all[i].Mend == "" {
				t.Errorf("%+v: want %q, what it costs and how to mend it", all[i], c.says)
			}
			if Verdict(all, true) || Verdict(all, false) != (c.level == Warn) {
				t.Errorf("usable %v, strictly %v, for a %s", Verdict(all, false), Verdict(all, true), c.level)
			}
			for _, other := range all {
				if other.Check != c.check && (other.Level == Warn || other.Level == Fail) {
					t.Errorf("also complains: %+v", other)
				}
			}
		})
	}
}

func TestASoundNodeIsUsable(t *testing.T) {
	f := sound()
	f.NodePorts = append(f.NodePorts, 40000)
	f.Sysctls["net.ipv4.ip_local_reserved_ports"] = "80,39000-41000"
	f.Programs = []Program{{Hook: "cgroup connect4", Name: "beeline_connect", Ours: true}, {Hook: "cgroup connect4", Name: "beside", ID: 9}}
	all := Judge(f)
	if !Verdict(all, true) {
		t.Errorf("not usable: %+v", all)
	}
	if found := InFront(f); len(found) > 0 {
		t.Errorf("in front of Beeline: %+v", found)
	}
	f.NetfilterFailed = "operation not permitted"
	if all = Judge(f); !Verdict(all, true) {
		t.Errorf("what cannot be looked at makes it unusable: %+v", all)
	}
}
