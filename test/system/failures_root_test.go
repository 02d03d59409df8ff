// SPDX-License-Identifier: Apache-2.0

package system

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// failsWith starts an agent that cannot work, and wants it to end with one
// message that says so. What the agent before it left must go on.
func (s *stage) failsWith(n *node, cmd *exec.Cmd, parts ...string) {
	s.t.Helper()
	n.log = &logBuffer{}
	cmd.Stdout, cmd.Stderr = n.log, n.log
	check(s.t, lab.Start(cmd, n.NS, n.Cgroup))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil {
			s.t.Errorf("it ended well:\n%s", n.log)
		}
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		s.t.Fatalf("it did not end:\n%s", n.log)
	}
	var complaints []string
	for line := range strings.Lines(n.log.String()) {
		if strings.HasPrefix(line, "beeline: ") || strings.Contains(line, "level=ERROR") {
			complaints = append(complaints, strings.TrimSpace(line))
		}
	}
	if len(complaints) != 1 {
		s.t.Errorf("%d complaints, want one clear message:\n%s", len(complaints), n.log)
	}
	for _, part := range parts {
		if len(complaints) > 0 && !strings.Contains(complaints[0], part) {
			s.t.Errorf("%q lacks %q", complaints[0], part)
		}
	}
	s.goesOn()
}

// goesOn wants what worked to work.
func (s *stage) goesOn() {
	s.t.Helper()
	for _, a := range access {
		if name, err := s.ask(a.network, a.addr); err != nil || name != "a" {
			s.t.Errorf("%s: %q, %v", a.name, name, err)
		}
	}
}

// Whatever is wrong with a node, the agent says what in one message and ends,
// and what the last one has left goes on.
func TestAnAgentThatCannotWorkSaysWhy(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", bothVIPs, s.server(n, "a")))
	n.start()
	n.kill()
	folder := t.TempDir()
	check(t, os.Chmod(folder, 0o755))
	agent := func(bpffs, cgroup string) []string {
		return []string{binary, "agent", "--manifests", n.manifests, "--node-name", n.Name, "--bpffs", bpffs, "--cgroup-root", cgroup}
	}
	right := agent(n.BPFFS, n.Cgroup.Path)
	without := func(what ...string) []string { return append(append([]string{"setpriv"}, what...), right...) }
	for name, c := range map[string]struct {
		args  []string
		parts []string
	}{
		"no BPF file system":      {agent(folder, n.Cgroup.Path), []string{"is no BPF filesystem", "mount -t bpf"}},
		"no cgroup v2":            {agent(n.BPFFS, folder), []string{"not in a cgroup v2 hierarchy", "--cgroup-root"}},
		"no such cgroup":          {agent(n.BPFFS, filepath.Join(n.Cgroup.Path, "none")), []string{"cgroup root", "no such file"}},
		"as nobody":               {without("--reuid=65534", "--regid=65534", "--clear-groups"), []string{"no permission"}},
		"without any capability":  {without("--bounding-set=-all"), []string{"CAP_BPF"}},
		"without CAP_NET_ADMIN":   {without("--bounding-set=-net_admin,-sys_admin"), []string{"CAP_NET_ADMIN"}},
		"a kernel without bpf(2)": {right, []string{"kernel", "6.1"}},
		"no such folder of files": {append(agent(n.BPFFS, n.Cgroup.Path), "--manifests", filepath.Join(folder, "none")), []string{"none", "no such file"}},
	} {
		t.Run(name, func(t *testing.T) {
			was := s.t
			s.t = t
			defer func() { s.t = was }()
			cmd := exec.Command(c.args[0], c.args[1:]...)
			if strings.Contains(name, "kernel without") {
				cmd.Path = os.Args[0]
				cmd.Env = append(os.Environ(), oldKernelVariable+"="+binary)
			}
			s.failsWith(n, cmd, c.parts...)
		})
	}
}

// A limit of locked memory is no concern of kernels that account BPF's memory
// to cgroups, which all are that Beeline runs on.
func TestALimitOfLockedMemoryIsNoLimit(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", bothVIPs, s.server(n, "a")))
	n.log = &logBuffer{}
	n.agent = exec.Command("sh", "-c", `ulimit -l 64 && exec "$@"`, "sh", binary, "agent",
		"--manifests", n.manifests, "--node-name", n.Name, "--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path)
	n.agent.Stdout, n.agent.Stderr = n.log, n.log
	check(t, lab.Start(n.agent, n.NS, n.Cgroup))
	n.awaitLog("in step")
	s.goesOn()
}

// The BPF file system goes away under a running agent: that it would all end
// with the agent is told at once.
func TestTheBPFFileSystemIsUnmounted(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", bothVIPs, s.server(n, "a")))
	n.start()
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	check(t, unix.Unmount(n.BPFFS, unix.MNT_DETACH))
	body := n.awaitStatus(healthz, http.StatusServiceUnavailable, 10*time.Second)
	if !strings.Contains(body, "pin") {
		t.Errorf("healthz: %s", body)
	}
	s.goesOn()
	n.kill()
	check(t, unix.Mount("bpf", n.BPFFS, "bpf", 0, "")) // the lab's to unmount
}

// An API server that cannot be reached, does not know us, or does not let us
// read: the log says which, the node is not ready, and what worked goes on.
func TestAnAPIServerThatIsOfNoUse(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", bothVIPs, s.server(n, "a")))
	n.start()
	n.kill()
	answering := func(code int, reason string) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			refuse(w, code, reason)
		}))
		check(t, server.Listener.Close())
		check(t, n.NS.Do(func() (err error) {
			server.Listener, err = net.Listen("tcp", "127.0.0.1:0")
			return err
		}))
		server.Start()
		t.Cleanup(server.Close)
		return server.URL
	}
	for name, c := range map[string]struct{ url, says string }{
		"unreachable": {"http://127.0.0.1:1", "cannot be reached"},
		"401":         {answering(http.StatusUnauthorized, "Unauthorized"), "does not accept our credentials"},
		"403":         {answering(http.StatusForbidden, "Forbidden"), "does not let us list services"},
	} {
		t.Run(name, func(t *testing.T) {
			n.exec("--node-name", n.Name, "--master", c.url, "--api-server-cache=", "--api-server-address-from=")
			n.awaitLog(c.says)
			n.awaitStatus(healthz, http.StatusServiceUnavailable, 5*time.Second)
			s.goesOn()
			n.kill()
			if got := strings.Count(n.log.String(), "level=ERROR"); got != 1 {
				t.Errorf("%d errors in the log:\n%s", got, n.log)
			}
		})
	}
}
