// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

var (
	bothVIPs = []string{"10.96.0.80", "fd00:96::80"}
	v4VIP    = bothVIPs[:1]
)

// access is every way a client can reach the test's Service.
var access = []struct{ name, network, addr string }{
	{"TCP over IPv4", "tcp", "10.96.0.80:80"},
	{"TCP over IPv6", "tcp", "[fd00:96::80]:80"},
	{"UDP over IPv4", "udp", "10.96.0.80:53"},
	{"UDP over IPv6", "udp", "[fd00:96::80]:53"},
}

func TestAServiceReachesItsPods(t *testing.T) {
	s := newStage(t, 2)
	local, remote := s.server(s.nodes[0], "local"), s.server(s.nodes[1], "remote")
	if _, err := s.ask("tcp", access[0].addr); err == nil {
		t.Fatal("something answers before Beeline runs")
	}
	s.nodes[0].write("web.yaml", service("web", bothVIPs, local, remote))
	s.nodes[0].start()
	for _, a := range access {
		t.Run(a.name, func(t *testing.T) {
			seen := map[string]int{}
			for range 40 {
				name, err := s.ask(a.network, a.addr)
				check(t, err)
				seen[name]++
			}
			if seen["local"] == 0 || seen["remote"] == 0 {
				t.Errorf("40 requests went to %v, want both pods", seen)
			}
		})
	}
}

func TestWithoutEndpointsClientsAreRefused(t *testing.T) {
	s := newStage(t, 1)
	s.nodes[0].write("web.yaml", service("web", bothVIPs))
	s.nodes[0].start()
	for _, a := range access {
		start := time.Now()
		if _, err := s.ask(a.network, a.addr); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want ECONNREFUSED", a.name, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: refused after %v, want at once", a.name, took)
		}
	}
	if _, err := s.ask("tcp", "10.96.0.80:81"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("unknown port: %v, want ECONNREFUSED", err)
	}
}

// Endpoints come and go under load: no request to a pod that lives may fail,
// and none may begin at a pod whose removal the kernel already knows.
func TestEndpointChurnUnderLoad(t *testing.T) {
	s := newStage(t, 2)
	n := s.nodes[0]
	var pods []*lab.Pod
	for i := range 4 {
		pods = append(pods, s.server(s.nodes[i%2], fmt.Sprintf("pod-%d", i)))
	}
	n.write("web.yaml", service("web", bothVIPs, pods...))
	n.start()
	var loads []*load
	for _, a := range access {
		loads = append(loads, s.load(a.network, a.addr))
	}
	for range 25 {
		keep := rand.Perm(len(pods))[:1+rand.IntN(len(pods)-1)]
		var in []*lab.Pod
		out := map[string]bool{}
		for _, p := range pods {
			out[p.Name] = true
		}
		for _, i := range keep {
			in = append(in, pods[i])
			delete(out, pods[i].Name)
		}
		n.write("web.yaml", service("web", bothVIPs, in...))
		n.awaitMembers(in)
		published := time.Now()
		time.Sleep(50 * time.Millisecond)
		for name := range out {
			for i, l := range loads {
				if l.lastAt(name).After(published) {
					t.Errorf("%s: a request began at %s after its removal was published", access[i].name, name)
				}
			}
		}
	}
	for i, l := range loads {
		l.finish(t, access[i].name)
	}
}

// awaitMembers waits until every set in the node's kernel has just these pods.
func (n *node) awaitMembers(pods []*lab.Pod) {
	n.t.Helper()
	want := map[string]bool{}
	for _, p := range pods {
		want[netip.AddrPortFrom(p.V4, 8080).String()] = true
		want[netip.AddrPortFrom(p.V6, 8080).String()] = true
	}
	eventually(n.t, 5*time.Second, func() error {
		for _, p := range n.ports() {
			if p.Namespace != "default" {
				continue
			}
			members := 0
			for _, b := range p.Backends {
				if slices.Contains(p.Cluster.Backends, b.Index) && want[b.Address] {
					members++
				}
			}
			if members != len(pods) || len(p.Cluster.Backends) != len(pods) {
				return fmt.Errorf("%s %s has %d members, %d of them right, want %d", p.Port, p.Family, len(p.Cluster.Backends), members, len(pods))
			}
		}
		return nil
	})
}

