// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// Planner turns changes of the outside into changes of plans. It keeps what it
// is given and what it returns: neither may be changed afterwards. It is not
// safe for concurrent use.
type Planner struct {
	scene    *scene
	services map[model.Name]*entry
	claims   claims
	targets  targets
	problems map[model.Name][]Problem
}

// entry is what a Planner knows about one Service.
type entry struct {
	service *model.Service
	slices  []model.EndpointSlice
	claims  []claim       // sorted by key
	targets []FrontendKey // sorted
	plan    Service
}

// New returns a Planner without node and Services.
func New(config Config) *Planner {
	return &Planner{
		scene:    newScene(config, model.Node{}),
		services: map[model.Name]*entry{},
		claims:   claims{},
		targets:  newTargets(),
		problems: map[model.Name][]Problem{},
	}
}

// Compile plans one Service as if there were no others.
func Compile(config Config, node model.Node, service *model.Service, endpointSlices []model.EndpointSlice) (Service, []Problem) {
	p := New(config)
	p.SetNode(node)
	p.Update(service.Name, service, endpointSlices)
	plan, _ := p.Service(service.Name)
	return plan, p.Problems()
}

// Config returns the configuration in force.
func (p *Planner) Config() Config { return p.scene.config }

// Node returns the node in force.
func (p *Planner) Node() model.Node { return p.scene.node }

// SetConfig changes the configuration and returns every plan that changed by
// it, sorted by name. It plans all Services anew if something changed that plans
// depend on.
func (p *Planner) SetConfig(config Config) []Service {
	next := newScene(config, p.scene.node)
	if config.plansAs(p.scene.config) {
		p.scene = next
		return nil
	}
	return p.setScene(next)
}

// SetNode changes the node and returns every plan that changed by it, sorted by
// name. It plans all Services anew if something changed that plans depend on.
func (p *Planner) SetNode(node model.Node) []Service {
	old := p.scene.node
	next := newScene(p.scene.config, node)
	if next.vantage == p.scene.vantage && slices.Equal(node.Addresses, old.Addresses) {
		p.scene = next
		return nil
	}
	return p.setScene(next)
}

func (p *Planner) setScene(next *scene) []Service {
	p.scene = next
	drafts := make(map[model.Name]draft, len(p.services))
	for name, e := range p.services {
		drafts[name] = p.scene.draft(e.service, e.slices)
		p.enter(e, drafts[name], func(model.Name) {})
	}
	var changed []Service
	for _, name := range p.names() {
		if plan, ok := p.settle(name, drafts[name]); ok {
			changed = append(changed, plan)
		}
	}
	return changed
}

// Update tells everything that is known about one Service; nil removes it. It
// returns every plan that changed in consequence, sorted by name, with those
// of other Services that claim the same frontends. The same input twice changes
// nothing.
func (p *Planner) Update(name model.Name, service *model.Service, endpointSlices []model.EndpointSlice) []Service {
	e := p.services[name]
	if e == nil {
		if service == nil {
			return nil
		}
		e = &entry{plan: Service{Name: name}}
		p.services[name] = e
	}
	e.service, e.slices = service, endpointSlices

	var d draft
	if service != nil {
		d = p.scene.draft(service, endpointSlices)
	}
	dirty := map[model.Name]bool{}
	p.enter(e, d, func(other model.Name) { dirty[other] = true })
	delete(dirty, name)

	var changed []Service
	if plan, ok := p.settle(name, d); ok {
		changed = append(changed, plan)
	}
	for other := range dirty {
		e := p.services[other]
		if plan, ok := p.settle(other, p.scene.draft(e.service, e.slices)); ok {
			changed = append(changed, plan)
		}
	}
	if service == nil {
		delete(p.services, name)
	}
	slices.SortFunc(changed, func(a, b Service) int { return a.Name.Compare(b.Name) })
	return changed
}

// enter brings claims and targets of a Service up to date, and calls dirty for
// every Service whose plan may change by that.
func (p *Planner) enter(e *entry, d draft, dirty func(model.Name)) {
	next := d.claims(e.service)
	// Only a new winner changes anything, and then also what the others are
	// told about it.
	touch := func(change func(claim)) func(claim) {
		return func(c claim) {
			before, _ := p.claims.winner(c.key)
			change(c)
			if after, _ := p.claims.winner(c.key); after == before {
				return
			}
			for _, o := range p.claims[c.key] {
				dirty(o.service)
			}
			p.targets.users(c.key, func(user *entry) { dirty(user.plan.Name) })
		}
	}
	difference(e.claims, next, claim.compare, touch(p.claims.remove), touch(p.claims.add))
	// A target concerns whoever would be meek about it, and is told whose it is.
	aim := func(change func(FrontendKey, *entry)) func(FrontendKey) {
		return func(k FrontendKey) {
			before := p.targets.any(k)
			change(k, e)
			if w, ok := p.claims.winner(k); ok && w.meek && p.targets.any(k) != before {
				dirty(w.service)
			}
		}
	}
	difference(e.targets, d.targets, FrontendKey.Compare, aim(p.targets.remove), aim(p.targets.add))
	e.claims, e.targets = next, d.targets
}

// settle resolves a draft and reports whether the plan changed.
func (p *Planner) settle(name model.Name, d draft) (Service, bool) {
	e := p.services[name]
	plan, problems := p.resolve(name, d)
	if len(problems) > 0 {
		p.problems[name] = problems
	} else {
		delete(p.problems, name)
	}
	if plan.Equal(e.plan) {
		return plan, false
	}
	e.plan = plan
	return plan, true
}

// Service returns the plan of one Service; false if there is none.
func (p *Planner) Service(name model.Name) (Service, bool) {
	e := p.services[name]
	if e == nil || e.plan.Empty() {
		return Service{Name: name}, false
	}
	return e.plan, true
}

// Services walks all plans that are not empty, sorted by name.
func (p *Planner) Services() iter.Seq[Service] {
	return func(yield func(Service) bool) {
		for _, name := range p.names() {
			if plan := p.services[name].plan; !plan.Empty() && !yield(plan) {
				return
			}
		}
	}
}

// Problems returns everything that is not planned, sorted. Its cost grows with
// what it returns.
func (p *Planner) Problems() []Problem {
	all := slices.Concat(slices.Collect(maps.Values(p.problems))...)
	slices.SortFunc(all, Problem.Compare)
	return all
}

func (p *Planner) names() []model.Name {
	return slices.SortedFunc(maps.Keys(p.services), model.Name.Compare)
}

// claims lists what the draft of a Service claims, sorted by key.
func (d *draft) claims(service *model.Service) []claim {
	if service == nil {
		return nil
	}
	all := make([]claim, 0, len(d.wishes)+len(d.addresses))
	for _, w := range d.wishes {
		all = append(all, claim{w.FrontendKey, service.Name, service.Created, w.Kind == ClusterIP, w.yields, w.Kind == ExternalIP})
	}
	for _, addr := range d.addresses {
		all = append(all, claim{addressKey(addr), service.Name, service.Created, true, false, false})
	}
	slices.SortFunc(all, func(a, b claim) int { return a.key.Compare(b.key) })
	return all
}

// addressKey is the key of an address as such.
func addressKey(addr netip.Addr) FrontendKey { return FrontendKey{Addr: addr} }

// compare orders the claims of one Service: by key, and those that differ in
// anything else are not equal.
func (c claim) compare(o claim) int {
	if k := c.key.Compare(o.key); k != 0 || c == o {
		return k
	}
	return -1
}
