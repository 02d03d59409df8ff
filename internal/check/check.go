// SPDX-License-Identifier: Apache-2.0

// Package check judges whether a node can carry Beeline, and whether something
// on it gets in the way. It is pure: facts in, findings out, each with what it
// costs and how to mend it.
package check

import (
	"fmt"
	"slices"
	"strings"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	// OK: as it should be.
	OK Level = "ok"
	// Info: worth knowing, nothing to do.
	Info Level = "info"
	// Warn: works, with a loss.
	Warn Level = "warning"
	// Fail: Beeline cannot work here.
	Fail Level = "unusable"
	// Unknown: could not be looked at.
	Unknown Level = "unknown"
)

// Finding is one line of the table.
type Finding struct {
	// Check names what was looked at. It is stable.
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Found is what there is; Costs what is lost by it; Mend what to do.
	Found string `json:"found"`
	Costs string `json:"costs,omitempty"`
	Mend  string `json:"mend,omitempty"`
}

// Probe is what asking the kernel for a feature said: empty if it has it.
type Probe struct {
	// Name as in the kernel's documentation; Since the version that has it.
	Name, Since string
	// Missing says why not; empty: it is there.
	Missing string
	// Failed: the asking itself did not work.
	Failed string
}

// Program is a BPF program at a hook, ours or another's.
type Program struct {
	// Hook is "cgroup connect4", "tcx ingress", "tc egress", "xdp"...
	Hook   string `json:"hook"`
	Device string `json:"device,omitempty"`
	Name   string `json:"name"`
	ID     uint32 `json:"id"`
	Ours   bool   `json:"ours"`
	// Before: it runs before ours.
	Before bool `json:"before"`
}

// Facts is what a node is like.
type Facts struct {
	Kernel string
	// Needed features: without one, Beeline cannot work; packet features are
	// those of the packet path, better ones have a substitute.
	Needed, Packet, Better []Probe
	BTF, JIT               bool
	// Missing capabilities of this process.
	Capabilities []string

	Cgroup Cgroup
	BPFFS  BPFFS
	// Sysctls by name, empty if they cannot be read.
	Sysctls map[string]string
	// StrictRPFilter are devices whose effective rp_filter is 1.
	StrictRPFilter []string
	// NodePorts are those of this node's Services.
	NodePorts []uint16
	// PacketPath: programs of ours are on devices.
	PacketPath bool

	// Installed: Beeline's pins are there. Problems are with its hooks.
	Installed, AgentRunning bool
	Problems                []string

	// KubeProxy are its rules, by place; Dropping are base chains with policy
	// drop of others; NetfilterFailed: it could not be read.
	KubeProxy, Dropping []string
	NetfilterFailed     string
	// IPVS counts virtual servers.
	IPVS int
	// KubeProxyRuns: a process of that name was seen.
	KubeProxyRuns bool
	// OtherCNIs have eBPF proxies of their own: their pins, by name.
	OtherCNIs []string
	Programs  []Program
	// Conntrack is how full the table is: entries and limit; 0 if there is none.
	Conntrack, ConntrackMax int
}

// Cgroup is what is known of the cgroup root.
type Cgroup struct {
	Path string
	// V2: it is in a cgroup2 hierarchy; Root: it is that hierarchy's root.
	V2, Root bool
	// Found is where cgroup2 is mounted, if Path is elsewhere.
	Found string
}

// BPFFS is what is known of the BPF filesystem.
type BPFFS struct {
	Path    string
	Mounted bool
}

// Judge looks at everything.
func Judge(f Facts) []Finding {
	j := judge{Facts: f}
	j.kernel()
	j.places()
	j.beeline()
	j.proxies()
	j.programs()
	j.network()
	return j.all
}

// Verdict is the worst of some findings; strict counts a warning as bad.
func Verdict(all []Finding, strict bool) (usable bool) {
	return !slices.ContainsFunc(all, func(f Finding) bool { return f.Level == Fail || strict && f.Level == Warn })
}

type judge struct {
	Facts
	all []Finding
}

func (j *judge) add(check string, level Level, found, costs, mend string) {
	if level == OK || level == Info && costs == "" {
		mend = ""
	}
	j.all = append(j.all, Finding{check, level, found, costs, mend})
}

// either adds one of two findings.
func (j *judge) either(good bool, check string, bad Level, yes, no, costs, mend string) {
	if good {
		j.add(check, OK, yes, "", "")
		return
	}
	j.add(check, bad, no, costs, mend)
}

