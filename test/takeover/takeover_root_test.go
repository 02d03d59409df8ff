// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/conntrack"
	"github.com/beeline-net/beeline/internal/kubeproxy"
)

// server is who answers at kube-proxy's ports.
type server string

const (
	beelineServer   server = "Beeline"
	kubeProxyServer server = "kube-proxy"
)

// ports waits until both of kube-proxy's ports are somebody's.
func (w *world) ports(t *testing.T, want server) {
	t.Helper()
	for _, url := range []string{"http://127.0.0.1:10249/proxyMode", "http://127.0.0.1:10256/healthz"} {
		eventually(t, time.Minute, func() error {
			client := http.Client{Timeout: patience, Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext:       func(_ context.Context, network, addr string) (net.Conn, error) { return dial(w.node.NS, network, addr) },
			}}
			r, err := client.Get(url)
			if err != nil {
				return err
			}
			defer func() { _ = r.Body.Close() }()
			got := kubeProxyServer
			if r.Header.Get("Server") == kubeproxy.Server {
				got = beelineServer
			}
			if got != want {
				return fmt.Errorf("%s is answered by %s", url, got)
			}
			return nil
		})
	}
}

// streams are connections of every kind that must not end.
func (w *world) streams() []*load {
	service := func(port uint16) string { return at(w.serviceIP(), port) }
	nodePort := func(port uint16) string { return at(w.nodeIP(), port) }
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
		connects("connects, pod to ClusterIP", w.client.NS, at(w.serviceIP(), tcpPort)),
		connects("connects, outside to NodePort", w.outside, at(w.nodeIP(), tcpNode)),
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
		ns, addr := w.client.NS, at(w.serviceIP(), tcpPort)
		if c.what == "outside" {
			ns, addr = w.outside, at(w.nodeIP(), tcpNode)
		}
		eventually(w.t, time.Minute, func() error { _, err := ask(ns, addr); return err })
	}
}

