// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// frontend is what is wanted and what there is under one key.
type frontend struct {
	// claims are who wants the key, in order of Service and port.
	claims []claim
	// owner is the last Service that had to do with it.
	owner *service

	present bool // in the kernel, with this value:
	value   abi.Frontend
	holder  *port // whose index the value names; nil if none

	pass uint64 // the last that visited it
}

// claim is one Service's wish for a key. Without a port it is about the
// address as such, and any number of Services may share it.
type claim struct {
	service      *service
	port         *port
	flags        uint32
	affinitySecs uint32
}

func (c claim) value() abi.Frontend {
	v := abi.Frontend{Service: maps.NoService, Flags: c.flags, AffinitySecs: c.affinitySecs}
	if c.port != nil {
		v.Service = c.port.index
	}
	return v
}

// ready reports whether all that the frontend leads to is published.
func (c claim) ready() bool { return c.port == nil || c.port.ready }

func compareClaims(a, b claim) int {
	if order := a.service.name.Compare(b.service.name); order != 0 || a.port == nil || b.port == nil {
		return order
	}
	return a.port.id.Compare(b.port.id)
}

// winner returns the claim that gets the key, nil if there is none. Who has it
// keeps it; so no later Service takes an address from a running one.
func (f *frontend) winner() *claim {
	for i := range f.claims {
		if c := &f.claims[i]; f.present && c.port != nil && c.port == f.holder {
			return c
		}
	}
	if len(f.claims) == 0 {
		return nil
	}
	return &f.claims[0]
}

// contested reports whether a claim must stand back.
func (f *frontend) contested() bool { return len(f.claims) > 1 && f.claims[0].port != nil }

// moveMode says what becomes of a frontend whose next Service port cannot be
// made ready, while the one that has it wants it no more.
type moveMode bool

const (
	// moveInPlace leaves it where it is until it can be overwritten.
	moveInPlace moveMode = false
	// moveByRemoval removes it: what it leads to takes the room that the next
	// one needs.
	moveByRemoval moveMode = true
)

// touched is what one pass has to look at, beyond the Services it is about.
type touched struct {
	mode  moveMode
	keys  []abi.FrontendKey
	ports []*port // fewer frontends refer to them
}

// claim makes the claims of a Service those of its plan.
func (r *Reconciler) claim(s *service, t *touched) {
	t.keys = append(t.keys, s.keys...)
	t.keys = append(t.keys, s.stuck...)
	for _, key := range s.keys {
		if f := r.frontends[key]; f != nil { // gone, if another had it since
			f.claims = slices.DeleteFunc(f.claims, func(c claim) bool { return c.service == s })
		}
	}
	s.keys, s.stuck = s.keys[:0], nil
	for _, w := range s.want.Ports {
		p := s.port(w.ID)
		for _, f := range w.Frontends {
			c := claim{service: s, port: p, flags: frontendFlags(f), affinitySecs: affinitySecs(f.AffinityTimeout)}
			r.addClaim(frontendKey(f.FrontendKey), c)
		}
	}
	for _, addr := range s.want.Addresses {
		r.addClaim(frontendKey(plan.FrontendKey{Addr: addr}), claim{service: s, flags: abi.FlagAddress})
	}
	t.keys = append(t.keys, s.keys...)
}

func (r *Reconciler) addClaim(key abi.FrontendKey, c claim) {
	f := r.frontends[key]
	if f == nil {
		f = &frontend{}
		r.frontends[key] = f
	}
	i, _ := slices.BinarySearchFunc(f.claims, c, compareClaims)
	f.claims = slices.Insert(f.claims, i, c)
	f.owner = c.service
	c.service.keys = append(c.service.keys, key)
}

func frontendKey(k plan.FrontendKey) abi.FrontendKey {
	return abi.NewFrontendKey(k.Addr, k.Port, uint8(k.Protocol))
}

func frontendFlags(f plan.Frontend) uint32 {
	flags := [...]uint32{
		plan.ClusterIP:    abi.FlagClusterIP,
		plan.NodePort:     abi.FlagNodePort,
		plan.LoadBalancer: abi.FlagLoadBalancer,
		plan.ExternalIP:   abi.FlagExternalIP,
	}[f.Kind]
	if f.InternalLocal {
		flags |= abi.FlagInternalLocal
	}
	if f.ExternalLocal {
		flags |= abi.FlagExternalLocal
	}
	if len(f.SourceRanges) > 0 {
		flags |= abi.FlagSourceRanges
	}
	return flags
}

// affinitySecs rounds up: less than a second is still an affinity.
func affinitySecs(d time.Duration) uint32 {
	return uint32((d + time.Second - 1) / time.Second)
}