func TestRestartsUnderLoad(t *testing.T) {
	for name, end := range map[string]func(*node){
		"stopped": func(n *node) {
			// One that is told to stop before it has begun to listen dies of it.
			if err := n.stop(); err != nil && err.Error() != "signal: terminated" {
				n.t.Error(err)
			}
		},
		"kill -9d": (*node).kill,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 1)
			n := s.nodes[0]
			n.write("web.yaml", service("web", bothVIPs, s.server(n, "a"), s.server(n, "b")))
			n.start()
			var loads []*load
			for _, a := range access {
				loads = append(loads, s.load(a.network, a.addr))
			}
			for range 20 {
				end(n)
				time.Sleep(10 * time.Millisecond)
				n.launch()
				time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
			}
			n.awaitLog("in step")
			for i, l := range loads {
				l.finish(t, access[i].name)
			}
		})
	}
}

// What changed while no agent ran is found out by the next one, and numbers
// stay what they were.
func TestChangesWhileNoAgentRan(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a, b := s.server(n, "a"), s.server(n, "b")
	n.write("web.yaml", service("web", v4VIP, a))
	n.write("gone.yaml", service("gone", []string{"10.96.0.81"}, a))
	n.start()
	before := index(t, n.ports(), "web", "tcp")
	check(t, n.stop())
	if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
		t.Fatalf("without an agent: %q, %v", name, err)
	}
	n.write("web.yaml", service("web", v4VIP, b))
	check(t, os.Remove(filepath.Join(n.manifests, "gone.yaml")))
	n.write("new.yaml", service("new", []string{"10.96.0.82"}, b))
	n.start()
	for addr, want := range map[string]string{"10.96.0.80:80": "b", "10.96.0.82:80": "b"} {
		if name, err := s.ask("tcp", addr); err != nil || name != want {
			t.Errorf("%s: %q, %v, want %q", addr, name, err, want)
		}
	}
	eventually(t, 2*time.Second, func() error { // its number is held for a grace period
		for _, p := range n.ports() {
			if p.Name == "gone" {
				return errors.New("the Service that is gone is still in the kernel")
			}
		}
		return nil
	})
	if after := index(t, n.ports(), "web", "tcp"); after != before {
		t.Errorf("the Service's number changed from %d to %d", before, after)
	}
}

func index(t *testing.T, ports []inspect.Port, name, port string) uint32 {
	t.Helper()
	for _, p := range ports {
		if p.Name == name && p.Port == port {
			return p.Index
		}
	}
	t.Fatalf("no Service %s:%s in the kernel", name, port)
	return 0
}

func TestBrokenManifestsCostNothing(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a, b := s.server(n, "a"), s.server(n, "b")
	good := service("web", v4VIP, a)
	n.write("web.yaml", good)
	n.start()
	for name, text := range map[string]string{
		"no YAML":           "{{{{",
		"unknown field":     strings.Replace(good, "clusterIP:", "clusterPI:", 1),
		"port out of range": strings.Replace(good, "port: 80,", "port: 80000,", 1),
		"bad address":       strings.Replace(good, a.V4.String(), "10.244.999.1", 1),
		"binary":            "\x00\xff\xfe",
		"cut off":           good[:strings.Index(good, "nodeName")],
	} {
		t.Run(name, func(t *testing.T) {
			n.log.mu.Lock()
			n.log.text.Reset()
			n.log.mu.Unlock()
			n.write("web.yaml", text)
			n.awaitLog("web.yaml")
			if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
				t.Errorf("the Service that worked answers %q, %v", name, err)
			}
		})
	}
	n.write("web.yaml", service("web", v4VIP, b))
	eventually(t, 2*time.Second, func() error {
		if name, err := s.ask("tcp", access[0].addr); err != nil || name != "b" {
			return fmt.Errorf("after the mend: %q, %v", name, err)
		}
		return nil
	})
}

// An agent that starts on a broken file must not take away what the kernel has
// from that file's good days, and must serve what it can read.
func TestStartOnABrokenManifest(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a := s.server(n, "a")
	n.write("web.yaml", service("web", v4VIP, a))
	n.start()
	check(t, n.stop())
	n.write("web.yaml", "{{{{")
	n.write("other.yaml", service("other", []string{"10.96.0.82"}, a))
	n.launch()
	n.awaitLog("web.yaml")
	eventually(t, 5*time.Second, func() error {
		name, err := s.ask("tcp", "10.96.0.82:80")
		if err != nil || name != "a" {
			return fmt.Errorf("the good file's Service: %q, %w", name, err)
		}
		return nil
	})
	if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
		t.Errorf("the broken file's Service: %q, %v, want what the kernel had", name, err)
	}
}
