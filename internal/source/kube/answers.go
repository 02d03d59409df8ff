// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

const (
	// failLimit is how many answers in a row may say that a server is not well
	// before another one is asked. There is always a request or two in a second
	// while something fails.
	failLimit = 3
	// patience is how long a server may take to begin with an answer, if there
	// are others. An API server gives up on a request after a minute.
	patience = 30 * time.Second
	// listPatience is how many times longer it may take for a list: an overloaded
	// server is slow with large ones, and answers with 504 after a minute itself.
	listPatience = 3
)

// answers looks at what servers say. One whose answers are errors of its own, or
// that accepts requests and does not answer, is as bad as one that cannot be
// reached: it loses its store, or hangs.
type answers struct {
	servers *Servers
	next    http.RoundTripper
}

// WrappedRoundTripper lets client-go look through.
func (a *answers) WrappedRoundTripper() http.RoundTripper { return a.next }

// RoundTrip implements http.RoundTripper. Only what is read counts: what is
// written (Events) can fail because of somebody's admission webhook.
func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		return a.next.RoundTrip(r)
	}
	ctx, cancel := context.WithCancel(r.Context())
	var conn atomic.Pointer[serverConn]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { conn.Store(serverOf(info.Conn)) },
	})
	patience := a.servers.patience
	if watch := r.URL.Query().Get("watch"); watch != "true" && watch != "1" {
		patience *= listPatience
	}
	late := time.AfterFunc(patience, func() {
		if a.servers.badAnswer(conn.Load(), failLimit) {
			cancel()
		}
	})
	resp, err := a.next.RoundTrip(r.WithContext(ctx))
	late.Stop()
	if err != nil {
		cancel()
		return resp, err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		a.servers.badAnswer(conn.Load(), 1)
	} else {
		a.servers.goodAnswer(conn.Load())
	}
	resp.Body = &body{resp.Body, cancel}
	return resp, nil
}

// body gives up what belongs to a request when its answer has been read.
type body struct {
	io.ReadCloser
	done context.CancelFunc
}

func (b *body) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// serverOf finds our connection below TLS; nil if it is none of ours.
func serverOf(c net.Conn) *serverConn {
	if below, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = below.NetConn()
	}
	conn, _ := c.(*serverConn)
	return conn
}

func (s *Servers) goodAnswer(c *serverConn) {
	if c == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failing, c.addr)
}

// badAnswer notes bad answers. Once they are too many, and there is another
// server, the connections to this one are ended, and the next ones go elsewhere;
// it reports whether that is so.
func (s *Servers) badAnswer(c *serverConn, n int) bool {
	if c == nil {
		return false
	}
	s.mu.Lock()
	s.failing[c.addr] += n
	over := s.failing[c.addr] >= failLimit && s.others(c.addr)
	var ending []*serverConn
	if over {
		delete(s.failing, c.addr)
		s.clock++
		s.avoided[c.addr] = s.clock
		for conn := range s.open[c.addr] {
			ending = append(ending, conn)
		}
	}
	s.mu.Unlock()
	if over {
		s.log.Warn("an API server is not well; asking another", "address", c.addr)
	}
	for _, conn := range ending {
		_ = conn.Close()
	}
	return over
}

// others reports whether there is a server beside that one.
func (s *Servers) others(addr string) bool {
	for _, a := range s.learned {
		if a.String() != addr {
			return true
		}
	}
	return s.configured != addr
}
