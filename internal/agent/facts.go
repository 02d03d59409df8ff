// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// factsTimeout bounds how long somebody who asks is worked for: an API server
// may be asked on the way.
const factsTimeout = 20 * time.Second

// peopleServer tells the command line what this agent knows and the kernel does
// not: of objects, and whose an address is. ADR 0017.
type peopleServer struct {
	log   *slog.Logger
	store *snapshot.Store
	// from names the source for people.
	from   string
	stated func(context.Context, model.Name, func(*model.Stated) bool) ([]model.Stated, error)
	asks   chan<- factsAsk
	// held tells what updates are held; nil if nothing was yet.
	held func() *agentsocket.Held
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
func (s *peopleServer) run(ctx context.Context, pins datapath.Pins) error {
	name, err := pins.SocketName()
	if err == nil {
		mux := http.NewServeMux()
		mux.HandleFunc("GET "+agentsocket.FactsPath, s.facts)
		mux.HandleFunc("GET "+agentsocket.HeldPath, func(w http.ResponseWriter, _ *http.Request) { tell(w, s.held()) })
		mux.HandleFunc("GET "+agentsocket.PodsPath, func(w http.ResponseWriter, _ *http.Request) { tell(w, podNames(s.store)) })
		err = agentsocket.Serve(ctx, name, mux)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("the command line will learn neither of objects nor of names of pods from this agent", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (s *peopleServer) facts(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), factsTimeout)
	defer cancel()
	f, err := s.gather(ctx, explain.ParseQuery(r.URL.Query()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	tell(w, f)
}

// tell sends an answer; whoever asked may be gone.
func tell(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func (s *peopleServer) gather(ctx context.Context, q explain.Query) (explain.Facts, error) {
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