// settle writes the frontends that differ: new and changed ones, then removals.
func (r *Reconciler) settle(t *touched) {
	var keys, gone []abi.FrontendKey
	var values []abi.Frontend
	var winners []*claim
	for _, key := range t.keys {
		f := r.frontends[key]
		if f == nil || f.pass == r.pass {
			continue
		}
		f.pass = r.pass
		r.noteContest(key, f)
		switch c := f.winner(); {
		case c == nil:
			gone = append(gone, key)
		case !c.ready():
			if t.mode == moveByRemoval && f.present && f.holder != c.port && c.service.starved() {
				gone = append(gone, key)
			}
		case !f.present || f.value != c.value():
			keys, values, winners = append(keys, key), append(values, c.value()), append(winners, c)
		}
	}
	for i, key := range keys {
		f := r.frontends[key]
		if !f.present {
			r.filterAdd(key)
		}
		if f.holder != winners[i].port {
			r.lose(f.holder) // here, too, in case that we die before we get to say it below
		}
	}
	putAll(r.tables.Frontends, keys, values, func(i int, err error) {
		f := r.frontends[keys[i]]
		if err == nil {
			if f.holder != winners[i].port {
				r.lose(f.holder)
			}
			r.refer(f, values[i], winners[i].port, t)
			return
		}
		if !f.present {
			r.filterRemove(keys[i])
		}
		r.note(winners[i].service, fmt.Errorf("frontend %s: %w", keyString(keys[i]), err))
	})
	for _, key := range gone {
		r.remove(key, t)
	}
}

// refer records what the kernel has under a key now.
func (r *Reconciler) refer(f *frontend, v abi.Frontend, holder *port, t *touched) {
	if !f.present {
		r.present++
	}
	r.unrefer(f, t)
	f.present, f.value, f.holder = true, v, holder
	if holder != nil {
		holder.count(v, 1)
	}
}

func (r *Reconciler) unrefer(f *frontend, t *touched) {
	if p := f.holder; p != nil {
		p.count(f.value, -1)
		t.ports = append(t.ports, p)
	}
	f.holder = nil
}

// count adds n to the frontends that refer to the port as v does.
func (p *port) count(v abi.Frontend, n int) {
	p.held += n
	for kind := range p.sets {
		if picks(v.Flags, abi.SetKind(kind)) {
			p.sets[kind].used += n
		}
	}
	if guards(v.Flags) {
		p.guard.used += n
	}
}

// remove takes a frontend out of the kernel.
func (r *Reconciler) remove(key abi.FrontendKey, t *touched) {
	f := r.frontends[key]
	if f.present {
		if err := r.tables.Frontends.Delete(key); err != nil {
			f.owner.stuck = append(f.owner.stuck, key)
			r.note(f.owner, fmt.Errorf("frontend %s: %w", keyString(key), err))
			return
		}
		r.filterRemove(key)
		r.lose(f.holder)
		r.unrefer(f, t)
		f.present = false
		r.present--
	}
	if len(f.claims) == 0 {
		delete(r.frontends, key)
	}
}

// wildcard reports whether a key's address stands for all addresses of the
// node. No packet carries it, so it has no bit in the filter: who looks for
// NodePorts asks for this key itself.
func wildcard(key abi.FrontendKey) bool { return abi.NetIP(key.Addr).IsUnspecified() }

func (r *Reconciler) filterAdd(key abi.FrontendKey) {
	if !wildcard(key) {
		r.filterHold(key.Addr)
	}
}

func (r *Reconciler) filterRemove(key abi.FrontendKey) {
	if !wildcard(key) {
		r.filterDrop(key.Addr)
	}
}

func (r *Reconciler) noteContest(key abi.FrontendKey, f *frontend) {
	if f.contested() {
		r.contested[key] = struct{}{}
	} else {
		delete(r.contested, key)
	}
}

// keyString names a frontend for people.
func keyString(key abi.FrontendKey) string {
	addr := abi.NetIP(key.Addr)
	if key.Port == 0 && key.Protocol == 0 {
		return addr.String()
	}
	if addr.Is6() {
		return fmt.Sprintf("[%v]:%d/%v", addr, abi.Port(key.Port), model.Protocol(key.Protocol))
	}
	return fmt.Sprintf("%v:%d/%v", addr, abi.Port(key.Port), model.Protocol(key.Protocol))
}

// putAll puts as many entries as can be put and reports the fate of each.
func putAll[K comparable, V any](h maps.Hash[K, V], keys []K, values []V, report func(i int, err error)) {
	for from := 0; from < len(keys); {
		done, err := h.PutAll(keys[from:], values[from:])
		for i := range done {
			report(from+i, nil)
		}
		from += done
		if err != nil {
			report(from, err)
			from++
		}
	}
}
