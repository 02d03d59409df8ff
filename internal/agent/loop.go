// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/takeover"
)

// loop takes changes from the sources to the kernel. It is one goroutine and
// owns planner and reconciler.
type loop struct {
	log     *slog.Logger
	store   *snapshot.Store
	planner *plan.Planner
	// config is what the operator decided; the planner has it completed.
	config plan.Config
	// server is source.server.
	server     netip.Addr
	apiServers *apiServers
	reconcile  *reconcile.Reconciler
	tables     *maps.Tables
	// minPeriod is how long changes are collected before they are written.
	minPeriod time.Duration
	// verifyPeriod is how often everything is read back.
	verifyPeriod time.Duration
	selfTest     *selfTest
	packet       *packetPath // nil: switched off
	endings      *endings    // nil: switched off
	handover     *handover
	report       *reporter
	hold         *hold
	drains       *drains
	complete     bool // the sources have told everything once
	pruned       bool // and what they did not name is gone
	// inStep is closed once complete has been written.
	inStep   chan struct{}
	verified *tablesCheck
	// settings are configurations that came while the loop runs.
	settings <-chan settings
	// asks are questions about the plan.
	asks <-chan factsAsk
}

// devicesAgain is how often a device is tried again that could not be served.
const devicesAgain = 5 * time.Second

// settings are what the loop can change while it runs.
type settings struct {
	plan      plan.Config
	minPeriod time.Duration
	hold      time.Duration
	takeover  takeover.Wish
}

// run works until ctx ends.
func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	if !timer.Stop() {
		<-timer.C
	}
	look := time.NewTicker(l.verifyPeriod)
	defer look.Stop()
	handover := time.NewTicker(handoverPeriod)
	defer handover.Stop()
	again := time.NewTicker(devicesAgain)
	defer again.Stop()
	for {
		l.schedule(timer)
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			l.verify(ctx)
			l.look()
		case <-again.C:
			if l.packet != nil && l.packet.incomplete != "" {
				l.devices()
			}
		case <-handover.C:
			if err := l.handOver(ctx); err != nil {
				return err
			}
		case <-l.packet.wanted():
			l.devices()
		case <-l.store.Changed():
			if err := l.collect(ctx); err != nil {
				return nil
			}
			l.pass(ctx)
		case ask := <-l.asks:
			l.answer(ask)
		case s := <-l.settings:
			l.configure(ctx, s)
		case <-l.reconcile.Wake():
			l.retry(ctx)
		case <-timer.C:
			l.retry(ctx)
		}
	}
}

// schedule sets the timer to when failed or held work is due.
func (l *loop) schedule(timer *time.Timer) {
	timer.Stop()
	at := l.reconcile.NextRetry()
	if due := l.hold.due(); at.IsZero() || !due.IsZero() && due.Before(at) {
		at = due
	}
	if !at.IsZero() {
		timer.Reset(time.Until(at))
	}
}

// collect lets changes that come together be written together.
func (l *loop) collect(ctx context.Context) error {
	if l.minPeriod <= 0 || !l.complete {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(l.minPeriod):
		return nil
	}
}

// pass writes what changed. Nothing is written before the sources have told
// what they know: half a picture would take endpoints away from Services that
// work (pains A5).
func (l *loop) pass(ctx context.Context) {
	complete := l.store.HasSynced()
	if !complete && !l.store.HasRead() {
		l.log.Debug("waiting for the sources", "missing", fmt.Sprint(l.store.Unsynced()))
		return
	}
	if _, known := l.store.Network(); !known && l.packet != nil {
		l.log.Debug("waiting for the node's devices and addresses")
		return // it takes a moment; without them "in step" would not be true
	}
	p := pass{delta: l.store.Take(), start: time.Now(), synced: complete}
	if p.delta.Empty() && l.complete == complete {
		return
	}
	l.report.begins(p.delta)
	p.plans = l.plan(p.delta)
	switch {
	case !complete:
		p.plans = slices.DeleteFunc(p.plans, func(s plan.Service) bool { return !hasBackends(s) })
	case !l.complete:
		p.full = true
		p.plans = slices.AppendSeq([]plan.Service{l.selfTest.plan()}, l.planner.Services())
	}
	l.apply(ctx, p)
}