// A node is taken over from kube-proxy and given back. Streams from before go on
// through all of it until their clients end them, and no connect fails.
func TestTakeoverAndRollback(t *testing.T) {
	for _, how := range []way{{"nftables", false}, {"iptables", false}, {"nftables", true}, {"iptables", true}} {
		t.Run(how.String(), func(t *testing.T) {
			w := newWorld(t, how)
			w.startProxy()
			w.served()
			old, loops := w.streams(), w.loops()
			time.Sleep(500 * time.Millisecond)

			w.startAgent("--takeover", "wait")
			w.phase(time.Minute, "waiting", "kube-proxy serves")
			if out, err := w.beeline("takeover"); err != nil {
				t.Fatal(err, out)
			}
			w.phase(time.Minute, "sharing", "still runs")
			w.ports(t, kubeProxyServer)
			w.proxy.end()
			w.phase(time.Minute, "sharing", "to end")

			// kube-proxy does not know this any more: new connections are Beeline's.
			w.publish("here", "there", "new")
			for _, l := range loops {
				eventually(t, time.Minute, func() error {
					if l.by("new") == 0 {
						return fmt.Errorf("%s: none to the new endpoint", l.what)
					}
					return nil
				})
			}
			eventually(t, time.Minute, func() error {
				if n := w.translated(); n != len(old) {
					return fmt.Errorf("netfilter translates %d flows, want the %d streams", n, len(old))
				}
				return nil
			})
			for _, l := range old {
				l.finish(t, true, 2) // programs came, and changed
			}
			w.phase(time.Minute, "alone", "were removed")
			if p := w.rules(); p.Any() {
				t.Errorf("left: %v", p)
			}
			w.ports(t, beelineServer)

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
	w.phase(time.Minute, "alone", "to be started")
	w.startProxy()
	w.phase(time.Minute, "returning", "flows to end")
	time.Sleep(2 * time.Second)
	for _, l := range young {
		l.finish(t, true, 1) // programs changed
	}
	// Sockets are given two minutes; that they are quiet now the test knows.
	if out, err := w.beeline("takeover", "--rollback", "--deadline", "1s", "--wait"); err != nil {
		t.Fatal(err, out)
	}
	// It is said when it is so, and no earlier: a crash must not leave it half done.
	if left, err := filepath.Glob(filepath.Join(w.node.BPFFS, "beeline/v*/links/*")); err != nil || len(left) > 0 {
		t.Errorf("returned, and %d links are left, %v", len(left), err)
	}
	eventually(t, time.Minute, func() error {
		if !strings.Contains(w.agent.log.String(), "standing by") {
			return fmt.Errorf("the agent has not left")
		}
		return nil
	})
	w.served()
	eventually(t, time.Minute, func() error {
		if n := w.translated(); n == 0 {
			return errors.New("netfilter translates nothing on kube-proxy's node")
		}
		return nil
	})
	w.ports(t, kubeProxyServer)
}

// A kube-proxy that does not start without its ports gets them.
func TestRollbackToAKubeProxyThatInsistsOnItsPorts(t *testing.T) {
	w := newWorld(t, way{"nftables", false})
	w.startAgent("--bind-address-hard-fail")
	w.ports(t, beelineServer)
	w.served()
	if out, err := w.beeline("takeover", "--rollback"); err != nil {
		t.Fatal(err, out)
	}
	w.phase(time.Minute, "alone", "to be started")
	eventually(t, time.Minute, func() error {
		for _, port := range []uint16{10249, 10256} {
			if c, err := dial(w.node.NS, "tcp", at(netip.MustParseAddr("127.0.0.1"), port)); err == nil {
				_ = c.Close()
				return fmt.Errorf("port %d is not free", port)
			}
		}
		return nil
	})
	w.startProxy("--bind-address-hard-fail")
	w.phase(time.Minute, "returning", "to end")
	w.ports(t, kubeProxyServer)
	w.served()
}

// The annotation of the Node is followed from the first moment, in a node's first
// agent and in those after it, also while the node is kube-proxy's.
func TestNodeSays(t *testing.T) {
	w := newWorld(t, way{"nftables", false})
	w.annotate("wait")
	w.startProxy()
	w.served()
	stays := func(phase string) {
		t.Helper()
		for range 15 {
			w.phase(time.Minute, phase, "kube-proxy serves")
			time.Sleep(200 * time.Millisecond)
		}
	}
	again := func() {
		t.Helper()
		_ = w.agent.cmd.Process.Kill()
		_ = w.agent.cmd.Wait()
		w.launchAgent()
	}
	w.startAgent()
	stays("waiting")
	if out, err := w.beeline("status"); err != nil || !strings.Contains(out, "Takeover:  waiting since ") {
		t.Errorf("status: %v\n%s", err, out)
	}
	again()
	stays("waiting")
	w.ports(t, kubeProxyServer)

	w.annotate("takeover")
	w.phase(time.Minute, "sharing", "still runs")
	// A kube-proxy that comes back, in another version say, has its ports again.
	w.proxy.end()
	w.phase(time.Minute, "sharing", "whether it comes back")
	w.startProxy()
	w.phase(time.Minute, "sharing", "still runs")
	w.ports(t, kubeProxyServer)

	w.annotate("rollback")
	w.phase(time.Minute, "returning", "to end")
	again()
	w.phase(time.Minute, "returning", "to end")
	if out, err := w.beeline("takeover", "--rollback", "--deadline", "1s", "--wait"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := w.beeline("takeover", "--forget"); err != nil {
		t.Fatal(err, out)
	}
	stays("returned")
	again()
	stays("returned")
	if out, err := w.beeline("status"); err == nil || !strings.Contains(err.Error()+out, "given back") {
		t.Errorf("status: %v\n%s", err, out)
	}
	w.served()

	w.annotate("takeover")
	w.phase(time.Minute, "sharing", "still runs")
	w.served()
}
