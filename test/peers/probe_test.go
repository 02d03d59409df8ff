// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// serve lets an actor answer, on TCP and UDP: each line and each datagram with
// who it is and whom it takes for the client; one that begins with a number is
// answered with so many bytes.
type serve struct {
	Name string
	At   []string
}

func (s *serve) run() error {
	for _, at := range s.At {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go s.answer(c)
			}
		}()
		_ = u.(*net.UDPConn).SetReadBuffer(1 << 20)
		for range 4 {
			go s.answerDatagrams(u)
		}
	}
	return nil
}

func (s *serve) says(client net.Addr, asked string) string {
	host, _, _ := net.SplitHostPort(client.String())
	says := fmt.Sprintf("%s sees %s", s.Name, host)
	size := 0
	if _, err := fmt.Sscanf(asked, "%d ", &size); err == nil && size > len(says)+2 {
		says += " " + strings.Repeat("x", size-len(says)-2)
	}
	return says + "\n"
}

func (s *serve) answer(c net.Conn) {
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, s.says(c.RemoteAddr(), line)); err != nil {
			return
		}
	}
}

func (s *serve) answerDatagrams(u net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := u.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = u.WriteTo([]byte(s.says(from, string(b[:n]))), from)
		}
	}
}

// What a client may learn, beside an answer.
const (
	refused     = "refused"
	noAnswer    = "no answer"
	unreachable = "unreachable"
	denied      = "not permitted"
)

// How to ask: UDP from a socket that is connected, which learns of ICMP errors,
// or from one that is not, which sees where answers come from.
const (
	tcp         = "tcp"
	udp         = "udp"
	unconnected = "udp unconnected"
	ping        = "ping"
)

const (
	// A SYN that meets a socket still in connect() is refused when it is sent
	// again, a second later.
	tcpPatience = 3500 * time.Millisecond
	udpPatience = 2500 * time.Millisecond
	askAgain    = 400 * time.Millisecond
)

// probe asks at an address, and tells all that it has seen, once each and in
// order.
type probe struct {
	Network string
	To      string
	Tries   int
}

func (p *probe) run() []string {
	// All at once, for some of several backends may be out of reach, and to
	// find that out takes time.
	seen := make([]string, p.Tries)
	var all sync.WaitGroup
	for i := range seen {
		all.Go(func() { seen[i] = p.once() })
	}
	all.Wait()
	return distinct(seen)
}

func distinct(seen []string) []string {
	slices.Sort(seen)
	return slices.Compact(seen)
}

func (p *probe) once() string {
	to, err := netip.ParseAddrPort(p.To)
	if err != nil {
		return err.Error()
	}
	switch p.Network {
	case ping:
		return echo(to.Addr())
	case unconnected:
		return p.unconnected(to)
	}
	if l, ok := larges[p.Network]; ok {
		return l.once(to)
	}
	c, err := open(p.Network, to)
	if err != nil {
		return what(err)
	}
	defer func() { _ = c.Close() }()
	return ask(c, p.Network)
}

// ports hands out source ports, none of them twice in a while: on a reused one,
// what a proxy remembers of the previous client is not what a probe is about.
var ports atomic.Uint32

// Linux's own range for clients (net.ipv4.ip_local_port_range).
const firstPort, lastPort = 32768, 60999

func nextPort() int { return firstPort + int(ports.Add(1)%(lastPort-firstPort)) }

func open(network string, to netip.AddrPort) (c net.Conn, err error) {
	for range 10 { // ports that somebody has
		d := net.Dialer{Timeout: tcpPatience, LocalAddr: &net.TCPAddr{Port: nextPort()}}
		if network == udp {
			d.LocalAddr = &net.UDPAddr{Port: nextPort()}
		}
		if c, err = d.Dial(network, to.String()); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return c, err
}

// ask asks on a socket that is connected; a datagram a few times.
func ask(c net.Conn, network string) string {
	deadline := time.Now().Add(tcpPatience)
	pause := tcpPatience
	if network == udp {
		deadline, pause = time.Now().Add(udpPatience), askAgain
	}
	b := make([]byte, 2048)
	for {
		_ = c.SetDeadline(time.Now().Add(min(pause, time.Until(deadline))))
		if _, err := io.WriteString(c, "who\n"); err != nil {
			return what(err)
		}
		n, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return what(err)
		}
		return strings.TrimSpace(string(b[:n]))
	}
}

func (p *probe) unconnected(to netip.AddrPort) string {
	network := "udp4" // a socket of the address's family
	if to.Addr().Is6() {
		network = "udp6"
	}
	u, err := net.ListenPacket(network, fmt.Sprintf(":%d", nextPort()))
	if err != nil {
		return what(err)
	}
	defer func() { _ = u.Close() }()
	deadline := time.Now().Add(udpPatience)
	b := make([]byte, 2048)
	for {
		_ = u.SetDeadline(time.Now().Add(askAgain))
		if _, err := u.WriteTo([]byte("who"), net.UDPAddrFromAddrPort(to)); err != nil {
			return what(err)
		}
		n, from, err := u.ReadFrom(b)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			return what(err)
		}
		says := strings.TrimSpace(string(b[:n]))
		if got := from.(*net.UDPAddr).AddrPort(); netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) != to {
			says += " and answers from " + got.String()
		}
		return says
	}
}

// what names an error as a user meets it.
func what(err error) string {
	for name, causes := range map[string][]error{
		refused:     {syscall.ECONNREFUSED},
		noAnswer:    {os.ErrDeadlineExceeded, syscall.ETIMEDOUT},
		unreachable: {syscall.EHOSTUNREACH, syscall.ENETUNREACH},
		denied:      {syscall.EPERM, syscall.EACCES},
		"reset":     {syscall.ECONNRESET, io.EOF},
	} {
		if slices.ContainsFunc(causes, func(e error) bool { return errors.Is(err, e) }) {
			return name
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return noAnswer
	}
	return err.Error()
}

// talks are an actor's sockets that stay open, by name.
type talks struct {
	mu   sync.Mutex
	open map[string]*conversation
}

type conversation struct {
	net.Conn
	network string
}

// talk asks once more on the socket of a name, which is opened if it is not;
// with Close it ends.
type talk struct {
	Name    string
	Network string
	To      string
	Close   bool
}

func (all *talks) run(t *talk) []string {
	all.mu.Lock()
	c := all.open[t.Name]
	if t.Close {
		delete(all.open, t.Name)
	}
	all.mu.Unlock()
	switch {
	case t.Close && c != nil:
		_ = c.Close()
		return nil
	case t.Close:
		return nil
	case c == nil:
		to, err := netip.ParseAddrPort(t.To)
		if err != nil {
			return []string{err.Error()}
		}
		opened, err := open(t.Network, to)
		if err != nil {
			return []string{what(err)}
		}
		c = &conversation{opened, t.Network}
		all.mu.Lock()
		all.open[t.Name] = c
		all.mu.Unlock()
	}
	return []string{ask(c, c.network)}
}
