// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
)

const (
	// dialTimeout bounds one attempt to reach one server.
	dialTimeout = 5 * time.Second
	// dialStagger is how long the next server waits for the one before it: a
	// server that swallows packets costs no more than this.
	dialStagger = 300 * time.Millisecond
	// silence is how long a connection with something to say may go without an
	// answer before the kernel ends it (TCP_USER_TIMEOUT and keepalive).
	silence = 15 * time.Second
)

// Servers are the addresses under which API servers can be reached, of which
// any does: whatever address a request names, it goes to the one that
// works. What TLS verifies stays the configured name, so an address that
// belongs to somebody else is of no use to him.
//
// This is what lets an agent start that is to serve the API servers' own
// ClusterIP (pains A11), and lets it live through the end of an API server.
type Servers struct {
	log   *slog.Logger
	cache serverCache
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	// configured is the address in the URL of requests; direct: learned ones
	// come before it.
	configured string
	direct     bool

	patience time.Duration // see the constant
	changed  chan struct{} // has an element if learned is not in the cache

	mu      sync.Mutex
	learned []netip.AddrPort
	works   string            // where an answer came from last
	avoided map[string]uint64 // addresses that did not work: when, in order
	clock   uint64
	open    map[string]map[*serverConn]struct{} // connections to each address
	// failing counts the answers in a row by which a server said that it cannot
	// do what was asked.
	failing map[string]int
}

// NewServers begins with what an earlier agent has learned, and makes requests
// with the given configuration go to any of the servers. cache is a file's path,
// empty for none.
func NewServers(found Found, cache string, log *slog.Logger) (*Servers, error) {
	url, _, err := rest.DefaultServerUrlFor(found.Config)
	if err != nil {
		return nil, fmt.Errorf("API server's address %q: %w", found.Host, err)
	}
	port := cmp.Or(url.Port(), map[string]string{"https": "443", "http": "80"}[url.Scheme])
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 3, Interval: silence / 3, Count: 2},
		Control:         endWhenSilent,
	}
	s := &Servers{
		log: log, cache: serverCache(cache), dial: dialer.DialContext,
		configured: net.JoinHostPort(url.Hostname(), port), direct: found.ServiceAddress,
		patience: patience, changed: make(chan struct{}, 1), avoided: map[string]uint64{},
		open: map[string]map[*serverConn]struct{}{}, failing: map[string]int{},
	}
	if s.learned, err = s.cache.read(); err != nil {
		log.Warn("going on without the API servers' addresses of the last time", "err", err)
	}
	found.Dial = s.connect
	found.Wrap(func(next http.RoundTripper) http.RoundTripper { return &answers{s, next} })
	return s, nil
}

// endWhenSilent ends a connection whose data nobody acknowledges.
func endWhenSilent(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence/time.Millisecond))
	}); e != nil {
		return e
	}
	return err
}

// Learn says where all API servers are, as the endpoints of default/kubernetes
// tell. None is no news: somebody must be there who said so.
func (s *Servers) Learn(all []netip.AddrPort) {
	all = slices.Clone(all)
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	s.mu.Lock()
	news := len(all) > 0 && !slices.Equal(all, s.learned)
	if news {
		s.learned = all
	}
	s.mu.Unlock()
	if !news {
		return
	}
	s.log.Info("API servers", "addresses", all)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Learned returns what was learned last, by this agent or by an earlier one.
func (s *Servers) Learned() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.learned)
}

// Run keeps what is learned on disk until ctx ends. A disk that does not take
// it is reported and no more: it only helps the next start.
func (s *Servers) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			if err := s.cache.write(s.Learned()); err != nil {
				s.log.Warn("the API servers' addresses are not kept for the next boot", "err", err)
			}
		}
	}
}

// connect makes the connection for a request. One that is not meant for the
// configured address is for a proxy.
func (s *Servers) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	if addr != s.configured {
		return s.dial(ctx, network, addr)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.race(ctx, network, s.order())
}

// race connects to the server that answers first; each has a start before the
// next.
func (s *Servers) race(ctx context.Context, network string, order []string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		addr string
		err  error
	}
	results := make(chan result, len(order))
	var errs []error
	next := 0
	for pending := 0; next < len(order) || pending > 0; {
		var stagger <-chan time.Time
		if next < len(order) {
			addr := order[next]
			next++
			pending++
			go func() {
				conn, err := s.dial(ctx, network, addr)
				results <- result{conn, addr, err}
			}()
			stagger = time.After(dialStagger)
		}
		select {
		case r := <-results:
			pending--
			if r.err != nil {
				s.avoid(r.addr)
				errs = append(errs, fmt.Errorf("%s: %w", r.addr, r.err))
				continue
			}
			go func() { // who comes too late
				for range pending {
					if late := <-results; late.conn != nil {
						_ = late.conn.Close()
					}
				}
			}()
			return s.opened(r.conn, r.addr), nil
		case <-stagger:
		}
	}
	return nil, errors.Join(errs...)
}

// order lists all addresses, the most promising first: where the last answer
// came from, then those that nothing is known against.
func (s *Servers) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, a := range s.learned {
		all = append(all, a.String())
	}
	all = slices.DeleteFunc(all, func(a string) bool { return a == s.configured })
	if s.direct {
		all = append(all, s.configured)
	} else {
		all = append([]string{s.configured}, all...)
	}
	slices.SortStableFunc(all, func(a, b string) int {
		if order := cmp.Compare(s.avoided[a], s.avoided[b]); order != 0 {
			return order
		}
		return boolOrder(b == s.works, a == s.works)
	})
	return all
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// avoid puts an address behind all others until it answers.
func (s *Servers) avoid(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	s.avoided[addr] = s.clock
}

func (s *Servers) answered(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.avoided, addr)
	s.works = addr
}

// refused is how soon after its begin a connection ends that TLS, or who is
// there, does not want.
const refused = dialTimeout

// opened notes a connection.
func (s *Servers) opened(c net.Conn, addr string) *serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := &serverConn{Conn: c, servers: s, addr: addr, since: time.Now()}
	if s.open[addr] == nil {
		s.open[addr] = map[*serverConn]struct{}{}
	}
	s.open[addr][conn] = struct{}{}
	return conn
}

// closed notes the end of a connection, and tells whether it was the last one to
// that address.
func (s *Servers) closed(c *serverConn) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open[c.addr], c)
	if len(s.open[c.addr]) > 0 {
		return false
	}
	delete(s.open, c.addr)
	return true
}

// serverConn is a connection to a server, and notices whether it answers: one
// that accepts connections and says nothing is as bad as one that is gone. So is
// one that says something which makes us hang up: an address of long ago may be
// somebody else's now, whom TLS does not trust. Only if another connection to it
// goes on it is a good one, of which HTTP/2 needs no second.
type serverConn struct {
	net.Conn
	servers *Servers
	addr    string
	since   time.Time
	last    atomic.Int64 // when something was read, Unix time in ns; 0: never
	ended   atomic.Bool
}

func (c *serverConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		if c.last.Swap(time.Now().UnixNano()) == 0 {
			c.servers.answered(c.addr)
		}
	}
	return n, err
}

func (c *serverConn) Close() error {
	if !c.ended.Swap(true) {
		lonely := c.servers.closed(c)
		silent := time.Since(time.Unix(0, c.last.Load())) > silence
		if silent || lonely && time.Since(c.since) < refused {
			c.servers.avoid(c.addr)
		}
	}
	return c.Conn.Close()
}
