// SPDX-License-Identifier: Apache-2.0

// Package agentsocket is how the command line asks the agent of its node: HTTP on
// a socket in the abstract namespace, which needs no folder and ends with the
// agent. Only root is answered. What is asked and told, others know. ADR 0017.
package agentsocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What an agent is asked.
const (
	// FactsPath tells what it knows of Services, as explain.Facts.
	FactsPath = "/facts"
	// PodsPath tells Names.
	PodsPath = "/pods"
	// HeldPath tells Held.
	HeldPath = "/held"
)

// Held are the updates that the agent holds, because they take most backends from
// many Services at once.
type Held struct {
	// Services are whose they are, sorted, as NAMESPACE/NAME.
	Services []string `json:"services"`
	// Until is when the first of them is applied, if it persists.
	Until time.Time `json:"until,omitzero"`
}

// Names are pods' names, by the address and port of their endpoints.
type Names map[netip.AddrPort]string

// ErrNobody says that no agent listens.
var ErrNobody = errors.New("no agent answers")

// headerTimeout is how long somebody may take to ask.
const headerTimeout = 20 * time.Second

// patience is how long an agent may take to answer who sets no limit: one that
// is stopped, or hangs, still has its socket.
const patience = 20 * time.Second

// Serve answers on the socket of a name that begins with "@", until ctx ends.
// Each question is answered in a goroutine of its own.
func Serve(ctx context.Context, name string, answers http.Handler) error {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if err != nil {
		return fmt.Errorf("socket for the command line: %w", err)
	}
	server := &http.Server{Handler: answers, ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(rootOnly{l}); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("socket for the command line: %w", err)
	}
	return nil
}

// Get asks the agent on a socket, and reads its answer into the value that `into`
// points to. ErrNobody: there is none. One that does not answer is given up after
// a while.
func Get(ctx context.Context, name, path string, q url.Values, into any) error {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", name)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path+"?"+q.Encode(), nil)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	answer, err := client.Do(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return ErrNobody
	}
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		const enough = 1000
		text, _ := io.ReadAll(io.LimitReader(answer.Body, enough))
		return fmt.Errorf("ask the agent: %s", strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	return nil
}

// rootOnly hangs up on everybody else: an abstract socket has no permissions.
type rootOnly struct{ net.Listener }

// Accept implements net.Listener.
func (l rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peerIsRoot(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

func peerIsRoot(c net.Conn) bool {
	unixConn, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && cred.Uid == 0
	})
	return err == nil && root
}