func (j *judge) kernel() {
	j.add("kernel", Info, j.Kernel, "", "")
	j.either(j.BTF, "btf", Fail, "the kernel describes its types", "no /sys/kernel/btf/vmlinux",
		"the programs cannot be loaded", "use a kernel with CONFIG_DEBUG_INFO_BTF")
	j.either(j.JIT, "jit", Warn, "programs are compiled", "programs are interpreted",
		"every connection and packet costs several times as much", "sysctl net.core.bpf_jit_enable=1")
	j.either(len(j.Capabilities) == 0, "capabilities", Fail, "all that are needed", "missing: "+strings.Join(j.Capabilities, ", "),
		"nothing can be loaded", "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
	j.probes("features", j.Needed, Fail, "Services do not work", "use Linux 6.1 or newer")
	j.probes("packet path", j.Packet, Warn, "NodePorts, load balancers and clients outside are not served", "use Linux 6.1 or newer with CONFIG_NET_CLS_ACT and CONFIG_NET_SCH_INGRESS")
	j.probes("newer features", j.Better, Info, "", "")
}

func (j *judge) probes(check string, all []Probe, bad Level, costs, mend string) {
	var have, missing, failed []string
	for _, p := range all {
		switch {
		case p.Failed != "":
			failed = append(failed, p.Name+" ("+p.Failed+")")
		case p.Missing != "":
			missing = append(missing, p.Name+" (Linux "+p.Since+")")
		default:
			have = append(have, p.Name)
		}
	}
	if len(missing) > 0 {
		j.add(check, bad, "missing: "+strings.Join(missing, ", "), costs, mend)
	}
	if len(failed) > 0 {
		j.add(check, Unknown, strings.Join(failed, ", "), "", "run as root")
	}
	if len(missing)+len(failed) == 0 && len(have) > 0 {
		j.add(check, OK, strings.Join(have, ", "), "", "")
	}
}

func (j *judge) places() {
	switch c := j.Cgroup; {
	case !c.V2 && c.Found != "":
		j.add("cgroup", Fail, c.Path+" is not in a cgroup2 hierarchy", "no socket is served", "name the one at "+c.Found+" with --cgroup-root")
	case !c.V2:
		j.add("cgroup", Fail, "no cgroup2 hierarchy at "+c.Path, "no socket is served", "mount one: mount -t cgroup2 none "+c.Path)
	case !c.Root:
		j.add("cgroup", Warn, c.Path+" is not the root of the hierarchy", "processes outside it, such as the node's own, are not served", "name the root with --cgroup-root, unless this is meant")
	default:
		j.add("cgroup", OK, c.Path, "", "")
	}
	j.either(j.BPFFS.Mounted, "bpffs", Fail, j.BPFFS.Path, "no BPF filesystem at "+j.BPFFS.Path,
		"nothing would outlive the agent, so it does not start", "mount -t bpf bpf "+j.BPFFS.Path)
}

func (j *judge) beeline() {
	switch {
	case !j.Installed:
		j.add("beeline", Info, "not in this kernel yet", "", "")
	case len(j.Problems) > 0:
		j.add("beeline", Warn, strings.Join(j.Problems, "; "), "Services work in part or not at all", "restart the agent")
	case !j.AgentRunning:
		j.add("beeline", Warn, "in place, but no agent runs", "Services work, and follow no change", "start the agent")
	default:
		j.add("beeline", OK, "in place, and an agent runs", "", "")
	}
}

func (j *judge) proxies() {
	switch {
	case j.NetfilterFailed != "":
		j.add("kube-proxy", Unknown, "netfilter cannot be read: "+j.NetfilterFailed, "", "run as root in the host's network namespace")
	case j.KubeProxyRuns:
		j.add("kube-proxy", Warn, "runs on this node", "two proxies serve the same Services; whoever sees a packet first decides", "remove its DaemonSet")
	case len(j.KubeProxy) > 0:
		j.add("kube-proxy", Warn, "left rules: "+strings.Join(j.KubeProxy, ", "),
			"packets that Beeline leaves alone are translated by rules that nobody updates", "run kube-proxy --cleanup, or restart the node")
	default:
		j.add("kube-proxy", OK, "no rules, no process", "", "")
	}
	if j.IPVS > 0 {
		j.add("ipvs", Warn, fmt.Sprintf("%d virtual servers", j.IPVS), "packets to their addresses go to servers that nobody updates", "run kube-proxy --cleanup, or ipvsadm --clear")
	}
	if len(j.OtherCNIs) > 0 {
		j.add("other eBPF proxies", Warn, strings.Join(j.OtherCNIs, ", "),
			"if its own Service handling is on, it translates first", "switch it off there: Cilium kubeProxyReplacement=false, Calico linuxDataplane: Iptables or Nftables")
	}
}

func (j *judge) programs() {
	var before, beside []string
	for _, p := range j.Programs {
		text := p.text()
		switch {
		case p.Ours:
		case p.Before:
			before = append(before, text)
		default:
			beside = append(beside, text)
		}
	}
	if len(before) > 0 {
		j.add("programs before", Warn, strings.Join(before, ", "), "they decide before Beeline does, and may take packets away", "find out whose they are: bpftool prog show id ID")
	}
	if len(beside) > 0 {
		j.add("programs beside", Info, strings.Join(beside, ", "), "", "")
	}
	if len(before)+len(beside) == 0 {
		j.add("programs", OK, "no program of anybody else is on our hooks", "", "")
	}
}

func (p Program) text() string {
	where := p.Hook
	if p.Device != "" {
		where += " of " + p.Device
	}
	return fmt.Sprintf("%s (id %d) on %s", p.Name, p.ID, where)
}

func (j *judge) network() {
	if v := j.Sysctls["net.ipv4.ip_forward"]; v != "" {
		j.either(v != "0", "ip_forward", Warn, "on", "net.ipv4.ip_forward=0", "packets from outside do not reach pods", "sysctl net.ipv4.ip_forward=1")
	}
	if len(j.StrictRPFilter) > 0 {
		j.add("rp_filter", Warn, "strict on "+strings.Join(j.StrictRPFilter, ", "),
			"packets that come in by another device than their answers leave by are dropped behind Beeline", "set net.ipv4.conf.DEVICE.rp_filter=2 where routes are asymmetric")
	} else {
		j.add("rp_filter", OK, "nowhere strict", "", "")
	}
	j.ports()
	if len(j.Dropping) > 0 {
		j.add("firewall", Info, "policy drop: "+strings.Join(j.Dropping, ", "), "rules on a Service's address no longer match: sockets are translated before there is a packet, and packets before netfilter sees them", "")
	}
	const full = 0.9
	if j.ConntrackMax > 0 && float64(j.Conntrack) > full*float64(j.ConntrackMax) {
		j.add("conntrack", Warn, fmt.Sprintf("%d of %d entries", j.Conntrack, j.ConntrackMax), "the kernel drops new connections that netfilter tracks", "raise net.netfilter.nf_conntrack_max")
	}
}

// ports looks for NodePorts that the node's own sockets may be given.
func (j *judge) ports() {
	var low, high uint16
	if _, err := fmt.Sscan(j.Sysctls["net.ipv4.ip_local_port_range"], &low, &high); err != nil {
		return
	}
	reserved := j.Sysctls["net.ipv4.ip_local_reserved_ports"]
	var taken []string
	for _, p := range j.NodePorts {
		if low <= p && p <= high && !inList(reserved, p) {
			taken = append(taken, fmt.Sprint(p))
		}
	}
	if len(taken) == 0 {
		j.add("node ports", OK, fmt.Sprintf("none in the range of outgoing connections (%d-%d)", low, high), "", "")
		return
	}
	j.add("node ports", Warn, strings.Join(taken, ", ")+fmt.Sprintf(" may be given to outgoing connections (%d-%d)", low, high),
		"a connection of this node may get a port that is a NodePort", "add them to net.ipv4.ip_local_reserved_ports")
}

// inList understands "80,100-200".
func inList(list string, port uint16) bool {
	for item := range strings.SplitSeq(list, ",") {
		var low, high uint16
		switch n, _ := fmt.Sscanf(strings.TrimSpace(item), "%d-%d", &low, &high); {
		case n == 1 && low == port, n == 2 && low <= port && port <= high:
			return true
		}
	}
	return false
}

// InFront are the findings that could stop a packet or connection which Beeline
// would serve: what an explanation has to add.
func InFront(f Facts) (all []Finding) {
	j := judge{Facts: f}
	j.proxies()
	j.programs()
	for _, finding := range j.all {
		if finding.Level == Warn {
			all = append(all, finding)
		}
	}
	return all
}
