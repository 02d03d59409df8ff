// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/conntrack"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/kubeproxy"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/takeover"
)

// How often a handover is looked at: while one is under way, and when it is quiet.
const (
	handoverPeriod = time.Second
	alonePeriod    = 10 * time.Second
)

// quietTime is how long the UDP sockets of a rollback have to be silent, in the
// way of their flows' own timeout (UDP_STREAM_TIMEOUT_NS in bpf/lib/udp_peer.h).
const quietTime = 120 * time.Second

// errReturned ends an agent whose node is kube-proxy's again.
var errReturned = errors.New("the node was given back to kube-proxy")

// handover takes the node over from a kube-proxy and gives it back. The loop
// owns it; it decides nothing, package takeover does.
type handover struct {
	log  *slog.Logger
	pins datapath.Pins
	// setting is the wish of the configuration, node that of the Node object;
	// empty if it has none, nil if it was never read.
	setting   takeover.Wish
	node      *string
	kubeProxy kubeproxy.Detector
	// translated asks netfilter for its flows.
	translated func() ([]conntrack.Flow, error)
	// rules: kube-proxy had rules when that was looked at last; counted: this agent
	// has counted netfilter's flows.
	rules, counted bool
	// ran: kube-proxy was seen to run, by this agent or an earlier one. ports are those that kube-proxy
	// needs then; nil: nobody has any yet.
	ran    bool
	ports  *ports
	state  takeover.State
	looked time.Time
	// traces are those of earlier agents.
	traces traces

	// These are set once the kernel is open.
	dp       *datapath.Datapath
	tables   *maps.Tables
	packet   *packetPath
	selfTest *selfTest

	inForce datapath.Handover
	// kept is what table Kept holds.
	kept map[abi.FlowTuple]bool
	// served are the Service ports behind all frontends since the agent started,
	// also of Services that are gone: their flows may live.
	served map[plan.FrontendKey]plan.Port
	// datagrams is the last count of datagrams of older flows, and when it grew.
	datagrams uint64
	grew      time.Time
}

// remembered is what a handover leaves to the next agent.
type remembered struct {
	takeover.State
	// Node is handover.node, Ran handover.ran.
	Node *string `json:"node,omitempty"`
	Ran  bool    `json:"ran,omitempty"`
}

// newHandover looks at the node before anything is attached. What its Node object
// wants is known only if an earlier agent has read it; otherwise decide follows.
func newHandover(ctx context.Context, pins datapath.Pins, o Options) *handover {
	log, theirs := o.Log, o.Config.KubeProxy
	h := &handover{
		log: log, pins: pins, setting: o.Config.Takeover, served: map[plan.FrontendKey]plan.Port{}, grew: time.Now(),
		translated: conntrack.Translated,
		kubeProxy:  kubeproxy.Detector{Metrics: []netip.AddrPort{theirs.Metrics}, Health: []netip.AddrPort{theirs.Health}},
	}
	var err error
	if h.traces, err = readTraces(pins); err != nil {
		log.Warn("cleanup will not know what earlier agents have changed", "err", err)
	}
	text, err := pins.ReadNote(datapath.NoteState)
	var before remembered
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &before)
	}
	if err != nil {
		log.Warn("what became of an earlier takeover is not known", "err", err)
	}
	h.state, h.node, h.ran = before.State, before.Node, before.Ran
	if o.Config.Manifests != "" {
		h.node = new(string) // there is no Node
	}
	next, _ := takeover.Next(h.state, h.request(), h.look(ctx), time.Now())
	if next.Phase == takeover.Returned && h.state.Phase != takeover.Returned {
		next.Phase = takeover.Returning // it has not left yet
	}
	h.enter(next)
	h.inForce = inForce(next.Phase)
	return h
}

// inForce is what a phase means for the programs.
func inForce(p takeover.Phase) datapath.Handover {
	return datapath.Handover{KeepFlows: p.KeepsForeign(), RefuseNew: p.RefusesNew()}
}

