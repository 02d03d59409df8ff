// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/host"
)

// fakeSysctl is a folder with these settings of conntrack.
func fakeSysctl(t *testing.T, settings map[string]int) sysctl {
	root := sysctl(t.TempDir())
	if err := os.MkdirAll(filepath.Join(string(root), filepath.Dir(netfilter)), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, value := range settings {
		if err := os.WriteFile(filepath.Join(string(root), netfilter+name), []byte(strconv.Itoa(value)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestConntrackIsSetAsKubeProxySetsIt(t *testing.T) {
	root := fakeSysctl(t, map[string]int{
		"max": 1 << 21, "buckets": 1024, "tcp_timeout_established": 432000, "tcp_timeout_close_wait": 60, "tcp_be_liberal": 0, "udp_timeout": 30,
	})
	c := config.Default().Conntrack
	c.UDPUnreplied = 10 * time.Second
	setConntrack(root, c, slog.New(slog.DiscardHandler))
	for name, want := range map[string]int{
		"max":                     1 << 21, // more than is asked for stays
		"buckets":                 max(c.Min, c.MaxPerCore*onlineCPUs("/sys/devices/system/cpu/online")) / 4,
		"tcp_timeout_established": 86400,
		"tcp_timeout_close_wait":  3600,
		"tcp_be_liberal":          0,
		"udp_timeout":             10,
	} {
		if got, err := root.get(netfilter + name); err != nil || got != want {
			t.Errorf("%s is %d (%v), want %d", name, got, err, want)
		}
	}
	if _, err := root.get(netfilter + "udp_timeout_stream"); !os.IsNotExist(err) {
		t.Errorf("a setting that the system does not have was made: %v", err)
	}
}

// The cases of kube-proxy's TestGetConntrackMax.
func TestConntrackMax(t *testing.T) {
	for _, c := range []struct{ perCore, min, cpus, want int }{
		{0, 123, 2, 0}, {123, 0, 1, 123}, {123, 456, 2, 456}, {123, 100, 4, 492}, {32768, 131072, 64, 1 << 20}, {400000, 0, 3, 1 << 20},
	} {
		if got := conntrackSettings(config.Conntrack{MaxPerCore: c.perCore, Min: c.min}, c.cpus)["max"]; got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestOnlineCPUs(t *testing.T) {
	for text, want := range map[string]int{"0\n": 1, "0-3\n": 4, "0-1,3,8-15\n": 11, "": runtime.NumCPU(), "all\n": runtime.NumCPU(), "3-1\n": runtime.NumCPU()} {
		file := filepath.Join(t.TempDir(), "online")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := onlineCPUs(file); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := onlineCPUs("/none"); got != runtime.NumCPU() {
		t.Errorf("without the file: %d", got)
	}
}

// In a container /proc/sys is read-only: one message says all that stays, and
// what to do.
func TestConntrackThatMayNotBeSet(t *testing.T) {
	root := fakeSysctl(t, map[string]int{"tcp_timeout_established": 432000, "tcp_timeout_close_wait": 60})
	for _, name := range []string{"tcp_timeout_established", "tcp_timeout_close_wait"} {
		// A folder cannot be written, not even by root.
		path := filepath.Join(string(root), netfilter+name)
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	if changed := setConntrack(root, config.Default().Conntrack, slog.New(slog.NewTextHandler(&log, nil))); len(changed) != 0 {
		t.Errorf("changed %v", changed)
	}
	text := log.String()
	if strings.Count(text, "\n") != 1 || !strings.Contains(text, "level=WARN") || !strings.Contains(text, "--sysctl-root") ||
		!strings.Contains(text, "nf_conntrack_tcp_timeout_established") || !strings.Contains(text, "nf_conntrack_tcp_timeout_close_wait") {
		t.Errorf("it says:\n%s", text)
	}
}

func TestFlowTimeouts(t *testing.T) {
	root := fakeSysctl(t, map[string]int{"udp_timeout": 17, "tcp_timeout_close_wait": 99, "tcp_timeout_syn_sent": 5})
	got := flowTimeouts(root, config.Default().Conntrack)
	for which, want := range map[abi.FlowTimeout]time.Duration{
		abi.TimeoutTCPEstablished: 24 * time.Hour,   // configured
		abi.TimeoutTCPHalfClosed:  time.Hour,        // configured, and not as the system has it
		abi.TimeoutUDPUnanswered:  17 * time.Second, // as the system has it
		abi.TimeoutTCPOpening:     5 * time.Second,
		abi.TimeoutUDPAnswered:    0, // the programs know
	} {
		if got[which] != want {
			t.Errorf("timeout %d is %v, want %v", which, got[which], want)
		}
	}
}

// Pains A9, D7: source NAT keeps off what the node listens on.
func TestListeningPorts(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0100007F:270F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0100007F:8000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0100007F:8001 0100007F:1F90 07 00000000:00000000 00:00000000 00000000     0        0 4
`
	const udp6 = `  sl  local_address                         remote_address                        st
  12: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000
  13: 00000000000000000000000000000000:0036 00000000000000000000000001000000:0037 01 00000000:00000000
  14: 00000000000000000000000000000000:0038 00000000000000000000000000000000:0000 07 00000000:00000000
`
	var ports, want host.Ports
	for _, table := range []string{tcp, udp6} {
		if err := addListening(strings.NewReader(table), &ports); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []uint16{8080, 9999, 53, 56} {
		want.Add(p, p)
	}
	if ports != want {
		t.Error("not the ports 8080, 9999, 53 and 56")
	}
}

// The agent may have been in a container, and cleanup be on the node.
func TestCleanupFindsTheSettings(t *testing.T) {
	there := fakeSysctl(t, nil)
	if got := there.here(); got != there {
		t.Errorf("got %s, want %s", got, there)
	}
	if got := sysctl("/host/proc/sys").here(); got != "/proc/sys" {
		t.Errorf("got %s", got)
	}
}
