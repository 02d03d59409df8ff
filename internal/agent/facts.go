// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/model"
)

// factsTimeout bounds how long somebody who asks is worked for: an API server
// may be asked on the way.
const factsTimeout = 20 * time.Second

// factsServer tells `beeline explain` what this agent knows of objects, on a
// socket of the network namespace that nobody but root is answered on. ADR 0017.
type factsServer struct {
	log *slog.Logger
	// from names the source for people.
	from   string
	stated func(context.Context, model.Name, func(*model.Stated) bool) ([]model.Stated, error)
	asks   chan<- factsAsk
}

// factsAsk asks the loop, which owns the planner.
type factsAsk struct {
	names []model.Name
	reply chan<- explain.Facts // has room for one
}

// answer tells what the planner knows of some Services.
func (l *loop) answer(ask factsAsk) {
	node := l.planner.Node()
	f := explain.Facts{Node: l.planner.Config().NodeName, Zone: node.Zone, PlanKnown: l.complete}
	if f.Node == "" {
		f.Node = node.Name
	}
	for _, p := range l.planner.Problems() {
		if slices.Contains(ask.names, p.Service) {
			f.Problems = append(f.Problems, p)
		}
	}
	ask.reply <- f
}

// run serves until ctx ends. That it cannot is no reason to end the agent.
func (s *factsServer) run(ctx context.Context, pins datapath.Pins) error {
	name, err := pins.SocketName()
	if err == nil {
		err = s.serve(ctx, name)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("`beeline explain` will not learn of objects from this agent", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (s *factsServer) serve(ctx context.Context, name string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if err != nil {
		return fmt.Errorf("socket for explanations: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /facts", s.facts)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: factsTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(rootOnly{l}); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *factsServer) facts(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), factsTimeout)
	defer cancel()
	f, err := s.gather(ctx, explain.ParseQuery(r.URL.Query()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f)
}

func (s *factsServer) gather(ctx context.Context, q explain.Query) (explain.Facts, error) {
	stated, err := s.stated(ctx, q.Only(), q.Wants)
	if err != nil {
		return explain.Facts{}, err
	}
	names := make([]model.Name, 0, len(stated))
	for i := range stated {
		names = append(names, stated[i].Name)
	}
	reply := make(chan explain.Facts, 1)
	select {
	case s.asks <- factsAsk{names, reply}:
	case <-ctx.Done():
		return explain.Facts{}, ctx.Err()
	}
	select {
	case f := <-reply:
		f.From, f.Stated = s.from, stated
		return f, nil
	case <-ctx.Done():
		return explain.Facts{}, ctx.Err()
	}
}

// rootOnly hangs up on everybody who is not root.
type rootOnly struct{ net.Listener }

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
