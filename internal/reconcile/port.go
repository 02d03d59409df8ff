// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// port is one Service port that has, or is about to get, a service index.
// Of what is in arrays it knows only what it owns; the content is read back
// from the shared memory, which costs no more than a copy would.
type port struct {
	id    plan.PortID // zero if Restore found no name
	owner *service
	want  *plan.Port // nil: to be removed

	index   uint32
	indexed bool // index is taken
	named   bool // the kernel has its name
	ready   bool // what is wanted is published, frontends may refer to it
	held    int  // frontends in the kernel that refer to it

	sets  [abi.SetKinds]set
	guard guard
	// backends are the indexes of its backends, by address; the surplus ones
	// are no longer wanted, but may still be in a set.
	backends, surplus []uint32
	retired           bool
	problem           error // why something of it could not be deleted
}

// set is what the kernel has of a backend set.
type set struct {
	word  uint64
	owned bool // the word's slots are taken from Reconciler.slots
	used  int  // frontends in the kernel by which some clients pick from it
	// leaving is where it is retired, because no frontend uses it any more.
	leaving *retired
}

func (s set) extent() extent {
	base, count := abi.UnpackSet(s.word)
	return extent{base, count}
}

func (s *service) port(id plan.PortID) *port {
	for _, p := range s.ports {
		if p.id == id {
			return p
		}
	}
	return nil
}

// adopt gives every wanted port of a Service its record, and marks the others
// as unwanted.
func (r *Reconciler) adopt(s *service) {
	for _, p := range s.ports {
		p.want = nil
	}
	for i := range s.want.Ports {
		w := &s.want.Ports[i]
		p := s.port(w.ID)
		if p == nil {
			p = &port{id: w.ID, owner: s}
			s.ports = append(s.ports, p)
		}
		p.want, p.ready = w, false
	}
}

// register gives the ports of the given Services an index and writes their
// names, all at once.
func (r *Reconciler) register(work []*service) {
	var ports []*port
	var numbers []uint32
	var names []abi.ServiceName
	fresh := map[uint32]bool{}
	for _, s := range work {
		for _, p := range s.ports {
			if p.want == nil || p.named {
				continue
			}
			id := p.id
			name, err := abi.NewServiceName(id.Service.Namespace, id.Service.Name, id.Port, uint8(id.Protocol), uint8(id.Family))
			if err == nil && !p.indexed {
				if p.index, p.indexed = r.numbers.alloc(); !p.indexed {
					err = fmt.Errorf("service indexes, %d in use: %w", r.numbers.used, errNoRoom)
				}
				fresh[p.index] = err == nil
			}
			if err != nil {
				r.note(s, fmt.Errorf("port %v: %w", id, err))
				continue
			}
			ports, numbers, names = append(ports, p), append(numbers, p.index), append(names, name)
		}
	}
	// What another Service has had under the same index is not theirs.
	if err := r.tables.Traffic.Forget(fresh); err != nil {
		r.log.Warn("a new Service begins with the counts of an old one", "err", err)
	}
	putAll(r.tables.Services, numbers, names, func(i int, err error) {
		if ports[i].named = err == nil; err != nil {
			r.note(ports[i].owner, fmt.Errorf("port %v: %w", ports[i].id, err))
		}
	})
}

// publishPort writes the source ranges, backends and sets of a port. Where
// ranges cannot be written, the endpoints of its frontends go on changing.
func (r *Reconciler) publishPort(p *port, w *plan.Port) error {
	if err := check(w); err != nil {
		return err
	}
	err := errors.Join(r.publishGuard(p, w), r.publishEndpoints(p, w))
	p.ready = err == nil
	return err
}

func (r *Reconciler) publishEndpoints(p *port, w *plan.Port) error {
	if err := r.placeBackends(p, w); err != nil {
		return err
	}
	for kind, members := range [...]plan.Set{abi.SetCluster: w.Cluster, abi.SetLocal: w.Local} {
		if kind := abi.SetKind(kind); uses(w, kind) {
			if err := r.publishSet(p, kind, members); err != nil {
				return err
			}
			p.sets[kind].leaving = nil
		}
	}
	return nil
}