// attach gives it the kernel.
func (h *handover) attach(dp *datapath.Datapath, tables *maps.Tables, packet *packetPath, probe *selfTest, ports *ports) error {
	h.dp, h.tables, h.packet, h.selfTest, h.ports = dp, tables, packet, probe, ports
	h.kept = map[abi.FlowTuple]bool{}
	probe.off.Store(h.inForce.RefuseNew)
	h.enter(h.state)
	h.note()
	if err := h.traces.write(h.pins); err != nil {
		h.log.Warn("cleanup will not know what the agent has changed", "err", err)
	}
	return tables.Kept.Each(func(t abi.FlowTuple, _ uint32) bool { h.kept[t] = true; return true })
}

// request is what is wanted: by who works on this node, by the Node object, or
// by the configuration, in this order.
func (h *handover) request() takeover.Request {
	text, err := h.pins.ReadNote(datapath.NoteWish)
	if err == nil && len(text) > 0 {
		var r takeover.Request
		if err = json.Unmarshal(text, &r); err == nil && r.Wish != "" {
			return r
		}
	}
	if err != nil {
		h.log.Warn("what `beeline takeover` was told last is not known", "err", err)
	}
	switch {
	case h.node == nil:
		return takeover.Request{}
	case *h.node != "":
		return takeover.Request{Wish: takeover.Wish(*h.node)}
	}
	return takeover.Request{Wish: h.setting}
}

// look finds out what there is on the node.
func (h *handover) look(ctx context.Context) (seen takeover.Seen) {
	h.looked = time.Now()
	there, err := kubeproxy.Find()
	if err != nil {
		h.log.Warn("kube-proxy's rules cannot be looked for", "err", err)
		return takeover.Seen{Unknown: fmt.Errorf("kube-proxy's rules cannot be looked for: %w", err)}
	}
	seen.Rules, seen.Irremovable = there.Any(), there.Removable()
	h.rules = seen.Rules
	wish := h.request().Wish
	if seen.Rules || h.state.Phase == "" || wish != takeover.Serve && wish != takeover.Takeover {
		seen.How, seen.Running = h.kubeProxy.Running(ctx, there)
	}
	h.ran = h.ran || seen.Running
	return seen
}

// decide follows what the Node object wants if the agent had to begin before it
// could read it. It is called before anything is written.
func (h *handover) decide(ctx context.Context, services []plan.Service) error {
	if !h.state.Undecided {
		return nil
	}
	h.learn(services)
	next, action := takeover.Next(h.state, h.request(), h.look(ctx), time.Now())
	if action != takeover.Nothing {
		return nil // there is time for that later
	}
	if err := h.apply(inForce(next.Phase)); err != nil {
		return err
	}
	h.enter(next)
	h.note()
	return nil
}

// due reports whether it is time to look again.
func (h *handover) due() bool {
	period := handoverPeriod
	if h.quiet(h.request().Wish, time.Now()) {
		period = alonePeriod
	}
	return time.Since(h.looked) >= period
}

// quiet reports whether nothing is under way: the node is Beeline's, or all that
// is left are rules that nobody uses and that are to stay.
func (h *handover) quiet(wish takeover.Wish, now time.Time) bool {
	switch h.state.Phase {
	case takeover.Alone:
		return wish != takeover.Rollback
	case takeover.Sharing:
		return wish == takeover.Serve && h.rules && h.counted && h.state.Flows == 0 && h.state.Stopped(now)
	}
	return false
}

// step goes on with the handover. plans returns those in force.
func (h *handover) step(ctx context.Context, plans func() []plan.Service) error {
	if !h.due() {
		return nil
	}
	seen := h.look(ctx)
	var services []plan.Service
	if h.state.Phase != takeover.Alone || h.request().Wish == takeover.Rollback || !h.packet.there() {
		services = plans() // tens of thousands, for which clients' changes would wait
	}
	h.learn(services)
	if err := h.count(&seen, services); err != nil {
		return err
	}
	next, action := takeover.Next(h.state, h.request(), seen, time.Now())
	if next.Phase != h.state.Phase {
		h.log.Info("takeover", "from", h.state.Phase, "to", next.Phase, "why", next.Why)
	}
	if action == takeover.RemoveRules {
		left, err := kubeproxy.Remove()
		if err != nil {
			return err
		}
		h.log.Info("kube-proxy's rules were removed", "left", left)
	}
	if action == takeover.Leave {
		h.state = next // noted once Beeline has left, so that a crash on the way is no end
		return errReturned
	}
	if err := h.apply(inForce(next.Phase)); err != nil {
		return err
	}
	if !next.Phase.KeepsForeign() {
		if err := h.keep(nil); err != nil {
			return err
		}
	}
	h.enter(next)
	h.note()
	return nil
}

