// SPDX-License-Identifier: Apache-2.0

// Package agent puts the parts together and keeps them running: a source fills
// the snapshot, the loop plans and reconciles, the datapath holds on to the
// kernel, health and metrics answer. It is the only place that knows all of
// them.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/health"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/metrics"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/link"
	"github.com/beeline-net/beeline/internal/terminate"
)

// Options are what an agent is started with.
type Options struct {
	// Config is the configuration; Loader made it and makes it again when its
	// files change.
	Config config.Loaded
	Loader *config.Loader
	Build  metrics.Build
	Log    *slog.Logger
	// Level is that of Log.
	Level *slog.LevelVar
}

// Run works as this node's service proxy until ctx ends. When it returns, the
// kernel goes on with what it was told last.
func Run(ctx context.Context, o Options) error {
	err := runOrStandBy(ctx, o)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // told to stop while something was under way
	}
	return err
}

func run(ctx context.Context, o Options, given *handover) (err error) {
	started := time.Now()
	cfg, log := o.Config.Config, o.Log
	store := snapshot.New(time.Now)
	src, err := newSource(cfg, store, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	defer func() { cancel(); err = reason(err, g.Wait()) }()
	g.Go(func() error { return src.run(ctx) }) // lists arrive while programs are loaded
	dp, err := datapath.Prepare(datapathOptions(cfg, given.inForce, log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	packet, err := newPacketPath(ctx, dp, cfg, store, src.server, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packet.close()) }()
	if err := dp.Attach(); err != nil {
		return err
	}
	tables, err := maps.New(dp.Maps())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tables.Close()) }()
	log.Info("programs attached", "cgroup", cfg.Kernel.CgroupRoot, "took", time.Since(started))

	ends := newEndings(dp, tables, cfg, log)
	drain, err := newDrains(dp, tables, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drain.close()) }()
	rec := reconcile.New(tables, reconcile.Options{Log: log, Freed: ends.removed})
	defer rec.Close()
	if err := rec.Restore(ctx); err != nil {
		return fmt.Errorf("restore from the kernel: %w", err)
	}
	probe, err := newSelfTest()
	if err != nil {
		return err
	}
	verified := &tablesCheck{}
	f := newFront(o, dp, tables, src, append(packet.checks(), probe, verified)...)
	if err := given.attach(dp, tables, packet, probe, &f.ports); err != nil {
		return err
	}
	if f.page, err = webPage(cfg, tables, store, log); err != nil {
		return err
	}
	changes := make(chan settings)
	asks := make(chan factsAsk)
	people := &peopleServer{log: log, store: store, from: src.from, stated: src.stated, asks: asks}
	l := &loop{
		log:          log,
		store:        store,
		planner:      plan.New(completed(planConfig(cfg), store, src.server)),
		config:       planConfig(cfg),
		server:       src.server,
		apiServers:   newAPIServers(src.servers, rec, log),
		hold:         newHold(cfg.Sync.MassRemovalHold, rec, src, log),
		reconcile:    rec,
		tables:       tables,
		minPeriod:    cfg.Sync.MinPeriod,
		selfTest:     probe,
		packet:       packet,
		endings:      ends,
		drains:       drain,
		handover:     given,
		settings:     changes,
		asks:         asks,
		inStep:       make(chan struct{}),
		verified:     verified,
		verifyPeriod: cfg.Sync.Period,
		report:       f.reporter(src, started),
	}
	l.report.held = func() int { return len(l.hold.held) }
	people.held = l.hold.told.Load
	f.restored(rec.Usage())

	g.Go(func() error { return l.run(ctx) })
	if packet != nil {
		g.Go(func() error { return (&link.Source{Set: store.SetNetwork, Log: log}).Run(ctx) })
	}
	if ends != nil {
		ends.tell = func(r terminate.Result) { f.metrics.EndedSockets(r.Ended, r.Missed) }
		g.Go(func() error { return ends.run(ctx, l.inStep) })
	}
	g.Go(func() error { return drain.run(ctx, l.inStep) })
	newOptOuts(dp.SetOptOuts, log).start(ctx, g, src.optOuts)
	g.Go(func() error { return probe.serve(ctx) })
	f.start(ctx, g, l.inStep, changes)
	g.Go(func() error { return people.run(ctx, datapath.NewPins(cfg.Kernel.BPFFS)) })
	return g.Wait()
}

