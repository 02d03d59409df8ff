// SPDX-License-Identifier: Apache-2.0

package system

import (
	bits "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// A client is a process of its own, so that it can be where the test process is
// not: outside the cgroup of the node, say. It does the same until it is told
// to stop, and then says how it went.

// clientVariable makes this test's binary a client; its value is the job.
const clientVariable = "BEELINE_TEST_CLIENT"

// paceVariable is how often a client does something; without it a thousand times a
// second.
const paceVariable = "BEELINE_TEST_PACE"

func pace() time.Duration {
	if d, err := time.ParseDuration(os.Getenv(paceVariable)); err == nil {
		return d
	}
	return time.Millisecond
}

// job is what a client does.
type job struct {
	// Kind is "connect": a new connection a millisecond, and an answer on it;
	// "stream": one connection, on which everything comes back; "datagrams": the
	// same by UDP; "ask tcp" and "ask udp": who answers, once.
	Kind, Addr string
}

// account is what became of it.
type account struct {
	Done, Failed int
	First        string // what was wrong first
	Name         string // who answered
}

// client is a running client.
type client struct {
	t     *testing.T
	job   job
	cmd   *exec.Cmd
	stdin io.Closer
	out   *json.Decoder
}

// startClient starts a client in a namespace and a cgroup; nil is the test's.
func startClient(t *testing.T, ns *lab.Namespace, cg *lab.Cgroup, j job) *client {
	t.Helper()
	text, err := json.Marshal(j)
	check(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, lab.Start(cmd, ns, cg))
	c := &client{t, j, cmd, stdin, json.NewDecoder(stdout)}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return c
}

// finish ends the client and returns its account.
func (c *client) finish() (o account) {
	c.t.Helper()
	check(c.t, c.stdin.Close())
	check(c.t, c.out.Decode(&o))
	c.t.Logf("%s %s: %d, %d failed %s", c.job.Kind, c.job.Addr, o.Done, o.Failed, o.First)
	if o.Done == 0 {
		c.t.Errorf("%s %s: nothing was done", c.job.Kind, c.job.Addr)
	}
	return o
}

// runClient is the client's side.
func runClient(text string) int {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		return 1
	}
	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	o := map[string]func(string, <-chan struct{}) account{
		"connect": connectAgain, "stream": stream, "datagrams": datagrams,
		"ask tcp": askOnce("tcp"), "ask udp": askOnce("udp"),
	}[j.Kind](j.Addr, stop)
	if err := json.NewEncoder(os.Stdout).Encode(o); err != nil {
		return 1
	}
	return 0
}

// askAsOutsider asks from a process on a node without an agent, which nobody
// translates for: what comes back did so packet by packet.
func askAsOutsider(outside *node, network, addr string) (name string, err error) {
	outside.t.Helper()
	c := startClient(outside.t, outside.NS, outside.Cgroup, job{"ask " + network, addr})
	var o account
	check(outside.t, c.out.Decode(&o))
	if o.Failed > 0 {
		return "", errors.New(o.First)
	}
	return o.Name, nil
}

func askOnce(network string) func(string, <-chan struct{}) account {
	return func(addr string, _ <-chan struct{}) (o account) {
		name, err := ask(network, addr)
		o.Name = name
		o.note(err)
		return o
	}
}

// clientPatience is how long a client waits. A SYN that is lost is sent again
// after a second; what is tested is that none is refused or reset, and none
// is lost for good.
const clientPatience = 10 * time.Second

func connectAgain(addr string, stop <-chan struct{}) (o account) {
	tick := time.NewTicker(pace())
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return o
		case <-tick.C:
			o.note(once(addr))
		}
	}
}

func (o *account) note(err error) {
	o.Done++
	if err == nil {
		return
	}
	if o.Failed++; o.First == "" {
		o.First = time.Now().Format("15:04:05.000 ") + err.Error()
	}
}

func once(addr string) error {
	c, err := net.DialTimeout("tcp", addr, clientPatience)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(clientPatience))
	_, err = c.Read(make([]byte, 64))
	return err
}

func stream(addr string, stop <-chan struct{}) (o account) {
	c, err := net.DialTimeout("tcp", addr, clientPatience)
	if err != nil {
		o.note(err)
		return o
	}
	defer func() { _ = c.Close() }()
	for n := uint64(0); ; n++ {
		select {
		case <-stop:
			return o
		case <-time.After(pace()):
		}
		_ = c.SetDeadline(time.Now().Add(clientPatience))
		if err := back(c, n); err != nil {
			o.note(err)
			return o
		}
		o.note(nil)
	}
}

// back sends a number and wants it back.
func back(c net.Conn, n uint64) error {
	if err := bits.Write(c, bits.BigEndian, n); err != nil {
		return err
	}
	var got uint64
	if err := bits.Read(c, bits.BigEndian, &got); err != nil {
		return err
	}
	if got != n {
		return fmt.Errorf("sent %d, came back %d", n, got)
	}
	return nil
}

// datagrams sends one a millisecond; those that do not come back have failed.
func datagrams(addr string, stop <-chan struct{}) (o account) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		o.note(err)
		return o
	}
	if err := patient(c.(*net.UDPConn)); err != nil {
		o.note(err)
		return o
	}
	var came atomic.Int64
	var reading sync.WaitGroup
	reading.Go(func() {
		buf := make([]byte, 16)
		for {
			if _, err := c.Read(buf); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return
			} else if err == nil {
				came.Add(1)
			}
		}
	})
	tick := time.NewTicker(pace())
	defer tick.Stop()
	for stopped := false; !stopped; {
		select {
		case <-stop:
			stopped = true
		case <-tick.C:
			if err := bits.Write(c, bits.BigEndian, uint64(o.Done)); err != nil && o.First == "" {
				o.First = err.Error()
			}
			o.Done++
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	reading.Wait()
	_ = c.Close()
	o.Failed = o.Done - int(came.Load())
	return o
}

// patient lets a socket hold what comes while its owner does not get a CPU: what
// is lost then says nothing about the way there.
func patient(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	})
	return errors.Join(err, failed)
}

// echo serves what streams and datagrams go to, on a pod's port 9090.
func (s *stage) echo(p *lab.Pod) {
	s.t.Helper()
	for _, addr := range []netip.Addr{p.V4, p.V6} {
		at := netip.AddrPortFrom(addr, 9090).String()
		check(s.t, p.NS.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
				}
			}()
			u, err := net.ListenPacket("udp", at)
			if err != nil {
				return err
			}
			s.t.Cleanup(func() { _ = u.Close() })
			if err := patient(u.(*net.UDPConn)); err != nil {
				return err
			}
			go func() {
				buf := make([]byte, 64)
				for {
					n, from, err := u.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = u.WriteTo(buf[:n], from)
				}
			}()
			return nil
		}))
	}
}
