// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/health"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/metrics"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// world is an agent's loop on tables in plain memory: no kernel, no API server.
type world struct {
	t        testing.TB
	store    *snapshot.Store
	loop     *loop
	tables   *maps.Tables
	registry *prometheus.Registry

	mu     sync.Mutex
	events []string
}

func newWorld(t testing.TB, config plan.Config) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &world{
		t: t, store: snapshot.New(time.Now), registry: prometheus.NewRegistry(),
		tables: maps.NewMemory(maps.Sizes{Frontends: 512, Services: 256, Slots: 4096, Backends: 2048, Peers: 64}),
	}
	// No program runs on these tables, so none has to be waited for.
	rec := reconcile.New(w.tables, reconcile.Options{Log: log, Now: time.Now, Wait: func(context.Context) error { return nil }})
	t.Cleanup(rec.Close)
	w.loop = &loop{
		// The machine that the tests run on is not looked at for a kube-proxy.
		handover: &handover{looked: time.Now().Add(time.Hour)},
		tables:   w.tables,
		log:      log, store: w.store, planner: plan.New(config), config: config, reconcile: rec,
		selfTest:   &selfTest{backend: netip.MustParseAddrPort("127.0.0.1:9")}, // nobody connects
		apiServers: &apiServers{log: log}, drains: &drains{log: log, tables: w.tables, now: time.Now},
		hold:   newHold(0, rec, source{event: w.event}, log),
		inStep: make(chan struct{}), verified: &tablesCheck{}, verifyPeriod: time.Hour,
		report: &reporter{
			log: log, started: time.Now(),
			metrics:        metrics.New(w.registry, metrics.Build{}, metrics.Reads{}),
			readiness:      health.NewReadiness(time.Now, time.Minute, nil),
			nodePorts:      health.NewNodePorts(func() bool { return true }, nil, log),
			sourceProblems: func() []object.Problem { return nil },
			event:          w.event,
			targets:        map[model.Name][]plan.HealthCheck{},
			noLocals:       newTally(),
		},
	}
	w.loop.report.held = func() int { return len(w.loop.hold.held) }
	return w
}

// adopt makes it go on with tables that another has filled.
func (w *world) adopt(tables *maps.Tables) {
	w.tables = tables
	rec := reconcile.New(tables, reconcile.Options{Now: time.Now, Wait: func(context.Context) error { return nil }})
	w.t.Cleanup(rec.Close)
	check(w.t, rec.Restore(w.t.Context()))
	w.loop.reconcile = rec
	w.loop.hold.members, w.loop.hold.known = rec.Members, rec.Served
}

func (w *world) event(service model.Name, reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%v %s: %s", service, reason, message))
}

// told returns the Events since the last call.
func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.events
	w.events = nil
	return told
}

// synced declares everything known, and lets the loop work.
func (w *world) synced() {
	for _, part := range []snapshot.Part{snapshot.Services, snapshot.Slices, snapshot.Node} {
		w.store.Synced(part)
	}
	w.pass()
}

func (w *world) pass() { w.loop.pass(w.t.Context()) }

func (w *world) scrape(prefix string) map[string]string { return scrape(w.registry, prefix) }

// scrape returns the samples that begin with a prefix.
func scrape(registry *prometheus.Registry, prefix string) map[string]string {
	rec := httptest.NewRecorder()
	metrics.Handler(registry, slog.New(slog.DiscardHandler)).ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	samples := map[string]string{}
	for line := range strings.Lines(rec.Body.String()) {
		if sample, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(sample, prefix) {
			samples[sample] = value
		}
	}
	return samples
}

// content is what the tables mean, without the numbers of things.
func (w *world) content() []string {
	w.t.Helper()
	ports, err := inspect.Ports(w.tables)
	check(w.t, err)
	var lines []string
	for _, p := range ports {
		id := fmt.Sprintf("%s/%s:%s/%s/%s", p.Namespace, p.Name, p.Port, p.Protocol, p.Family)
		for _, f := range p.Frontends {
			lines = append(lines, fmt.Sprintf("%s frontend %+v", id, f))
		}
		for _, b := range p.Backends {
			lines = append(lines, fmt.Sprintf("%s backend %s %s local %v %v", id, b.Address, b.State, b.Local, b.Sets))
		}
		for name, s := range map[string]inspect.Set{"cluster": p.Cluster, "local": p.Local} {
			lines = append(lines, fmt.Sprintf("%s %s of %d, or %s", id, name, len(s.Backends), s.Empty))
		}
	}
	check(w.t, w.tables.Frontends.Each(func(k abi.FrontendKey, f abi.Frontend) bool {
		if f.Service == maps.NoService {
			lines = append(lines, fmt.Sprintf("address %v flags %d", k, f.Flags))
		}
		return true
	}))
	slices.Sort(lines)
	return lines
}

func (w *world) usage() map[string]int {
	used := map[string]int{}
	for _, u := range w.loop.reconcile.Usage() {
		used[u.Table] = u.Used
	}
	return used
}

func name(n string) model.Name { return model.Name{Namespace: "ns", Name: n} }

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// service has one TCP port, 80.
func service(n, clusterIP string, edit ...func(*model.Service)) model.Service {
	s := model.Service{
		Name: name(n), UID: "uid-" + n, ClusterIPs: addrs(clusterIP),
		Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
	}
	for _, e := range edit {
		e(&s)
	}
	return s
}

// slice holds ready endpoints "10.1.0.1 here", address and node.
func slice(n string, endpoints ...string) model.EndpointSlice {
	s := model.EndpointSlice{
		Name: name(n + "-1"), Service: name(n), Family: model.IPv4,
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
	}
	for _, e := range endpoints {
		addr, node, _ := strings.Cut(e, " ")
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: netip.MustParseAddr(addr), Node: node, Ready: true, Serving: true})
	}
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