// check refuses a plan that breaks the promises of its type.
func check(w *plan.Port) error {
	sorted := slices.IsSortedFunc(w.Backends, func(a, b plan.Backend) int { return a.Addr.Compare(b.Addr) })
	if !sorted {
		return fmt.Errorf("plan: backends are not sorted")
	}
	var guard []netip.Prefix
	for _, f := range w.Frontends {
		if guarded(f) && guard != nil && !slices.Equal(guard, f.SourceRanges) {
			return fmt.Errorf("plan: frontends have different source ranges")
		}
		if guarded(f) {
			guard = f.SourceRanges
		}
	}
	for _, members := range [][]int{w.Cluster.Members, w.Local.Members} {
		for _, m := range members {
			if m < 0 || m >= len(w.Backends) {
				return fmt.Errorf("plan: member %d of %d backends", m, len(w.Backends))
			}
		}
	}
	return nil
}

// uses reports whether a frontend of the port may pick from a set. Where none
// does, the plan leaves the set empty, but programs that have read a frontend
// as it was before may still pick from it.
func uses(w *plan.Port, kind abi.SetKind) bool {
	return slices.ContainsFunc(w.Frontends, func(f plan.Frontend) bool { return picks(frontendFlags(f), kind) })
}

// picks reports whether some clients of a frontend with these flags pick from
// a set: those inside the cluster or those outside.
func picks(flags uint32, kind abi.SetKind) bool {
	const both = abi.FlagInternalLocal | abi.FlagExternalLocal
	if kind == abi.SetLocal {
		return flags&both != 0
	}
	return flags&both != both
}

// placeBackends gives every wanted backend an entry, updates those there are,
// and sets p.backends to them in the plan's order.
func (r *Reconciler) placeBackends(p *port, w *plan.Port) error {
	images := r.images(p, w)
	have := p.backends
	if len(p.surplus) > 0 {
		have = slices.Concat(p.backends, p.surplus)
		slices.SortStableFunc(have, func(a, b uint32) int { return r.backendAddr(a).Compare(r.backendAddr(b)) })
	}
	placed := make([]uint32, 0, len(images))
	var surplus []uint32
	for n, image := range images {
		for len(have) > 0 && r.backendAddr(have[0]).Compare(w.Backends[n].Addr) < 0 {
			surplus, have = append(surplus, have[0]), have[1:]
		}
		if len(have) > 0 && r.backendAddr(have[0]) == w.Backends[n].Addr {
			is := r.tables.Backends.Load(have[0])
			image.Generation, image.Lost = is.Generation, is.Lost
			r.tables.Backends.Update(have[0], image)
			placed, have = append(placed, have[0]), have[1:]
			continue
		}
		i, ok := r.backends.alloc()
		if !ok {
			p.backends, p.surplus = placed, append(surplus, have...)
			return fmt.Errorf("backend %v: %d in use: %w", w.Backends[n].Addr, r.backends.used, errNoRoom)
		}
		r.tables.Backends.Create(i, image)
		placed = append(placed, i)
	}
	p.backends, p.surplus = placed, append(surplus, have...)
	return nil
}

// images returns what the entries of a port's backends must hold, apart from
// the generation.
func (r *Reconciler) images(p *port, w *plan.Port) []abi.Backend {
	images := make([]abi.Backend, len(w.Backends))
	for i, b := range w.Backends {
		images[i] = abi.Backend{
			Addr: abi.Addr(b.Addr.Addr()), Port: abi.Port(b.Addr.Port()),
			State: backendState(b.State), Service: p.index,
		}
		if b.Local {
			images[i].Local = 1
		}
	}
	for _, m := range w.Cluster.Members {
		images[m].Sets |= 1 << abi.SetCluster
	}
	for _, m := range w.Local.Members {
		images[m].Sets |= 1 << abi.SetLocal
	}
	return images
}

func backendState(s plan.State) uint8 {
	switch s {
	case plan.Terminating:
		return uint8(abi.BackendTerminating)
	case plan.Draining:
		return uint8(abi.BackendDraining)
	}
	return uint8(abi.BackendActive)
}

// lose notes in a Service port's backends that a frontend has left it: UDP flows
// that go on there ask whose it is now. Others are bound to their peer.
func (r *Reconciler) lose(p *port) {
	if p == nil || p.id.Protocol != model.UDP || p.want == nil { // of what goes, no flow goes on
		return
	}
	for _, i := range slices.Concat(p.backends, p.surplus) {
		b := r.tables.Backends.Load(i)
		b.Lost = max(b.Lost+1, 1) // 0: never
		r.tables.Backends.Update(i, b)
	}
}

func (r *Reconciler) backendAddr(i uint32) netip.AddrPort {
	b := r.tables.Backends.Load(i)
	return netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port))
}

