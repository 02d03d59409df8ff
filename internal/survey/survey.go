// SPDX-License-Identifier: Apache-2.0

// Package survey looks at a node for `beeline check`: it gathers facts and
// judges none. It changes nothing; probing a feature loads a program of two
// instructions and forgets it.
package survey

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/check"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/netfilter"
	"github.com/beeline-net/beeline/internal/plan"
)

// Options say where to look.
type Options struct {
	BPFFS, CgroupRoot string
}

// Gather looks at everything. What it cannot look at it says in the facts.
func Gather(o Options) check.Facts {
	f := Neighbourhood(o)
	f.Kernel = kernel()
	probeFeatures(&f)
	f.Capabilities = missingCapabilities()
	f.Cgroup, f.BPFFS = cgroup(o.CgroupRoot), bpffs(o.BPFFS)
	f.Sysctls = map[string]string{}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports"} {
		f.Sysctls[name] = sysctl(name)
	}
	f.StrictRPFilter = strictRPFilter()
	f.JIT = f.JIT || sysctl("net.core.bpf_jit_enable") != "0"
	f.Conntrack, f.ConntrackMax = number("net.netfilter.nf_conntrack_count"), number("net.netfilter.nf_conntrack_max")
	beeline(&f, o)
	return f
}

// Neighbourhood looks at what else could decide about packets: the part that an
// explanation needs.
func Neighbourhood(o Options) (f check.Facts) {
	rules, err := netfilter.Look()
	if err != nil {
		f.NetfilterFailed = err.Error()
	}
	f.KubeProxy, f.Dropping = rules.KubeProxy, rules.Dropping
	f.IPVS = virtualServers()
	f.KubeProxyRuns = runs("kube-proxy")
	f.OtherCNIs = otherCNIs(o.BPFFS)
	// What cannot be listed has been said where it is needed.
	programs, _ := datapath.Neighbours(o.CgroupRoot)
	for _, p := range programs {
		f.Programs = append(f.Programs, check.Program{Hook: p.Hook, Device: p.Device, Name: p.Name, ID: uint32(p.ID), Ours: p.Ours, Before: p.Before})
	}
	return f
}

// beeline looks at what is installed.
func beeline(f *check.Facts, o Options) {
	pins := datapath.NewPins(o.BPFFS)
	if f.Installed = pins.Exists(); !f.Installed {
		return
	}
	f.AgentRunning = pins.Locked()
	if _, err := datapath.Attachments(pins); err != nil {
		f.Problems = strings.Split(err.Error(), "\n")
	}
	f.PacketPath = slices.ContainsFunc(f.Programs, func(p check.Program) bool { return p.Ours && p.Device != "" })
	opened, err := datapath.OpenMaps(pins)
	if err != nil {
		f.Problems = append(f.Problems, err.Error())
		return
	}
	defer datapath.CloseMaps(opened)
	tables, err := maps.NewReadOnly(opened)
	if err != nil {
		f.Problems = append(f.Problems, err.Error())
		return
	}
	defer func() { _ = tables.Close() }()
	live, err := inspect.Plans(tables)
	if err != nil {
		f.Problems = append(f.Problems, err.Error())
		return
	}
	f.NodePorts = nodePorts(live.Services)
}

func nodePorts(services []plan.Service) (all []uint16) {
	for _, s := range services {
		for _, p := range s.Ports {
			for _, fe := range p.Frontends {
				if fe.Kind == plan.NodePort {
					all = append(all, fe.Port)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
}

// missingCapabilities are those that the agent needs and this process has not.
// CAP_SYS_ADMIN stands for the first two, as in the kernel.
func missingCapabilities() (missing []string) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	var effective uint64
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			effective, _ = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		}
	}
	has := func(c int) bool { return effective>>c&1 == 1 }
	for _, c := range []struct {
		name   string
		number int
	}{{"CAP_BPF", unix.CAP_BPF}, {"CAP_PERFMON", unix.CAP_PERFMON}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}} {
		if !has(c.number) && (c.number == unix.CAP_NET_ADMIN || !has(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, c.name)
		}
	}
	return missing
}

func cgroup(path string) check.Cgroup {
	c := check.Cgroup{Path: path}
	var st unix.Statfs_t
	c.V2 = unix.Statfs(path, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	// Every cgroup but the root has this file.
	_, err := os.Stat(filepath.Join(path, "cgroup.type"))
	c.Root = c.V2 && os.IsNotExist(err)
	if !c.V2 {
		c.Found = mounted("cgroup2")
	}
	return c
}

func bpffs(path string) check.BPFFS {
	var st unix.Statfs_t
	return check.BPFFS{Path: path, Mounted: unix.Statfs(path, &st) == nil && st.Type == unix.BPF_FS_MAGIC}
}

// mounted is where the first filesystem of a type is; empty for none.
func mounted(typ string) string {
	text, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == typ {
			return f[1]
		}
	}
	return ""
}

func sysctl(name string) string {
	text, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func number(name string) int {
	n, _ := strconv.Atoi(sysctl(name))
	return n
}

// strictRPFilter lists the devices on which the larger of the device's own value
// and that for all is 1 (Documentation/networking/ip-sysctl.rst).
func strictRPFilter() (devices []string) {
	const folder = "/proc/sys/net/ipv4/conf"
	all := number("net.ipv4.conf.all.rp_filter")
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		if name := e.Name(); name != "all" && name != "default" && name != "lo" {
			text, _ := os.ReadFile(filepath.Join(folder, name, "rp_filter"))
			own, _ := strconv.Atoi(strings.TrimSpace(string(text)))
			if max(own, all) == 1 {
				devices = append(devices, name)
			}
		}
	}
	return devices
}

// virtualServers counts those of IPVS.
func virtualServers() (n int) {
	text, _ := os.ReadFile("/proc/thread-self/net/ip_vs")
	for line := range strings.Lines(string(text)) {
		for _, protocol := range []string{"TCP ", "UDP ", "SCTP ", "FWM "} {
			if strings.HasPrefix(line, protocol) {
				n++
			}
		}
	}
	return n
}

// runs looks for a process by name, among those that this process may see.
func runs(name string) bool {
	paths, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, p := range paths {
		if text, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(text)) == name && sameNetwork(p) {
			return true
		}
	}
	return false
}

// sameNetwork reports whether a process is in our network namespace: one of
// another node, on a machine with several, is no concern.
func sameNetwork(comm string) bool {
	theirs, err := os.Readlink(filepath.Join(filepath.Dir(comm), "ns/net"))
	if err != nil {
		return true // better to say it than to miss it
	}
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	return err != nil || theirs == ours
}

// otherCNIs finds those by what they pin.
func otherCNIs(bpffs string) (names []string) {
	for _, c := range []struct{ name, pattern string }{
		{"Cilium", "cilium*"}, {"Cilium", "tc/globals/cilium_*"},
		{"Calico eBPF", "calico*"}, {"Calico eBPF", "tc/globals/cali_*"}, {"Antrea", "antrea*"}, {"loxilb", "*/llb_*"},
	} {
		found, _ := filepath.Glob(filepath.Join(bpffs, c.pattern))
		if text := fmt.Sprintf("%s (pins in %s)", c.name, bpffs); len(found) > 0 && !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	return names
}
