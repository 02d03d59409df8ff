// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/apiserver"
)

const serviceCIDR = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16]}\n"

// What explain says of clients whose sockets are left alone, of addresses that no
// Service has, and of a node whose devices have tc filters: and that it happens.
func TestExplainOfOtherWays(t *testing.T) {
	s := newStage(t, 2)
	n, outside := s.nodes[0], s.nodes[1]
	n.write("web.yaml", nodePortService("web", v4VIP, s.server(n, "web")))
	n.write("range.yaml", serviceCIDR)
	sleeper := exec.Command("sleep", "600") // the pod's process, which explain finds
	check(t, lab.Start(sleeper, s.client.NS, s.client.Cgroup))
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	fromPod := []string{"--from", s.client.V4.String(), "--netns", "/run/netns/" + s.client.NS.Name}

	// asked explains a connection of the client's pod, makes it, and compares.
	asked := func(t *testing.T, to string, reason, also explain.Reason) {
		t.Helper()
		_, err := s.ask("tcp", to)
		all, _ := n.explain(append([]string{"tcp", to}, fromPod...)...)
		a := all[0]
		if a.Verdict != outcome(err) || a.Reason != reason || len(a.Disagreements) > 0 {
			t.Errorf("explain says %s, %s, want %s; the connection: %v\n%+v", a.Verdict, a.Reason, reason, err, a)
		}
		if also != "" && !slices.ContainsFunc(a.Findings, func(f explain.Finding) bool { return f.Reason == also }) {
			t.Errorf("no finding %s: %+v, unknown %v", also, a.Findings, a.Unknown)
		}
	}

	n.start("--packet-path", "--cluster-cidr", "10.244.0.0/16")
	t.Run("the sockets are balanced", func(t *testing.T) { asked(t, access[0].addr, explain.Translated, "") })
	// Somewhere a packet to nobody's address would go, were it not dropped.
	check(t, n.NS.Route("10.96.99.0/24", outside.V4.String()))
	t.Run("an address of the Service range", func(t *testing.T) { asked(t, "10.96.99.99:80", explain.UnassignedAddress, "") })
	check(t, n.stop())

	n.start("--packet-path", "--cluster-cidr", "10.244.0.0/16", "--socket-balancing", "host")
	t.Run("only the host's sockets are balanced", func(t *testing.T) {
		asked(t, access[0].addr, explain.Translated, explain.SocketsOptedOut)
	})
	check(t, n.stop())

	n.detachLinks()
	n.startWithoutTCX("--cluster-cidr", "10.244.0.0/16", "--packet-path", "--socket-balancing", "host")
	t.Run("tc filters, from a pod", func(t *testing.T) {
		asked(t, access[0].addr, explain.Translated, explain.SocketsOptedOut)
	})
	t.Run("tc filters, from outside", func(t *testing.T) {
		name, err := strange(outside, n.V4.String()+":30080")
		all, status := n.explain("tcp", n.V4.String()+":30080", "--from", outside.V4.String(), "--netns", "/none")
		a := all[0]
		if name != "web" || err != nil || status != 0 || len(a.Disagreements) > 0 || a.Paths[len(a.Paths)-1].Run == nil {
			t.Errorf("%q, %v; explain: status %d, %+v, unknown %v", name, err, status, a, a.Unknown)
		}
	})
}

// A pod that has opted out by its annotation is told from its neighbours by its
// cgroup.
func TestExplainOfAPodThatHasOptedOut(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	var api *apiserver.Server
	check(t, n.NS.Do(func() error { api = apiserver.New(t); return nil }))
	const uid = "0b5d9a0e-1111-2222-3333-444455556666"
	pod := &lab.Cgroup{Path: filepath.Join(s.client.Cgroup.Path, "pod"+uid)}
	check(t, os.Mkdir(pod.Path, 0o755))
	api.Put(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "client", UID: uid, Annotations: map[string]string{"beeline.dev/socket-balancing": "false"}},
		Spec:       corev1.PodSpec{NodeName: n.Name},
	})
	api.Put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.V4.String()}}},
	})
	decoder := scheme.Codecs.UniversalDeserializer()
	for _, text := range strings.Split(service("web", v4VIP, s.server(n, "web"))+"---\n"+serviceCIDR, "---\n") {
		o, _, err := decoder.Decode([]byte(text), nil, nil)
		check(t, err)
		api.Put(o)
	}
	kubeconfig := filepath.Join(n.manifests, "kubeconfig")
	check(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`, api.URL), 0o600))
	n.exec("--kubeconfig", kubeconfig, "--node-name", n.Name, "--packet-path", "--cluster-cidr", "10.244.0.0/16", "--socket-opt-out")
	n.awaitLog("in step")
	host, port, err := net.SplitHostPort(access[0].addr)
	check(t, err)
	for _, place := range []struct {
		cgroup *lab.Cgroup
		out    bool
	}{{s.client.Cgroup, false}, {pod, true}} {
		sleeper := exec.Command("sleep", "600") // the process that explain finds
		check(t, lab.Start(sleeper, s.client.NS, place.cgroup))
		connect := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s && cat <&3", host, port))
		var name bytes.Buffer
		connect.Stdout = &name
		check(t, lab.Start(connect, s.client.NS, place.cgroup))
		if err := connect.Wait(); err != nil || name.String() != "web" {
			t.Errorf("%v: answered by %q, %v", place, name.String(), err)
		}
		var a explain.Answer
		eventually(t, 5*time.Second, func() error {
			all, _ := n.explain("tcp", access[0].addr, "--from", s.client.V4.String(), "--netns", "/run/netns/"+s.client.NS.Name)
			a = all[0]
			found := slices.ContainsFunc(a.Findings, func(f explain.Finding) bool { return f.Reason == explain.SocketsOptedOut })
			if found != place.out {
				return fmt.Errorf("opted out %v, want %v: %+v, unknown %v", found, place.out, a.Findings, a.Unknown)
			}
			return nil
		})
		if !a.Works() || len(a.Disagreements) > 0 {
			t.Errorf("%+v", a)
		}
		check(t, sleeper.Process.Kill())
		_ = sleeper.Wait()
	}
	n.kill()
	check(t, unix.Rmdir(pod.Path))
}
