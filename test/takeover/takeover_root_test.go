// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/conntrack"
	"github.com/beeline-net/beeline/internal/kubeproxy"
)

// streams are connections of every kind that must not end.
func (w *world) streams() []*load {
	service := func(port int) string { return fmt.Sprintf("%s:%d", clusterIP, port) }
	nodePort := func(port int) string { return fmt.Sprintf("%s:%d", w.node.V4, port) }
	return []*load{
		stream(w.t, "TCP stream, pod to ClusterIP", w.client.NS, service(tcpPort)),
		stream(w.t, "TCP stream, outside to NodePort", w.outside, nodePort(tcpNode)),
		datagrams(w.t, "UDP, pod's connected socket to ClusterIP", w.client.NS, service(udpPort), true),
		datagrams(w.t, "UDP, pod's unconnected socket to ClusterIP", w.client.NS, service(udpPort), false),
		datagrams(w.t, "UDP, outside to NodePort", w.outside, nodePort(udpNode), true),
	}
}

func (w *world) loops() []*load {
	return []*load{
		connects("connects, pod to ClusterIP", w.client.NS, fmt.Sprintf("%s:%d", clusterIP, tcpPort)),
		connects("connects, outside to NodePort", w.outside, fmt.Sprintf("%s:%d", w.node.V4, tcpNode)),
	}
}

// rules are what kube-proxy has on the node.
func (w *world) rules() (p kubeproxy.Presence) {
	w.t.Helper()
	check(w.t, w.node.NS.Do(func() (err error) {
		p, err = kubeproxy.Find()
		return err
	}))
	return p
}

// translated are the flows that netfilter translates on the node.
func (w *world) translated() (n int) {
	w.t.Helper()
	check(w.t, w.node.NS.Do(func() error {
		flows, err := conntrack.Translated()
		for _, f := range flows {
			if !f.Over {
				n++
			}
		}
		return err
	}))
	return n
}

func (w *world) served() {
	w.t.Helper()
	for _, c := range []*load{newLoad("pod"), newLoad("outside")} {
		ns, addr := w.client.NS, fmt.Sprintf("%s:%d", clusterIP, tcpPort)
		if c.what == "outside" {
			ns, addr = w.outside, fmt.Sprintf("%s:%d", w.node.V4, tcpNode)
		}
		eventually(w.t, 30*time.Second, func() error { _, err := ask(ns, addr); return err })
	}
}

// A node is taken over from kube-proxy and given back. Streams from before go on
// through all of it until their clients end them, and no connect fails.
func TestTakeoverAndRollback(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, mode)
			w.startProxy()
			w.served()
			old, loops := w.streams(), w.loops()
			time.Sleep(500 * time.Millisecond)

			w.startAgent("--takeover", "wait")
			w.phase(10*time.Second, "waiting", "kube-proxy serves")
			if out, err := w.beeline("takeover"); err != nil {
				t.Fatal(err, out)
			}
			w.phase(10*time.Second, "sharing", "still runs")
			w.proxy.end()
			w.phase(10*time.Second, "sharing", "to end")

			// kube-proxy does not know this any more: new connections are Beeline's.
			w.publish("here", "there", "new")
			for _, l := range loops {
				eventually(t, 10*time.Second, func() error {
					if l.by("new") == 0 {
						return fmt.Errorf("%s: none to the new endpoint", l.what)
					}
					return nil
				})
			}
			eventually(t, 10*time.Second, func() error {
				if n := w.translated(); n != len(old) {
					return fmt.Errorf("netfilter translates %d flows, want the %d streams", n, len(old))
				}
				return nil
			})
			for _, l := range old {
				l.finish(t, true, 2) // programs came, and changed
			}
			w.phase(30*time.Second, "alone", "were removed")
			if p := w.rules(); p.Any() {
				t.Errorf("left: %v", p)
			}

			young := w.streams()
			time.Sleep(500 * time.Millisecond)
			if n := w.translated(); n != 0 {
				t.Errorf("netfilter translates %d flows of the node that Beeline has", n)
			}
			w.rollback(t, young)
			for _, l := range loops {
				l.finish(t, false, 0)
			}
		})
	}
}

// rollback gives the node back while streams that Beeline began go on.
func (w *world) rollback(t *testing.T, young []*load) {
	t.Helper()
	if out, err := w.beeline("takeover", "--rollback"); err != nil {
		t.Fatal(err, out)
	}
	w.phase(10*time.Second, "alone", "to be started")
	w.startProxy()
	w.phase(30*time.Second, "returning", "flows to end")
	time.Sleep(2 * time.Second)
	for _, l := range young {
		l.finish(t, true, 1) // programs changed
	}
	// Sockets are given two minutes; that they are quiet now the test knows.
	if out, err := w.beeline("takeover", "--rollback", "--deadline", "1s", "--wait"); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, 10*time.Second, func() error {
		if !strings.Contains(w.agent.log.String(), "standing by") {
			return fmt.Errorf("the agent has not left")
		}
		return nil
	})
	w.served()
	if n := w.translated(); n == 0 {
		t.Error("netfilter translates nothing on kube-proxy's node")
	}
}
