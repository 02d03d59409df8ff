// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
)

// patience is how long a client waits for an answer.
const patience = 5 * time.Second

// dial opens a socket in a namespace.
func dial(ns *lab.Namespace, network, addr string) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.DialTimeout(network, addr, patience)
		return err
	})
	return c, err
}

// ask makes one TCP connection and returns which pod answered.
func ask(ns *lab.Namespace, addr string) (string, error) {
	c, err := dial(ns, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	name, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(name), err
}

// load is clients at work.
type load struct {
	what string
	stop chan struct{}
	done sync.WaitGroup

	mu      sync.Mutex
	sent    int
	lost    int
	names   map[string]int
	failure error
}

func newLoad(what string) *load {
	return &load{what: what, stop: make(chan struct{}), names: map[string]int{}}
}

func (l *load) note(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	switch {
	case err == nil:
		l.names[name]++
	case l.failure == nil:
		l.failure = fmt.Errorf("after %d: %w", l.sent, err)
	}
}

// every calls f about once a period until the load ends or f fails for good, and
// then end.
func (l *load) every(period time.Duration, end func(), f func() bool) {
	l.done.Go(func() {
		defer end()
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			if !f() {
				return
			}
		}
	})
}

// connects makes connections, about a thousand a second.
func connects(what string, ns *lab.Namespace, addr string) *load {
	l := newLoad(what)
	l.every(time.Millisecond, func() {}, func() bool {
		l.note(ask(ns, addr))
		return true
	})
	return l
}

// stream is one TCP connection on which every line is answered.
func stream(t *testing.T, what string, ns *lab.Namespace, addr string) *load {
	t.Helper()
	l := newLoad(what)
	c, err := dial(ns, "tcp", addr)
	check(t, err)
	r := bufio.NewReader(c)
	name, err := r.ReadString('\n')
	check(t, err)
	n := 0
	l.every(5*time.Millisecond, func() { _ = c.Close() }, func() bool {
		n++
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c, "%d\n", n); err != nil {
			l.note("", err)
			return false
		}
		line, err := r.ReadString('\n')
		if err == nil && line != fmt.Sprintf("%d\n", n) {
			err = fmt.Errorf("sent %d, got %q", n, line)
		}
		l.note(strings.TrimSpace(name), err)
		return err == nil
	})
	return l
}

// datagrams is a UDP socket, connected or not, that sends to one place and gets
// an answer to each datagram.
func datagrams(t *testing.T, what string, ns *lab.Namespace, addr string, connected bool) *load {
	t.Helper()
	l := newLoad(what)
	to, err := net.ResolveUDPAddr("udp", addr)
	check(t, err)
	var u *net.UDPConn
	check(t, ns.Do(func() error {
		if connected {
			u, err = net.DialUDP("udp", nil, to)
		} else {
			u, err = net.ListenUDP(map[bool]string{true: "udp4", false: "udp6"}[to.IP.To4() != nil], nil)
		}
		return err
	}))
	n := 0
	l.every(5*time.Millisecond, func() { time.Sleep(late); _ = u.Close() }, func() bool {
		n++
		if connected {
			_, err = fmt.Fprint(u, n)
		} else {
			_, err = u.WriteToUDP(fmt.Append(nil, n), to)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent, l.lost = l.sent+1, l.lost+1 // until it is answered
		if err != nil && l.failure == nil {
			l.failure = fmt.Errorf("datagram %d: %w", n, err)
		}
		return true
	})
	go func() {
		buf := make([]byte, 64)
		for {
			size, from, err := u.ReadFromUDP(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.answered(string(buf[:size]), from, to, err)
		}
	}()
	return l
}

// late is how long an answer may take once the last datagram is sent.
const late = time.Second

// answered takes note of an answer to a datagram.
func (l *load) answered(text string, from, asked *net.UDPAddr, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name, _, _ := strings.Cut(text, " ")
	if err == nil && from.String() != asked.String() {
		err = fmt.Errorf("answered by %v", from)
	}
	if err == nil {
		l.lost--
		l.names[name]++
	} else if l.failure == nil {
		l.failure = fmt.Errorf("after %d: %w", l.sent, err)
	}
}

// so reports how it went so far, and what is wrong.
func (l *load) so() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("%s: %d, lost %d, by %v", l.what, l.sent, l.lost, l.names), l.failure
}

// by is how often a pod answered.
func (l *load) by(pod string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[pod]
}

// finish ends the load. oneBackend: it must have stayed with one. inFlight is how
// many datagrams may have been under way when the programs changed.
func (l *load) finish(t *testing.T, oneBackend bool, inFlight int) {
	t.Helper()
	close(l.stop)
	l.done.Wait()
	text, err := l.so()
	t.Log(text)
	if err != nil {
		t.Errorf("%s: %v", l.what, err)
	}
	if l.sent == 0 {
		t.Errorf("%s: nothing happened", l.what)
	}
	if oneBackend && len(l.names) != 1 {
		t.Errorf("%s: a stream went to %v", l.what, l.names)
	}
	if l.lost > inFlight {
		t.Errorf("%s: lost %d datagrams, %d may have been in flight", l.what, l.lost, inFlight)
	}
}