// apply writes a pass to the kernel and reports it.
func (l *loop) apply(ctx context.Context, p pass) {
	node := p.synced && (p.full || p.delta.Network || p.delta.Node || p.delta.ServiceCIDRs || p.configured)
	if node {
		l.host()
	}
	begins := !l.complete
	if begins {
		if p.synced {
			l.decide(ctx, p.plans)
		}
		l.takeFlows(p.plans) // as late as possible before new ones are ours
	}
	if p.synced && !p.released {
		p.plans = l.hold.filter(p.plans, p.full)
	}
	stats := l.reconcile.Apply(ctx, p.plans)
	l.endings.changed()
	if node {
		l.devices() // programs come to a device once they have what to go by
	}
	if begins {
		l.takeFlows(p.plans) // those that began meanwhile
	}
	first := p.synced && !l.complete
	l.complete = l.complete || first
	if l.complete && !l.pruned && l.hold.due().IsZero() {
		l.pruned = true
		l.reconcile.Prune(ctx)
	}
	if first {
		close(l.inStep)
		l.log.Info("in step", "services", len(p.plans)-1, "kernel_took", stats.Took, "writes", stats.Writes())
	}
	l.log.Debug("wrote", "services", stats.Services, "puts", stats.Puts, "deletes", stats.Deletes,
		"stores", stats.Stores, "syscalls", stats.Syscalls, "took", stats.Took)
	l.report.ends(p, l.planner, l.reconcile)
}

// look finds what no event told: other ports in use, programs taken away.
func (l *loop) look() {
	if l.packet == nil || !l.complete {
		return
	}
	if l.packet.lookAtPorts() {
		l.host()
	}
	l.devices()
}

// host brings what the packet path knows about the node itself up to date.
func (l *loop) host() {
	network, known := l.store.Network()
	if l.packet == nil || !known {
		return
	}
	l.reconcile.ApplyHost(host.New(network, l.planner.Node(), l.planner.Config(), l.packet.reserved))
}

// devices puts the packet path on the devices that there are.
func (l *loop) devices() {
	if network, known := l.store.Network(); known && l.packet.there() {
		l.report.metrics.RestoredDevices(l.packet.follow(network, droppedRanges(l.planner.Config())))
	}
}

// configure takes over a changed configuration.
func (l *loop) configure(ctx context.Context, s settings) {
	l.minPeriod, l.hold.after, l.config = s.minPeriod, s.hold, s.plan
	l.handover.setting = s.takeover
	plans := l.planner.SetConfig(completed(l.config, l.store, l.server))
	p := pass{start: time.Now(), synced: l.complete, configured: true, plans: plans}
	if l.complete { // before that, the first complete pass applies everything
		l.apply(ctx, p)
	}
}

// plan brings the plan up to date and returns what changed in it.
func (l *loop) plan(delta snapshot.Delta) []plan.Service {
	var plans []plan.Service
	if delta.Node {
		plans = l.planner.SetNode(l.store.Node())
	}
	if delta.ServiceCIDRs || slices.Contains(delta.Services, kubernetesService) {
		plans = append(plans, l.planner.SetConfig(completed(l.config, l.store, l.server))...)
	}
	for _, name := range delta.Services {
		service, endpoints := l.store.Service(name)
		if err := l.drains.set(name, service); err != nil {
			l.log.Warn("connections to endpoints that go may outlive their Service's time", "service", name, "err", err)
		}
		if name == kubernetesService {
			endpoints = l.apiServers.endpoints(service, endpoints)
		}
		plans = append(plans, l.planner.Update(name, service, endpoints)...)
	}
	return latest(plans)
}

// hasBackends tells a plan that can be applied while something could not be
// read: a Service without endpoints may have them in a file that is broken now,
// and the kernel may still know them from its good days.
func hasBackends(s plan.Service) bool {
	return slices.ContainsFunc(s.Ports, func(p plan.Port) bool { return len(p.Backends) > 0 })
}

// latest keeps the last plan of each Service: one change may touch the plan of
// another Service more than once.
func latest(plans []plan.Service) []plan.Service {
	at := make(map[model.Name]int, len(plans))
	var kept []plan.Service
	for _, p := range plans {
		if i, ok := at[p.Name]; ok {
			kept[i] = p
			continue
		}
		at[p.Name] = len(kept)
		kept = append(kept, p)
	}
	return kept
}

func (l *loop) retry(ctx context.Context) {
	if plans := l.hold.release(); plans != nil {
		l.apply(ctx, pass{start: time.Now(), synced: true, released: true, plans: plans})
	}
	p := pass{start: time.Now(), synced: l.complete}
	if stats := l.reconcile.Retry(ctx); stats.Services > 0 || stats.Writes() > 0 {
		l.report.ends(p, l.planner, l.reconcile)
	}
}
