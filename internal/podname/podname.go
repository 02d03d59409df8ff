// SPDX-License-Identifier: Apache-2.0

// Package podname tells whose an address is. The kernel's tables have room for
// numbers only, and pods have names; the agent knows them and answers on a
// socket. The socket is an abstract one, named for the BPF filesystem that the
// agent uses: it needs no folder, ends with the agent, and two nodes on one
// machine, with network namespaces of their own, have one each. Only root is
// answered.
package podname

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Names are pods' names, by the address and port of their endpoints.
type Names map[netip.AddrPort]string

// socket is where the agent of a BPF filesystem answers.
func socket(bpffs string) string { return "@beeline" + filepath.Clean(bpffs) }

const (
	path        = "/pods"
	readTimeout = 5 * time.Second
)

// Serve answers until ctx ends. all is called for each question, from any
// goroutine. It returns an error if there is no socket to be had.
func Serve(ctx context.Context, bpffs string, all func() Names) error {
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "unix", socket(bpffs))
	if err != nil {
		return fmt.Errorf("socket for names of pods: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(all()) // who asked is gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: readTimeout, WriteTimeout: readTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(rootOnly{l}); ctx.Err() == nil {
		return fmt.Errorf("socket for names of pods: %w", err)
	}
	return nil
}

// rootOnly hangs up on everybody else: an abstract socket has no permissions.
type rootOnly struct{ net.Listener }

// Accept implements net.Listener.
func (r rootOnly) Accept() (net.Conn, error) {
	for {
		c, err := r.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peer(c); err == nil && uid == 0 {
			return c, nil
		}
		_ = c.Close()
	}
}

func peer(c net.Conn) (uid uint32, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// Fetch asks the agent that uses a BPF filesystem. No agent, or one in another
// network namespace, is an error.
func Fetch(ctx context.Context, bpffs string) (Names, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket(bpffs))
	}
	transport := &http.Transport{DialContext: dial}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: readTimeout}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the agent for names of pods: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	var names Names
	if err := json.NewDecoder(resp.Body).Decode(&names); err != nil {
		return nil, fmt.Errorf("ask the agent for names of pods: %w", err)
	}
	return names, nil
}