// reason is why an agent ended: not that it was told to stop what it was doing,
// but why it was told.
func reason(err, why error) error {
	if errors.Is(err, context.Canceled) && why != nil {
		return why
	}
	return err
}

// protect asks the kernel not to choose the agent first when memory is short.
func protect(score int, log *slog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0); err != nil {
		log.Info("cannot set the OOM score", "score", score, "err", err)
	}
}

// front is what others see of the agent: health, metrics, and how it follows
// its configuration.
type front struct {
	o         Options
	all       []health.Check
	checks    *health.Checks
	readiness *health.Readiness
	nodePorts *health.NodePorts
	ports     ports
	registry  *prometheus.Registry
	metrics   *metrics.Metrics
	page      http.Handler
	// config is what the agent runs with at present.
	config atomic.Pointer[config.Config]
}

func newFront(o Options, dp *datapath.Datapath, tables *maps.Tables, src source, checks ...health.Check) *front {
	f := &front{o: o, registry: prometheus.NewRegistry()}
	f.config.Store(&o.Config.Config)
	f.all = append(checks, health.NewCheck("programs", func(context.Context) error { return dp.Check() }))
	f.checks = health.NewChecks(time.Now, health.DefaultSchedule(), o.Log, f.all...)
	f.readiness = health.NewReadiness(time.Now, 2*o.Config.Sync.Period, f.checks)
	f.nodePorts = health.NewNodePorts(func() bool { return f.readiness.Report().Healthy() }, noHealthPort(o.Config.Node.Name, src), o.Log)
	f.ports = newPorts(o, f.nodePorts)
	f.metrics = metrics.New(f.registry, o.Build, metrics.Reads{
		Events:       func() (map[string]uint64, error) { return readCounters(tables) },
		Services:     readServices(tables, o.Config.Kernel.BPFFS),
		ServiceLimit: o.Config.Metrics.ServiceLimit,
		Checks:       f.passing,
	})
	return f
}

// noHealthPort tells a Service that its health check port could not be opened,
// with kube-proxy's reason and in its words.
func noHealthPort(node string, src source) func(health.Target, health.NodePort, error) {
	return func(t health.Target, p health.NodePort, err error) {
		src.event(t.Service, noHealthCheck,
			fmt.Sprintf("node %s failed to start healthcheck %q on port %d: %v", node, t.Service, p.Port, err))
	}
}

// restored tells what an earlier agent has left in the tables.
func (f *front) restored(tables []reconcile.Usage) {
	for _, u := range tables {
		f.metrics.Restored(u.Table, u.Used)
	}
}

func readCounters(t *maps.Tables) (map[string]uint64, error) {
	values, err := t.Counters()
	if err != nil {
		return nil, err
	}
	named := make(map[string]uint64, len(values))
	for i, n := range values {
		named[abi.Counter(i).String()] = n
	}
	return named, nil
}

// passing tells of each check whether it passes.
func (f *front) passing() map[string]bool {
	all := map[string]bool{}
	for _, c := range f.all {
		all[c.Name()] = true
	}
	for _, c := range f.checks.Failing() {
		all[c.Name] = false
	}
	return all
}

func (f *front) reporter(src source, started time.Time) *reporter {
	return &reporter{
		log: f.o.Log, started: started,
		metrics: f.metrics, readiness: f.readiness, nodePorts: f.nodePorts,
		sourceProblems: src.problems,
		event:          src.event,
		targets:        map[model.Name][]plan.HealthCheck{},
		noLocals:       newTally(),
	}
}

