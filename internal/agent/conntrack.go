// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
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
// needs nothing; one that does not let us, such as an unprivileged container,
// keeps what it has.
//
// It returns what it has changed.
func setConntrack(root sysctl, c config.Conntrack, log *slog.Logger) map[string]setting {
	changed := map[string]setting{}
	for name, value := range conntrackSettings(c, runtime.NumCPU()) {
		have, err := root.get(netfilter + name)
		switch {
		case os.IsNotExist(err):
			continue
		case err == nil && (have == value || name == "max" && have > value):
			continue
		}
		before := setting{have, value}
		if err := root.set(netfilter+name, value); err != nil {
			log.Info("the system's connection tracking keeps its setting", "setting", "nf_conntrack_"+name,
				"value", have, "configured", value, "err", err)
			continue
		}
		changed[name] = before
	}
	return changed
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
