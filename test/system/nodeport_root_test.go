// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// nodePortService is service with NodePorts 30080 (TCP) and 30053 (UDP).
func nodePortService(name string, vips []string, pods ...*lab.Pod) string {
	text := service(name, vips, pods...)
	text = strings.Replace(text, "spec:\n", "spec:\n  type: NodePort\n", 1)
	text = strings.Replace(text, "port: 80, protocol: TCP", "port: 80, nodePort: 30080, protocol: TCP", 1)
	return strings.Replace(text, "port: 53, protocol: UDP", "port: 53, nodePort: 30053, protocol: UDP", 1)
}

// from asks from a namespace. The process is in the cgroup that the first node's
// agent serves.
func from(ns *lab.Namespace, network, addr string) (name string, err error) {
	err = ns.Do(func() error {
		name, err = ask(network, addr)
		return err
	})
	return name, err
}

// ask asks from where the thread is, and returns who answered.
func ask(network, addr string) (string, error) {
	c, err := net.DialTimeout(network, addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if network == "udp" {
		if _, err := io.WriteString(c, "who"); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func TestNodePortsFromOutside(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote := s.server(n, "local"), s.server(s.nodes[1], "remote")
	n.write("web.yaml", nodePortService("web", bothVIPs, local, remote))
	n.start()
	for _, a := range []struct{ network, addr string }{
		{"tcp", fmt.Sprintf("%s:30080", n.V4)}, {"tcp", fmt.Sprintf("[%s]:30080", n.V6)},
		{"udp", fmt.Sprintf("%s:30053", n.V4)}, {"udp", fmt.Sprintf("[%s]:30053", n.V6)},
	} {
		t.Run(a.network+" "+a.addr, func(t *testing.T) {
			seen := map[string]int{}
			for range 30 {
				name, err := askAsOutsider(outside, a.network, a.addr)
				check(t, err)
				seen[name]++
			}
			if seen["local"] == 0 || seen["remote"] == 0 {
				t.Errorf("30 requests went to %v, want both pods", seen)
			}
		})
	}
}

// Processes of the node itself and of its pods reach its NodePorts, too; they
// ask no device.
func TestNodePortsFromTheNodeItself(t *testing.T) {
	s := newStage(t, 2)
	n := s.nodes[0]
	n.write("web.yaml", nodePortService("web", bothVIPs, s.server(s.nodes[1], "remote")))
	n.start("--packet-path", "--nodeport-addresses=192.168.77.0/24,127.0.0.0/8,fd77::/64")
	for who, ns := range map[string]*lab.Namespace{"node": n.NS, "pod": s.client.NS} {
		for _, a := range []struct {
			network, addr string
			nodeOnly      bool
		}{
			{"tcp", fmt.Sprintf("%s:30080", n.V4), false},
			{"tcp", fmt.Sprintf("[%s]:30080", n.V6), false},
			{"udp", fmt.Sprintf("%s:30053", n.V4), false},
			{"udp", fmt.Sprintf("[%s]:30053", n.V6), false},
			{"tcp", "127.0.0.1:30080", true}, // in a pod it is the pod's
			{"udp", "127.0.0.1:30053", true},
			{"tcp", "10.244.1.1:30080", false}, // serves no NodePorts
		} {
			name, err := from(ns, a.network, a.addr)
			want := "remote"
			if strings.HasPrefix(a.addr, "10.") || a.nodeOnly && who == "pod" {
				want = ""
			}
			if name != want || want != "" && err != nil || want == "" && !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s asks %s %s: %q, %v, want %q", who, a.network, a.addr, name, err, want)
			}
		}
	}
}