// publishSet writes a set's members into fresh slots and publishes them, if
// they are not what the set holds already.
func (r *Reconciler) publishSet(p *port, kind abi.SetKind, w plan.Set) error {
	if r.holds(p, kind, w) {
		return nil
	}
	word, owned := abi.EmptySetWord(emptyVerdict(w.Empty)), false
	if len(w.Members) > 0 {
		e, ok := r.slots.alloc(uint32(len(w.Members)))
		if !ok {
			return fmt.Errorf("%d slots in a row, %d of %d in use: %w", len(w.Members), r.slots.used, r.slots.size, errNoRoom)
		}
		for i, m := range w.Members {
			r.tables.Slots.Store(e.base+uint32(i), p.backends[m])
		}
		word, owned = abi.SetWord(e.base, e.count), true
	}
	s := &p.sets[kind]
	r.tables.Sets.Store(p.index, kind, word)
	if s.owned {
		r.grace.collecting.slots = append(r.grace.collecting.slots, s.extent())
	}
	s.word, s.owned = word, owned
	return nil
}

// holds reports whether the kernel's set is the wanted one.
func (r *Reconciler) holds(p *port, kind abi.SetKind, w plan.Set) bool {
	have := p.sets[kind]
	e := have.extent()
	if len(w.Members) == 0 {
		return have.word == abi.EmptySetWord(emptyVerdict(w.Empty))
	}
	if !have.owned || int(e.count) != len(w.Members) {
		return false
	}
	for i, m := range w.Members {
		if r.tables.Slots.Load(e.base+uint32(i)) != p.backends[m] {
			return false
		}
	}
	return true
}

func emptyVerdict(e plan.Empty) abi.EmptySet {
	if e == plan.Drop {
		return abi.EmptyDrop
	}
	return abi.EmptyReject
}

// retirePort takes back what the port has and does not need: everything, if it
// is not wanted and no frontend refers to it.
func (r *Reconciler) retirePort(p *port) {
	switch {
	case p.retired, !p.owner.named: // what nobody named stays until Prune
	case p.want == nil && p.held == 0:
		p.retired = true
		r.reopen(p)
		p.owner.ports = slices.DeleteFunc(p.owner.ports, func(o *port) bool { return o == p })
		r.grace.collecting.ports = append(r.grace.collecting.ports, p)
	case p.want != nil && p.ready:
		r.retireLeftovers(p)
	}
}

// retireLeftovers takes back sets that no frontend uses, and surplus backends.
func (r *Reconciler) retireLeftovers(p *port) {
	for kind := range p.sets {
		s := &p.sets[kind]
		if s.word == 0 || s.leaving != nil || uses(p.want, abi.SetKind(kind)) {
			continue
		}
		if s.used > 0 {
			return // clients still come to this set, surplus backends and all
		}
		s.leaving = r.grace.collecting
		r.grace.collecting.sets = append(r.grace.collecting.sets, portSet{p, abi.SetKind(kind)})
	}
	for _, i := range p.surplus {
		b := r.tables.Backends.Load(i)
		b.State, b.Sets = uint8(abi.BackendDraining), 0
		r.tables.Backends.Update(i, b)
	}
	r.grace.collecting.backends = append(r.grace.collecting.backends, p.surplus...)
	p.surplus = nil
}

// emptySet ends a set that no program can pick from any more.
func (r *Reconciler) emptySet(p *port, kind abi.SetKind) {
	s := &p.sets[kind]
	if s.word != 0 {
		r.tables.Sets.Store(p.index, kind, 0)
	}
	if s.owned {
		r.slots.release(s.extent())
	}
	s.word, s.owned, s.leaving = 0, false, nil
}

// freeBackend ends a backend that no program can pick any more: it gets
// generation 0, so that who remembers it notices.
func (r *Reconciler) freeBackend(i uint32) {
	r.tables.Backends.Free(i)
	r.backends.release(i)
}

// closePort frees everything a port has, its name and index last. On an error
// these two are left.
func (r *Reconciler) closePort(p *port) error {
	for kind := range abi.SetKinds {
		r.emptySet(p, abi.SetKind(kind))
	}
	for _, i := range slices.Concat(p.backends, p.surplus) {
		r.freeBackend(i)
	}
	p.backends, p.surplus = nil, nil
	if err := r.dropRanges(p, nil); err != nil {
		return fmt.Errorf("removed port %v: %w", p.id, err) // whoever has the index next must not inherit them
	}
	if p.named {
		if err := r.tables.Services.Delete(p.index); err != nil {
			return fmt.Errorf("name of removed port %v: %w", p.id, err)
		}
		p.named = false
	}
	if p.indexed {
		r.numbers.release(p.index)
		p.indexed = false
	}
	return nil
}
