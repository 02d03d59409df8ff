// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// resolver is an application that connects a UDP socket once and goes on with
// it, as nginx's resolver or a statsd client does. It connects anew when it is
// told of an error, never because nobody answers.
type resolver struct {
	s    *stage
	addr string
	conn net.Conn
}

func (s *stage) resolver(addr string) *resolver {
	r := &resolver{s: s, addr: addr}
	s.t.Cleanup(func() {
		if r.conn != nil {
			_ = r.conn.Close()
		}
	})
	return r
}

// ask sends one datagram and returns who answered.
func (r *resolver) ask() (name string, err error) {
	if r.conn == nil {
		err := r.s.client.NS.Do(func() (err error) {
			r.conn, err = net.Dial("udp", r.addr)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	buf := make([]byte, 64)
	n := 0
	if err = r.conn.SetDeadline(time.Now().Add(200 * time.Millisecond)); err == nil {
		if _, err = r.conn.Write([]byte("?")); err == nil {
			n, err = r.conn.Read(buf)
		}
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) && !isTimeout(err) {
		_ = r.conn.Close()
		r.conn = nil
	}
	return string(buf[:n]), err
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// Pains A1: an application with a connected UDP socket follows its Service, also
// if the agent was killed or stopped while the backend went.
func TestA1ConnectedUDPFollowsTheService(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	a, b := s.server(n, "a"), s.server(n, "b")
	vips := []string{"10.96.0.53", "fd00:96::53"}
	other := service("other", []string{"10.96.0.54", "fd00:96::54"}, a)
	n.write("other.yaml", other)
	n.write("dns.yaml", service("dns", vips, a))
	n.start()
	for _, c := range []struct {
		name   string
		change func()
	}{
		{"the agent runs", func() { n.write("dns.yaml", service("dns", vips, b)) }},
		{"the agent is stopped for a while", func() {
			check(t, n.agent.Process.Signal(unix.SIGSTOP))
			n.write("dns.yaml", service("dns", vips, b))
			time.Sleep(100 * time.Millisecond)
			check(t, n.agent.Process.Signal(unix.SIGCONT))
		}},
		{"the agent is killed before", func() {
			n.kill()
			n.write("dns.yaml", service("dns", vips, b))
			n.start()
		}},
		{"the agent is killed at the change", func() {
			n.write("dns.yaml", service("dns", vips, b))
			time.Sleep(5 * time.Millisecond)
			n.kill()
			n.start()
		}},
		{"no sockets are ended until the next agent", func() {
			n.kill()
			n.start("--terminate-udp-sockets=false")
			n.write("dns.yaml", service("dns", vips, b))
			time.Sleep(200 * time.Millisecond)
			n.kill()
			n.start()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.write("dns.yaml", service("dns", vips, a))
			var clients, bystanders []*resolver
			for _, vip := range []string{"10.96.0.53", "[fd00:96::53]", "[::ffff:10.96.0.53]"} {
				clients = append(clients, s.resolver(vip+":53"))
			}
			for _, addr := range []string{"10.96.0.54:53", "[fd00:96::54]:53", a.V4.String() + ":8080"} {
				bystanders = append(bystanders, s.resolver(addr))
			}
			for _, r := range append(clients, bystanders...) {
				eventually(t, 5*time.Second, func() error { return r.reaches("a") })
			}
			var socket []net.Conn
			for _, r := range bystanders {
				socket = append(socket, r.conn)
			}
			c.change()
			for _, r := range clients {
				n.within(time.Second, func() error { return r.reaches("b") })
			}
			for i, r := range bystanders {
				if err := r.reaches("a"); err != nil || r.conn != socket[i] {
					t.Errorf("%s: %v; the same socket: %v", r.addr, err, r.conn == socket[i])
				}
			}
		})
	}
}

// within wants something of the agent in a time, to which is added for how long
// its threads had to wait for a CPU: others may keep the machine busy.
func (n *node) within(limit time.Duration, f func() error) {
	n.t.Helper()
	delay := func() time.Duration {
		d, err := lab.RunDelay(n.agent.Process.Pid)
		check(n.t, err)
		return d
	}
	start, before := time.Now(), delay()
	for {
		err := f()
		if err == nil {
			return
		}
		waited := max(0, delay()-before)
		if took := time.Since(start); took > limit+min(waited, 10*limit) {
			n.t.Fatalf("after %v, of which others had the CPU for %v: %v", took, waited, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (r *resolver) reaches(want string) error {
	got, err := r.ask()
	if err != nil || got != want {
		return fmt.Errorf("%s: answer from %q, %v; want %q", r.addr, got, err, want)
	}
	return nil
}

// Pains A47: a DNS cache that listens on the cluster DNS's own ClusterIP, which
// is an address of the node then. As with kube-proxy, the Service comes first
// unless the address is excepted; kube-proxy's users do that by NOTRACK.
func TestA47NodeLocalDNSHasItsAddress(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	const vip = "10.96.0.10"
	check(t, n.NS.Address("lo", vip+"/32"))
	check(t, n.NS.Do(func() error {
		tcp, err := net.Listen("tcp", vip+":80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = tcp.Close() })
		go acceptAll(tcp, "cache")
		udp, err := net.ListenPacket("udp", vip+":53")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = udp.Close() })
		go answerAll(udp, "cache")
		return nil
	}))
	n.write("dns.yaml", service("kube-dns", []string{vip}, s.server(n, "a")))
	for _, c := range []struct {
		want string
		args []string
	}{{"a", nil}, {"cache", []string{"--leave-cidrs", vip + "/32"}}} {
		n.start(c.args...)
		for network, port := range map[string]string{"tcp": ":80", "udp": ":53"} {
			pod, err := s.ask(network, vip+port)
			if err != nil || pod != c.want {
				t.Errorf("%v: a pod reaches %q over %s, %v; want %q", c.args, pod, network, err, c.want)
			}
			host, err := askFrom(n.NS, network, vip+port)
			if err != nil || host != c.want {
				t.Errorf("%v: the node reaches %q over %s, %v; want %q", c.args, host, network, err, c.want)
			}
		}
		n.kill()
	}
}
