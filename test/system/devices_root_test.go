// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"

	"github.com/beeline-net/beeline/internal/lab"
)

// Programs that somebody takes off a device come back within seconds and are
// counted, whichever way they were attached; readiness tells where they cannot
// come back (pains B8, B20).
func TestProgramsTakenOffADeviceComeBack(t *testing.T) {
	t.Run("tcx", func(t *testing.T) {
		n, outside := newDevicesStage(t)
		n.start()
		testProgramsComeBack(t, n, outside, func() { n.detachLinks() }, nil)
	})
	t.Run("clsact", func(t *testing.T) {
		n, outside := newDevicesStage(t)
		n.start("--packet-path=false")
		n.kill()
		n.startWithoutTCX()
		testProgramsComeBack(t, n, outside, func() {
			n.tc("filter", "del", "dev", "eth0", "ingress")
			n.tc("filter", "del", "dev", "cni0", "egress")
		}, func() {
			n.tc("qdisc", "del", "dev", "eth0", "clsact")
			n.tc("qdisc", "add", "dev", "eth0", "ingress") // takes the place
		})
	})
}

func newDevicesStage(t *testing.T) (n, outside *node) {
	t.Helper()
	s := newStage(t, 2)
	n = s.nodes[0]
	n.write("web.yaml", nodePortService("web", bothVIPs, s.server(n, "a")))
	return n, s.nodes[1]
}

// startWithoutTCX is start on a kernel that has no tcx.
func (n *node) startWithoutTCX(args ...string) {
	n.t.Helper()
	n.log = &logBuffer{}
	n.agent = exec.Command("/proc/self/exe", append([]string{"agent", "--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path,
		"--manifests", n.manifests, "--node-name", n.Name}, args...)...)
	n.agent.Env = append(os.Environ(), noTCXVariable+"="+binary)
	n.agent.Stdout, n.agent.Stderr = n.log, n.log
	check(n.t, lab.Start(n.agent, n.NS, n.Cgroup))
	n.awaitLog("in step")
	n.awaitLog("clsact filters")
}

// detachLinks ends all of the node's links of devices.
func (n *node) detachLinks() {
	n.t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.BPFFS, "beeline/v*/devices/*"))
	check(n.t, err)
	if len(pins) == 0 {
		n.t.Skip("this kernel has no tcx")
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		check(n.t, err)
		check(n.t, errors.Join(l.(interface{ Detach() error }).Detach(), l.Close()))
	}
}

func (n *node) tc(args ...string) {
	n.t.Helper()
	_, err := lab.Output(n.t.Context(), n.NS, nil, "tc", args...)
	check(n.t, err)
}

func testProgramsComeBack(t *testing.T, n, outside *node, take, forGood func()) {
	t.Helper()
	at := fmt.Sprintf("%s:30080", n.V4)
	served := func() error {
		if name, err := askAsOutsider(outside, "tcp", at); err != nil || name != "a" {
			return fmt.Errorf("NodePort: %q, %w", name, err)
		}
		return nil
	}
	check(t, served())
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	take()
	if served() == nil {
		t.Error("the NodePort answers without programs")
	}
	eventually(t, 10*time.Second, served)
	n.awaitLog("programs were taken off a device; putting them back")
	eventually(t, 10*time.Second, func() error {
		_, body, err := n.get(status + "/metrics")
		if err != nil || !strings.Contains(body, "\nbeeline_devices_restored_total ") || strings.Contains(body, "\nbeeline_devices_restored_total 0") {
			return fmt.Errorf("the metric does not tell of it: %w", err)
		}
		return nil
	})
	n.awaitStatus(healthz, http.StatusOK, time.Second) // it was repaired before anybody had to know
	if forGood == nil {
		return
	}
	forGood()
	body := n.awaitStatus(healthz, http.StatusServiceUnavailable, 15*time.Second)
	if !strings.Contains(body, `"devices"`) || !strings.Contains(body, "device eth0") {
		t.Errorf("the answer does not say what is wrong: %s", body)
	}
	n.tc("qdisc", "del", "dev", "eth0", "ingress")
	n.awaitStatus(healthz, http.StatusOK, 15*time.Second)
	check(t, served())
}