// count fills in what flows there are.
func (h *handover) count(seen *takeover.Seen, services []plan.Service) error {
	var err error
	if h.state.Phase == takeover.Sharing {
		if seen.Foreign, err = h.follow(seen.Running); err != nil {
			return err
		}
		seen.Counted, h.counted = true, true
	}
	if !h.packet.there() {
		seen.Unserved = unserved(services)
	}
	if h.request().Wish != takeover.Rollback {
		return nil
	}
	if seen.Covered, err = covered(services); err != nil {
		return err
	}
	if seen.Own, err = liveFlows(h.dp); err != nil {
		return err
	}
	counters, err := h.tables.Counters()
	if n := counters[abi.CounterHandedBack]; n != h.datagrams {
		h.datagrams, h.grew = n, time.Now()
	}
	seen.Datagrams = time.Since(h.grew) < quietTime
	return err
}

// apply replaces the programs if they have to be others. What netfilter has is
// noted before Beeline begins to take flows, and what came meanwhile after it.
func (h *handover) apply(want datapath.Handover) error {
	if want == h.inForce {
		return nil
	}
	if want.KeepFlows {
		if err := h.noteFlows(); err != nil {
			return err
		}
	}
	if want.RefuseNew {
		h.grew = time.Now()
	}
	h.selfTest.off.Store(want.RefuseNew || h.inForce.RefuseNew) // until it is so
	err := h.dp.SetHandover(want)
	if h.packet.there() {
		err = errors.Join(err, h.packet.devices.SetHandover(want))
	}
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	h.inForce = want
	h.selfTest.off.Store(want.RefuseNew)
	if want.KeepFlows {
		return h.noteFlows()
	}
	return nil
}

// noteFlows notes what netfilter has. That it cannot be told holds a takeover as
// long as kube-proxy's rules serve. Who wants to be served at once, or has no
// rules, is worse off with nobody who begins flows.
func (h *handover) noteFlows() error {
	_, err := h.follow(true)
	if err == nil || h.rules && h.request().Wish != takeover.Serve {
		return err
	}
	h.log.Warn("flows that netfilter translates are not known: serving without; UDP flows may change their backend", "err", err)
	return nil
}

// begin is called around the first plans being written, from which on Beeline
// takes flows.
func (h *handover) begin(services []plan.Service) error {
	if !h.inForce.KeepFlows {
		return nil
	}
	h.learn(services)
	_, err := h.follow(true)
	return err
}

// learn remembers where Services are reached.
func (h *handover) learn(services []plan.Service) {
	if h.state.Phase == takeover.Alone {
		clear(h.served)
		return
	}
	for _, s := range services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				h.served[f.FrontendKey] = p
			}
		}
	}
}

// follow brings the table of kept flows in step with netfilter's, and returns
// how many flows to Services netfilter has. If no kube-proxy does, it ends UDP
// flows whose backend is gone (kube-proxy: pkg/proxy/conntrack).
func (h *handover) follow(kubeProxy bool) (int, error) {
	flows, err := h.translated()
	if err != nil {
		return 0, err
	}
	keep := map[abi.FlowTuple]bool{}
	n := 0
	for _, f := range flows {
		port, ok := h.serviceOf(f)
		if !ok || f.Over {
			continue
		}
		if f.Protocol == model.UDP && !kubeProxy && !hasBackend(port, f.Reply.Src) {
			if err := conntrack.Forget(f); err != nil {
				return 0, err
			}
			continue
		}
		n++
		for _, t := range tuplesOf(f) {
			keep[t] = true
		}
	}
	return n, h.keep(keep)
}