// start lets others see and change the agent, until ctx ends.
func (f *front) start(ctx context.Context, g *errgroup.Group, inStep <-chan struct{}, changes chan<- settings) {
	g.Go(func() error { return f.run(ctx) })
	g.Go(func() error { return f.check(ctx, inStep) })
	g.Go(func() error { return slim(ctx, inStep) })
	g.Go(func() error { return f.follow(ctx, changes) })
}

// slim gives back what only the start needed, lists above all. From then on the
// heap lives long and little is thrown away: collecting it at half its size
// again, where Go waits for as much again, costs little (GOGC says otherwise).
func slim(ctx context.Context, inStep <-chan struct{}) error {
	const percent = 50
	select {
	case <-ctx.Done():
	case <-inStep:
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(percent)
		}
		debug.FreeOSMemory()
	}
	return nil
}

// run serves health and metrics until ctx ends.
func (f *front) run(ctx context.Context) error {
	cfg := f.o.Config
	status := health.Status{
		Metrics:      metrics.Handler(f.registry, f.o.Log),
		Config:       func() (string, any) { return config.APIVersion, f.config.Load().Document() },
		Profiling:    cfg.Metrics.Profiling,
		SetVerbosity: func(v int) { f.o.Level.Set(config.Logging{Verbosity: v}.Level()) },
	}
	servers := []health.Server{
		{Name: "health", Addr: cfg.Health.Bind, Gate: f.ports.health, Handler: f.readiness.Handler(health.Probed{Healthz: f.metrics.Healthz, Livez: f.metrics.Livez})},
		{Name: "metrics", Addr: cfg.Metrics.Bind, Gate: f.ports.metrics, Handler: status.Handler()},
		{Name: "debug", Addr: cfg.Debug.Bind, Handler: f.page},
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range servers {
		s.HardFail, s.Log = cfg.BindHardFail, f.o.Log
		g.Go(func() error { return s.Run(ctx) })
	}
	g.Go(func() error { return f.nodePorts.Run(ctx) })
	return g.Wait()
}

// check begins once the kernel has been told everything: before that there is
// nothing to look at, and a check that has not run counts as failed.
func (f *front) check(ctx context.Context, inStep <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-inStep:
		return f.checks.Run(ctx)
	}
}

// follow takes over what changes in the configuration files and can take
// effect in a running agent.
func (f *front) follow(ctx context.Context, changes chan<- settings) error {
	w := config.Watcher{
		Loader: f.o.Loader, Current: f.o.Config, Log: f.o.Log,
		Rejected: func(err error) {
			f.metrics.SetConfigRejected(true)
			f.o.Log.Error("the configuration stays what it was", "err", err)
		},
		Changed: func(next config.Loaded, _ []config.Change) {
			select {
			case changes <- f.adopt(next.Config):
			case <-ctx.Done():
			}
		},
	}
	return w.Run(ctx)
}

// adopt takes over what of a new configuration needs no restart, and returns
// what the loop has to know of it.
func (f *front) adopt(next config.Config) settings {
	running := f.config.Load().Adopt(next)
	f.config.Store(&running)
	waiting := config.Changes(running, next)
	f.metrics.SetConfigRejected(false)
	f.metrics.SetNeedsRestart(len(waiting))
	f.o.Log.Info("configuration changed")
	for _, c := range waiting {
		f.o.Log.Warn("a changed setting needs a restart of the agent", "setting", c.Path, "running", c.Old, "configured", c.New)
	}
	f.o.Level.Set(running.Logging.Level())
	f.readiness.SetTimeout(2 * running.Sync.Period)
	return settings{
		plan: planConfig(running), minPeriod: running.Sync.MinPeriod, hold: running.Sync.MassRemovalHold,
		takeover: running.Takeover,
	}
}
