// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
)

// A list that is nearly empty is what a broken API server says sooner than what
// happens to a cluster. An update is held if it takes more than half of the
// members from at least holdServices Services at once, and these are at least
// one in holdShare of all that have any.
const (
	holdServices = 10
	holdShare    = 4
)

// hold keeps back updates that remove most backends of many Services at once,
// until they have persisted for a while (pains A12). What holds on in the
// kernel meanwhile is what was there; what comes is applied at once.
type hold struct {
	log *slog.Logger
	now func() time.Time
	// after is how long an update must persist; 0 applies everything at once.
	after time.Duration
	// members tells how many places the sets of a Service have in the kernel.
	members func(model.Name) int
	// known lists the Services that are in the kernel.
	known func() []model.Name

	// event tells people about a Service, as source.event does.
	event func(service model.Name, reason, message string)

	held map[model.Name]heldPlan
	// told is what is held, for who is not the loop.
	told atomic.Pointer[agentsocket.Held]
}

// tell publishes what is held.
func (h *hold) tell() {
	said := &agentsocket.Held{Services: []string{}, Until: h.due()}
	for _, name := range slices.SortedFunc(maps.Keys(h.held), model.Name.Compare) {
		said.Services = append(said.Services, name.String())
	}
	h.told.Store(said)
}

// heldPlan is the newest plan of a Service, which is held since the first one
// that took most of its backends: neither do later ones begin its time anew, nor
// does it share that of another Service.
type heldPlan struct {
	plan  plan.Service
	since time.Time
}

// toldEvents is how many of the held Services get an Event.
const toldEvents = 10

func newHold(after time.Duration, rec *reconcile.Reconciler, src source, log *slog.Logger) *hold {
	return &hold{log: log, now: time.Now, after: after, members: rec.Members, known: rec.Served, event: src.event}
}

// filter returns the plans to apply now. all says that they are all there are,
// so that what none of them names is to be removed.
func (h *hold) filter(plans []plan.Service, all bool) []plan.Service {
	defer h.tell()
	since := map[model.Name]time.Time{}
	for _, p := range plans {
		if before, held := h.held[p.Name]; held {
			since[p.Name] = before.since
			delete(h.held, p.Name) // what was last said of it is what counts
		}
	}
	if h.after <= 0 {
		return plans
	}
	loses := func(p plan.Service) bool { return 2*membersOf(p) < h.members(p.Name) }
	losing := map[model.Name]plan.Service{}
	for _, p := range plans {
		if loses(p) {
			losing[p.Name] = p
		}
	}
	if !all && len(losing)+len(h.held) < holdServices {
		return plans // without a look at every Service: this is nearly every change
	}
	known := h.known()
	if all {
		for _, gone := range unnamed(known, plans) {
			losing[gone] = plan.Service{Name: gone}
		}
	}
	if n := len(losing) + len(h.held); len(losing) == 0 || n < holdServices || n*holdShare < len(known) {
		return plans
	}
	if h.held == nil {
		h.held = map[model.Name]heldPlan{}
	}
	now := h.now()
	for name, p := range losing {
		began, held := since[name]
		if !held {
			began = now
		}
		h.held[name] = heldPlan{p, began}
	}
	h.log.Warn("holding an update that takes most backends from many Services at once",
		"services", len(h.held), "of", len(known), "applied_at", h.due())
	for _, name := range slices.SortedFunc(maps.Keys(losing), model.Name.Compare)[:min(len(losing), toldEvents)] {
		h.event(name, "UpdateHeld", fmt.Sprintf(
			"an update takes most backends from %d Services at once; if it persists, it is applied in %v", len(h.held), h.after))
	}
	return slices.DeleteFunc(slices.Clone(plans), func(p plan.Service) bool { _, held := losing[p.Name]; return held })
}

// unnamed are the Services that no plan is about.
func unnamed(known []model.Name, plans []plan.Service) (gone []model.Name) {
	named := make(map[model.Name]bool, len(plans))
	for _, p := range plans {
		named[p.Name] = true
	}
	return slices.DeleteFunc(known, func(n model.Name) bool { return named[n] })
}

// membersOf is what hold.members will be once a plan is applied.
func membersOf(p plan.Service) (n int) {
	for _, port := range p.Ports {
		n += len(port.Cluster.Members) + len(port.Local.Members)
	}
	return n
}

// due is when the first of what is held is to be applied; zero if nothing is.
func (h *hold) due() (first time.Time) {
	for _, p := range h.held {
		if at := p.since.Add(h.after); first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// release returns what has persisted for long enough.
func (h *hold) release() (plans []plan.Service) {
	defer h.tell()
	now := h.now()
	for _, name := range slices.SortedFunc(maps.Keys(h.held), model.Name.Compare) {
		if p := h.held[name]; !now.Before(p.since.Add(h.after)) {
			plans = append(plans, p.plan)
			delete(h.held, name)
		}
	}
	if len(plans) > 0 {
		h.log.Warn("applying the update that was held: it persists", "services", len(plans))
	}
	return plans
}
