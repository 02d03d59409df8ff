// SPDX-License-Identifier: Apache-2.0

package system

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/test/apiserver"
)

// apiServerAt is where an API server is that runs on a node.
const apiServerAt = "127.0.0.1:6443"

// control is an API server on a node, which can go away and come back.
type control struct {
	n   *node
	api *apiserver.Server
	*http.Server
}

func newControl(n *node) *control {
	n.t.Helper()
	c := &control{n: n, api: apiserver.New(n.t)}
	c.api.Put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: n.V4.String()}, {Type: corev1.NodeInternalIP, Address: n.V6.String()},
		}},
	})
	c.up()
	n.t.Cleanup(c.down)
	return c
}

func (c *control) up() {
	c.n.t.Helper()
	check(c.n.t, c.n.NS.Do(func() error {
		at, err := net.Listen("tcp", apiServerAt)
		if err != nil {
			return err
		}
		c.Server = &http.Server{Handler: c.api, ReadHeaderTimeout: time.Minute}
		go func(s *http.Server) { _ = s.Serve(at) }(c.Server)
		return nil
	}))
}

// down ends it with all its connections.
func (c *control) down() { _ = c.Close() }

// put writes manifests as they are in files.
func (c *control) put(text string) {
	c.n.t.Helper()
	for document := range strings.SplitSeq(text, "---\n") {
		var o runtime.Object = &corev1.Service{}
		if strings.Contains(document, "kind: EndpointSlice") {
			o = &discoveryv1.EndpointSlice{}
		}
		check(c.n.t, yaml.Unmarshal([]byte(document), o))
		c.api.Put(o)
	}
}

// launch starts the node's agent on it.
func (c *control) launch(args ...string) {
	c.n.exec(append([]string{"--node-name", c.n.Name, "--master", "http://" + apiServerAt, "--api-server-address-from=", "--packet-path"}, args...)...)
}

// outageVariable is how long the API server is away in TestTheAPIServerIsAway.
const outageVariable = "BEELINE_TEST_OUTAGE"

// Nothing changes for traffic while there is no API server, and when it is back
// the node is in step within 5 s. How long it was away must not matter: with
// BEELINE_TEST_OUTAGE=10m it is ten minutes.
func TestTheAPIServerIsAway(t *testing.T) {
	away := 15 * time.Second
	if text := os.Getenv(outageVariable); text != "" {
		var err error
		away, err = time.ParseDuration(text)
		check(t, err)
		t.Setenv(paceVariable, "20ms") // so long that nobody else would get a CPU
	}
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote, later := s.server(n, "local"), s.server(s.nodes[1], "remote"), s.server(s.nodes[1], "later")
	s.echo(local)
	s.echo(remote)
	c := newControl(n)
	c.put(withEcho("web", bothVIPs, local, remote))
	c.launch("--api-server-cache=")
	n.awaitLog("in step")
	n.awaitNodePorts(outside)
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	clients := s.everyClient(n, outside)

	c.down()
	gone := time.Now()
	// An endpoint comes that nobody can tell of.
	c.put(service("more", []string{"10.96.0.90", "fd00:96::90"}, later))
	n.awaitLog("nothing is heard of the API server")
	time.Sleep(away - time.Since(gone))
	n.awaitStatus(healthz, http.StatusOK, time.Second) // it serves what it knows
	c.up()
	back := time.Now()
	eventually(t, 20*time.Second, func() error {
		name, err := s.ask("tcp", "10.96.0.90:80")
		if err == nil && name != "later" {
			err = fmt.Errorf("answered by %q", name)
		}
		return err
	})
	took := time.Since(back)
	t.Logf("away for %v, in step %v after the return", back.Sub(gone).Round(time.Second), took.Round(time.Millisecond))
	if took > 5*time.Second {
		t.Errorf("in step %v after the API server's return, want 5 s at most", took)
	}
	unharmed(t, clients, 0)
}

// A disk without room, where the agent keeps what it wants to know after a reboot,
// is said once and harms nothing.
func TestTheDiskIsFull(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	c := newControl(n)
	c.put(service("web", bothVIPs, s.server(n, "a")))
	kubernetes := strings.Replace(service("kubernetes", []string{"10.96.0.1"}, s.server(n, "b")), "{name: tcp, port: 8080", "{name: tcp, port: 6443", 1)
	c.put(kubernetes)
	disk := t.TempDir()
	check(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4096"))
	t.Cleanup(func() { check(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	filler := filepath.Join(disk, "filler")
	check(t, os.WriteFile(filler, make([]byte, 4096), 0o600))
	cache := filepath.Join(disk, "api-servers.json")
	c.launch("--api-server-cache=" + cache)
	n.awaitLog("in step")
	n.awaitLog("not kept for the next boot")
	if !strings.Contains(n.log.String(), "no space left on device") {
		t.Errorf("it does not say why:\n%s", n.log)
	}
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	s.goesOn()
	n.kill()
	c.launch("--api-server-cache=" + cache)
	n.awaitLog("in step")
	s.goesOn()
	if left, err := os.ReadDir(disk); err != nil || len(left) != 1 {
		t.Errorf("%v is left on the disk, %v", left, err)
	}
	if got := strings.Count(n.log.String(), "level=ERROR"); got != 0 {
		t.Errorf("%d errors in the log:\n%s", got, n.log)
	}

	// With room, what is learnt next is kept.
	check(t, os.Remove(filler))
	c.put(strings.ReplaceAll(kubernetes, "port: 6443", "port: 7443"))
	eventually(t, 10*time.Second, func() error {
		text, err := os.ReadFile(cache)
		if err == nil && !strings.Contains(string(text), ":7443") {
			err = fmt.Errorf("kept: %s", text)
		}
		return err
	})
}
