// SPDX-License-Identifier: Apache-2.0

// Package snapshot holds the present state of the outside world between the
// sources that write it and the one consumer that reads it. It remembers which
// Services changed since the consumer last asked, so that the work after it
// grows with the change and not with the cluster. It knows neither where the
// values come from nor what becomes of them.
package snapshot

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// Source is what fills a Store: the Kubernetes API or a folder of manifests.
type Source interface {
	// Run writes into the Store until ctx ends, and then returns nil. It
	// returns an error only if it cannot go on.
	Run(ctx context.Context) error
}

// Part is a part of the state that becomes known on its own.
type Part uint8

// The parts.
const (
	Services Part = iota
	Slices
	Node

	partCount
)

func (p Part) String() string {
	return [...]string{"services", "endpointslices", "node"}[p]
}

// Delta is what changed since the last Take.
type Delta struct {
	// Services names the Services whose object or slices changed, sorted.
	// One that is gone is named as well.
	Services []model.Name
	// Node is true if this node's values changed.
	Node bool
	// Network is true if this node's own network changed or became known.
	Network bool
	// ServiceCIDRs is true if Store.ServiceCIDRs changed.
	ServiceCIDRs bool
	// Since is when the earliest of these changes was written to the Store;
	// zero if there is none.
	Since time.Time
	// ServiceChanges and SliceChanges count the changes of objects since the
	// last Take; several of one object may be among them.
	ServiceChanges, SliceChanges int
	// Triggers are the times at which the changed slices' cause happened, one
	// for each change of a slice that carried a new one. Those before the
	// Store was made are left out, as kube-proxy does: each of the others is
	// one observation of network_programming_duration_seconds.
	Triggers []Trigger
}

// Trigger is the cause of one change of a slice.
type Trigger struct {
	Family model.Family
	At     time.Time
}

// Empty reports whether nothing changed.
func (d Delta) Empty() bool { return len(d.Services) == 0 && !d.Node && !d.Network && !d.ServiceCIDRs }

// Store is the state. Its methods may be called from any goroutine. A value
// given to it or got from it, and everything that value points to, must not be
// modified any more.
type Store struct {
	now     func() time.Time
	start   time.Time
	changed chan struct{}

	mu       sync.Mutex
	services map[model.Name]*entry
	owners   map[model.Name]model.Name // slice -> its Service
	node     model.Node
	network  *model.Network // nil until it is known
	cidrs    map[model.Name][]netip.Prefix
	synced   [partCount]bool
	read     bool
	ranges   chan struct{} // closed once ServiceCIDRs may be gone by

	dirty        map[model.Name]struct{}
	dirtyNode    bool
	dirtyNetwork bool
	dirtyCIDR    bool
	since        time.Time
	triggers     []Trigger
	changes      [partCount]int
	edited       bool // by the edit under way
}

// entry is one Service: its object, nil while there are only slices, and its
// slices sorted by name.
type entry struct {
	service *model.Service
	slices  []model.EndpointSlice
}

// New makes an empty Store. The clock dates changes; pass time.Now.
func New(now func() time.Time) *Store {
	return &Store{
		now:      now,
		start:    now(),
		changed:  make(chan struct{}, 1),
		services: map[model.Name]*entry{},
		owners:   map[model.Name]model.Name{},
		cidrs:    map[model.Name][]netip.Prefix{},
		ranges:   make(chan struct{}),
		dirty:    map[model.Name]struct{}{},
	}
}

// Synced records that a part is now known completely: whatever the Store does
// not hold of it does not exist. A part stays synced for good.
func (s *Store) Synced(part Part) {
	s.mu.Lock()
	news := !s.synced[part]
	s.synced[part] = true
	if s.synced == [partCount]bool{true, true, true} {
		s.knowRanges()
	}
	s.mu.Unlock()
	if news {
		s.signal()
	}
}

// Read records that the source has told everything that it can read at present.
// What it could not read, a broken file say, is missing: those parts are not
// synced. A source that reads everything or nothing need not call it.
func (s *Store) Read() {
	s.mu.Lock()
	news := !s.read
	s.read = true
	s.mu.Unlock()
	if news {
		s.signal()
	}
}

// HasRead reports whether everything that can be read is known, or everything.
func (s *Store) HasRead() bool {
	s.mu.Lock()
	read := s.read
	s.mu.Unlock()
	return read || s.HasSynced()
}

// HasSynced reports whether every part is known. Before that nothing may be
// removed from the kernel, since what is missing here may exist.
func (s *Store) HasSynced() bool { return len(s.Unsynced()) == 0 }

// Unsynced lists the parts that are not known yet.
func (s *Store) Unsynced() []Part {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []Part
	for p := range partCount {
		if !s.synced[p] {
			parts = append(parts, p)
		}
	}
	return parts
}

// Changed returns a channel that delivers once after one or more changes, or
// after a part has synced. Nothing is lost if the reader comes late or does
// not call Take every time: Take has everything since the last Take.
func (s *Store) Changed() <-chan struct{} { return s.changed }

// Take returns what changed since the last call.
func (s *Store) Take() Delta {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Delta{
		Node: s.dirtyNode, Network: s.dirtyNetwork, ServiceCIDRs: s.dirtyCIDR, Since: s.since, Triggers: s.triggers,
		ServiceChanges: s.changes[Services], SliceChanges: s.changes[Slices],
	}
	d.Services = make([]model.Name, 0, len(s.dirty))
	for name := range s.dirty {
		d.Services = append(d.Services, name)
	}
	slices.SortFunc(d.Services, model.Name.Compare)
	s.dirty = map[model.Name]struct{}{} // not cleared: a first sync would leave its size behind
	s.dirtyNode, s.dirtyNetwork, s.dirtyCIDR = false, false, false
	s.since, s.triggers = time.Time{}, nil
	s.changes = [partCount]int{}
	return d
}

// Service returns a Service, nil if it does not exist, and its slices sorted
// by name.
func (s *Store) Service(name model.Name) (*model.Service, []model.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.services[name]
	if e == nil {
		return nil, nil
	}
	return e.service, slices.Clone(e.slices)
}

// Node returns this node's values; they are zero until a source has set them.
func (s *Store) Node() model.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// Network returns this node's own network, and whether it is known yet. It is no
// Part: another source than that of the Services tells it, and what does not
// need it, a ClusterIP say, need not wait for it. Who needs it must not act
// before it is known: an empty network would take NodePorts away that work.
func (s *Store) Network() (model.Network, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.network == nil {
		return model.Network{}, false
	}
	return *s.network, true
}

// ServiceCIDRs returns the ranges of which ClusterIPs are taken, sorted. It is
// empty where nobody says what they are: an old API server does not, nor need a
// folder of manifests. Nothing waits for them.
func (s *Store) ServiceCIDRs() []netip.Prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []netip.Prefix
	for _, cidrs := range s.cidrs {
		all = append(all, cidrs...)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return slices.Compact(all)
}

// RangesKnown returns a channel that is closed once ServiceCIDRs has been told,
// or everything else, of which it may come after. It may change later.
func (s *Store) RangesKnown() <-chan struct{} { return s.ranges }

// knowRanges closes ranges. The lock is held.
func (s *Store) knowRanges() {
	select {
	case <-s.ranges:
	default:
		close(s.ranges)
	}
}

// Names returns the names of all Services that exist, sorted. A Service of
// which there are only slices is not among them.
func (s *Store) Names() []model.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]model.Name, 0, len(s.services))
	for name, e := range s.services {
		if e.service != nil {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, model.Name.Compare)
	return names
}
