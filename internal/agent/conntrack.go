// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/config"
)

// sysctl is a folder like /proc/sys.
type sysctl string

func (s sysctl) get(name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(string(s), name))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func (s sysctl) set(name string, value int) error {
	return os.WriteFile(filepath.Join(string(s), name), []byte(strconv.Itoa(value)), 0)
}

// netfilter is the folder of the settings of the system's connection tracking.
const netfilter = "net/netfilter/nf_conntrack_"

// maxTracked is kube-proxy's limit of nf_conntrack_max.
const maxTracked = 1 << 20

// conntrackSettings are what the configuration wants of the system's connection
// tracking, by name (kube-proxy: pkg/proxy/conntrack/sysctls.go).
func conntrackSettings(c config.Conntrack, cpus int) map[string]int {
	want := map[string]int{}
	if c.MaxPerCore > 0 {
		want["max"] = max(c.Min, c.MaxPerCore*cpus)
		if c.MaxPerCore*cpus > maxTracked {
			want["max"] = maxTracked
		}
		want["buckets"] = want["max"] / 4
	}
	for name, d := range map[string]time.Duration{
		"tcp_timeout_established": c.TCPEstablished,
		"tcp_timeout_close_wait":  c.TCPCloseWait,
		"udp_timeout":             c.UDPUnreplied,
		"udp_timeout_stream":      c.UDPStream,
	} {
		if d > 0 {
			want[name] = int(d / time.Second)
		}
	}
	if c.TCPLiberal {
		want["tcp_be_liberal"] = 1
	}
	return want
}

// setConntrack tunes the system's connection tracking as kube-proxy does: what
// netfilter tracks, it tracks for as long as before. A system without conntrack
// needs nothing; one that does not let us, such as a container whose /proc/sys is
// read-only, keeps what it has.
//
// It returns what it has changed.
func setConntrack(root sysctl, c config.Conntrack, log *slog.Logger) map[string]setting {
	changed := map[string]setting{}
	var kept []string
	var errs []error
	want := conntrackSettings(c, onlineCPUs("/sys/devices/system/cpu/online"))
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value := want[name]
		have, err := root.get(netfilter + name)
		switch {
		case os.IsNotExist(err):
			continue
		case err == nil && (have == value || atLeast(name) && have > value):
			continue
		}
		if err := root.set(netfilter+name, value); err != nil {
			kept = append(kept, fmt.Sprintf("nf_conntrack_%s=%d (configured: %d)", name, have, value))
			errs = append(errs, err)
			continue
		}
		changed[name] = setting{have, value}
	}
	if len(kept) > 0 {
		log.Warn("the system's connection tracking keeps its settings; in a container, mount the node's /proc/sys/net and say where with --sysctl-root, as the Helm chart does, or configure conntrack.* as the node has it",
			"kept", strings.Join(kept, ", "), "err", errs[0])
	}
	return changed
}

// atLeast are settings that may be larger than is asked for.
func atLeast(name string) bool { return name == "max" || name == "buckets" }

// onlineCPUs counts the node's, not those that the agent may run on; file lists
// them as "0-3,5".
func onlineCPUs(file string) (n int) {
	text, err := os.ReadFile(file)
	if err != nil {
		return runtime.NumCPU()
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || to < from {
			return runtime.NumCPU()
		}
		n += to - from + 1
	}
	return n
}

// flowTimeouts are how long the packet path keeps silent flows: as configured,
// else as the system does it, else (missing here) the programs' own default,
// which is the kernel's.
func flowTimeouts(root sysctl, c config.Conntrack) map[abi.FlowTimeout]time.Duration {
	all := map[abi.FlowTimeout]time.Duration{}
	for which, t := range map[abi.FlowTimeout]struct {
		configured time.Duration
		name       string
	}{
		abi.TimeoutTCPEstablished: {c.TCPEstablished, "tcp_timeout_established"},
		abi.TimeoutTCPHalfClosed:  {c.TCPCloseWait, "tcp_timeout_close_wait"},
		abi.TimeoutUDPUnanswered:  {c.UDPUnreplied, "udp_timeout"},
		abi.TimeoutUDPAnswered:    {c.UDPStream, "udp_timeout_stream"},
		abi.TimeoutTCPOpening:     {0, "tcp_timeout_syn_sent"},
		abi.TimeoutTCPAnswered:    {0, "tcp_timeout_syn_recv"},
		abi.TimeoutTCPClosed:      {0, "tcp_timeout_time_wait"},
		abi.TimeoutTCPReset:       {0, "tcp_timeout_close"},
	} {
		d := t.configured
		if secs, err := root.get(netfilter + t.name); d == 0 && err == nil {
			d = time.Duration(secs) * time.Second
		}
		if d > 0 {
			all[which] = max(d, time.Second)
		}
	}
	return all
}
