// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Restore takes over what the tables hold, once, before anything is applied:
// each Service port keeps its index, its backends keep theirs and their
// generation. It mends what no program depends on (half-made backends, filter
// bits); whatever else is odd is kept until a plan or Prune replaces it.
func (r *Reconciler) Restore(ctx context.Context) error {
	l := &restoring{r: r, ports: map[uint32]*port{}}
	if err := l.readFrontends(); err != nil {
		return err
	}
	if err := l.readServices(); err != nil {
		return err
	}
	if err := errors.Join(l.readRanges(), r.restoreHost()); err != nil {
		return err
	}
	l.readBackends()
	l.readSets()
	l.refer()
	r.restoreFilter()
	if len(l.ports) == 0 && len(r.frontends) == 0 {
		return nil
	}
	r.log.Info("took over what the kernel holds", "services", len(r.services), "ports", len(l.ports),
		"frontends", r.present, "backends", r.backends.used, "unowned", len(r.unowned.ports))
	// Who ran before may just have retired what looks free now.
	if err := r.grace.wait(ctx); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

// restoring is the state of Restore.
type restoring struct {
	r     *Reconciler
	ports map[uint32]*port // by index, everything that has one
}

func (l *restoring) readFrontends() error {
	return l.r.tables.Frontends.Each(func(key abi.FrontendKey, v abi.Frontend) bool {
		l.r.frontends[key] = &frontend{present: true, value: v}
		return true
	})
}

// readServices makes the ports that have a name. If two indexes have the same
// one, which an interrupted replacement leaves behind, the one that frontends
// refer to is the Service port; the other is unowned.
func (l *restoring) readServices() error {
	refs := map[uint32]int{}
	for _, f := range l.r.frontends {
		refs[f.value.Service]++
	}
	names := map[uint32]abi.ServiceName{}
	var numbers []uint32
	err := l.r.tables.Services.Each(func(i uint32, name abi.ServiceName) bool {
		numbers, names[i] = append(numbers, i), name
		return true
	})
	slices.SortFunc(numbers, func(a, b uint32) int { return cmp.Or(cmp.Compare(refs[b], refs[a]), cmp.Compare(a, b)) })
	for _, i := range numbers {
		p := l.port(i)
		p.named = true
		id, ok := portID(names[i])
		if !ok || !p.indexed {
			continue
		}
		p.id = id
		if s := l.r.service(id.Service); s.port(id) == nil {
			p.owner = s
			s.ports = append(s.ports, p)
		}
	}
	return err
}

// portID reads a name; false if it is not one that register writes.
func portID(n abi.ServiceName) (plan.PortID, bool) {
	id := plan.PortID{
		Service:  model.Name{Namespace: abi.Text(n.Ns), Name: abi.Text(n.Name)},
		Port:     abi.Text(n.Port),
		Protocol: model.Protocol(n.Protocol), Family: model.Family(n.Family),
	}
	same, err := abi.NewServiceName(id.Service.Namespace, id.Service.Name, id.Port, n.Protocol, n.Family)
	return id, err == nil && same == n && id.Service.Name != "" &&
		(id.Family == model.IPv4 || id.Family == model.IPv6)
}

// port returns the port with an index; one that has none yet is unowned.
func (l *restoring) port(i uint32) *port {
	p := l.ports[i]
	if p == nil {
		p = &port{index: i, owner: l.r.unowned}
		p.indexed = l.r.numbers.reserve(i)
		l.ports[i] = p
	}
	return p
}

// readBackends gives every living backend to the port it names.
func (l *restoring) readBackends() {
	table := l.r.tables.Backends
	for i := range table.Len() {
		b := table.Load(i)
		alive := b.Generation != 0
		switch used := b.State != uint8(abi.BackendFree); {
		case !alive && !used:
			continue
		case alive != used, b.Service >= l.r.numbers.size:
			table.Free(i)
			continue
		}
		l.r.backends.reserve(i)
		p := l.port(b.Service)
		p.backends = append(p.backends, i)
	}
	for _, p := range l.ports {
		// Of two with one address, the one that is in a set comes first and is
		// the one that a plan finds.
		slices.SortStableFunc(p.backends, func(a, b uint32) int {
			return cmp.Or(l.r.backendAddr(a).Compare(l.r.backendAddr(b)), cmp.Compare(table.Load(b).Sets, table.Load(a).Sets))
		})
	}
}

// found is a set with members, as Restore finds it.
type found struct {
	port  *port
	kind  abi.SetKind
	valid bool // all members are living backends of the port
}

// readSets takes the slots of the sets. Where two overlap, a valid one has
// them; the other is written anew when its plan comes.
func (l *restoring) readSets() {
	var sets []found
	for i := range l.r.numbers.size {
		for kind := range abi.SetKind(abi.SetKinds) {
			word := l.r.tables.Sets.Load(i, kind)
			if word == 0 {
				continue
			}
			p := l.port(i)
			p.sets[kind].word = word
			if base, count := abi.UnpackSet(word); count > 0 && uint64(base)+uint64(count) <= uint64(l.r.slots.size) {
				sets = append(sets, found{p, kind, l.valid(i, extent{base, count})})
			}
		}
	}
	// By base, so that reserve always cuts the last free range.
	slices.SortFunc(sets, func(a, b found) int { return cmp.Compare(a.extent().base, b.extent().base) })
	for _, valid := range [...]bool{true, false} {
		for _, f := range sets {
			if f.valid == valid {
				f.port.sets[f.kind].owned = l.r.slots.reserve(f.extent())
			}
		}
	}
}

func (f found) extent() extent { return f.port.sets[f.kind].extent() }

func (l *restoring) valid(service uint32, e extent) bool {
	for i := e.base; i < e.end(); i++ {
		member := l.r.tables.Slots.Load(i)
		if member >= l.r.tables.Backends.Len() {
			return false
		}
		if b := l.r.tables.Backends.Load(member); b.Service != service || b.Generation == 0 {
			return false
		}
	}
	return true
}

// refer connects the frontends with the ports they lead to.
func (l *restoring) refer() {
	for key, f := range l.r.frontends {
		value := f.value
		f.present, f.owner = false, l.r.unowned
		var p *port
		if value.Service < l.r.numbers.size {
			p = l.port(value.Service)
			f.owner = p.owner
		}
		l.r.refer(f, value, p, &touched{})
		f.owner.keys = append(f.owner.keys, key)
	}
	for _, p := range l.ports {
		if p.owner == l.r.unowned {
			p.owner.ports = append(p.owner.ports, p)
		}
	}
}