// serviceOf finds the Service port that a flow of netfilter's asked for.
func (h *handover) serviceOf(f conntrack.Flow) (plan.Port, bool) {
	key := plan.FrontendKey{Addr: f.Request.Dst.Addr(), Port: f.Request.Dst.Port(), Protocol: f.Protocol}
	if p, ok := h.served[key]; ok {
		return p, true
	}
	key.Addr = netip.IPv4Unspecified()
	if f.Request.Dst.Addr().Is6() {
		key.Addr = netip.IPv6Unspecified()
	}
	p, ok := h.served[key]
	return p, ok
}

func hasBackend(p plan.Port, at netip.AddrPort) bool {
	return slices.ContainsFunc(p.Backends, func(b plan.Backend) bool { return b.Addr == at && b.State != plan.Draining })
}

// tuplesOf are those by which the programs know a flow of netfilter's (ADR 0016).
func tuplesOf(f conntrack.Flow) (all []abi.FlowTuple) {
	proto := uint8(f.Protocol)
	if f.Protocol == model.UDP || f.Opening {
		all = append(all,
			abi.NewFlowTuple(proto, f.Request.Src, f.Request.Dst),
			abi.NewFlowTuple(proto, netip.AddrPortFrom(netip.Addr{}, f.Request.Src.Port()), f.Request.Dst))
	}
	if f.Protocol == model.UDP || f.SourceNAT() {
		all = append(all, abi.NewFlowTuple(proto, f.Reply.Src, f.Reply.Dst))
	}
	return all
}

// keep makes the table hold these and no others. One that does not fit is
// treated as new when its next packet comes.
func (h *handover) keep(want map[abi.FlowTuple]bool) error {
	for t := range h.kept {
		if want[t] {
			continue
		}
		if err := h.tables.Kept.Delete(t); err != nil {
			return fmt.Errorf("forget a kept flow: %w", err)
		}
		delete(h.kept, t)
	}
	for t := range want {
		if h.kept[t] {
			continue
		}
		if err := h.tables.Kept.Put(t, 1); err != nil {
			h.log.Warn("not every flow of netfilter's can be kept", "flows", len(want), "err", err)
			return nil
		}
		h.kept[t] = true
	}
	return nil
}

// unserved says what only kube-proxy's rules serve while there is no packet path.
func unserved(services []plan.Service) error {
	for _, s := range services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Kind != plan.ClusterIP {
					return fmt.Errorf("without --packet-path nobody would serve %v %v of %v to clients outside", f.Kind, f.FrontendKey, s.Name)
				}
			}
		}
	}
	return nil
}

// covered reports whether kube-proxy has rules for every ClusterIP with backends.
func covered(services []plan.Service) (bool, error) {
	has, err := kubeproxy.Destinations()
	if err != nil {
		return false, err
	}
	for _, s := range services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Kind == plan.ClusterIP && s.Name != selfTestName && len(p.Cluster.Members) > 0 && !has[f.Addr] {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// enter goes over to a state, and note leaves it for the next agent.
func (h *handover) enter(s takeover.State) {
	h.state = s
	h.ports.offer(h.claims(time.Now()))
}

// claims says what kube-proxy has its ports for: see ports.offer.
func (h *handover) claims(now time.Time) (runs, awaited, expected bool) {
	wish := h.request().Wish
	return h.ran && !h.state.Stopped(now), h.state.Awaited(wish, now), wish == takeover.Rollback
}

// watch keeps the ports right before anything was written: kube-proxy may come,
// or not come. It decides nothing.
func (h *handover) watch(ctx context.Context) {
	if h.ports == nil || !h.due() {
		return
	}
	s, _ := takeover.Next(h.state, takeover.Request{}, h.look(ctx), time.Now())
	h.enter(s)
}

func (h *handover) note() {
	text, err := json.Marshal(remembered{h.state, h.node, h.ran})
	if err == nil {
		err = h.pins.WriteNote(datapath.NoteState, text)
	}
	if err != nil {
		h.log.Warn("the state of the takeover cannot be kept", "err", err)
	}
}
