// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/plan"
)

// onRanges fails writes of one kind to the source ranges.
func onRanges(op maps.Op) func(maps.Write) error {
	return func(w maps.Write) error {
		if w.Table == abi.MapSourceRanges && w.Op == op {
			return errInjected
		}
		return nil
	}
}

func rangesOf(w *world, service uint32) []string {
	return rangeStrings(sourceRanges(w.tables)[service])
}

// A frontend that cannot be guarded is not published: it would be closed to
// everybody, and open to all if the flag were left out.
func TestNoGuardNoFrontend(t *testing.T) {
	w := newWorld(t, smallTables())
	w.fail = onRanges(maps.Put)
	w.apply(serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}))
	if p := w.r.Pending(); len(p) != 1 || !errors.Is(p[0].Err, errInjected) || w.r.present != 0 {
		t.Errorf("%d frontends, pending: %+v", w.r.present, p)
	}
	w.settle()
	w.converged()
}

// While source ranges cannot be written, endpoints are.
func TestEndpointsChangeWithoutTheirRanges(t *testing.T) {
	for op, ranges := range map[maps.Op][]string{maps.Put: {"192.0.2.0/24", "198.51.100.0/24"}, maps.Delete: {"198.51.100.0/24"}} {
		t.Run(op.String(), func(t *testing.T) {
			w := newWorld(t, smallTables())
			w.apply(serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}))
			w.elapse()
			w.converged()
			w.fail = onRanges(op)
			w.apply(serviceOf("a", spec{ranges: ranges, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}}))
			if got := (&reader{w: w}).content(capture{word: w.tables.Sets.Load(0, abi.SetCluster)}); got != "10.1.0.2:8080" {
				t.Errorf("the set is %s", got)
			}
			w.settle()
			w.converged()
		})
	}
}

// Whom a change keeps out is kept out, whether or not there is room for the
// rest of the change.
func TestRangesAreTakenBackWithoutRoomForEndpoints(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 9, Services: 9, Slots: 3, Backends: 9, Packet: smallPacket}))
	a := manyEndpoints(0, 2)
	a.Ports[0].Frontends[0].SourceRanges = prefixes("192.0.2.0/24", "198.51.100.0/24")
	w.apply(a)
	w.elapse()
	w.converged()
	b := manyEndpoints(0, 3)
	b.Ports[0].Frontends[0].SourceRanges = prefixes("198.51.100.0/24")
	w.apply(b)
	if p := w.r.Pending(); len(p) != 1 || !p[0].Full {
		t.Fatalf("pending: %+v", p)
	}
	if got := rangesOf(w, 0); !slices.Equal(got, []string{"198.51.100.0/24"}) {
		t.Errorf("ranges %v", got)
	}
}

// A table that is full is no reason to let anybody in longer, and makes room
// for what comes instead.
func TestRangesAreExchangedWithoutRoom(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 9, Services: 9, Slots: 9, Backends: 9, Packet: maps.PacketSizes{SourceRanges: 2}}))
	w.scarce = true
	at := spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}
	at.ranges = []string{"192.0.2.0/24", "198.51.100.0/24"}
	w.apply(serviceOf("a", at))
	w.elapse()
	w.converged()
	at.ranges = []string{"198.51.100.0/24", "203.0.113.0/24"}
	w.apply(serviceOf("a", at))
	w.converged()
}

// Nobody inherits the source ranges of a Service that is gone.
func TestRangesAreNotInherited(t *testing.T) {
	w := newWorld(t, smallTables())
	at := spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}
	w.apply(serviceOf("a", at))
	w.elapse()
	w.converged()
	w.fail = onRanges(maps.Delete)
	w.apply(serviceOf("a"))
	w.elapse()
	at.ranges, at.frontends = []string{"198.51.100.0/24"}, []string{"10.0.0.2:80"}
	b := serviceOf("b", at)
	w.apply(b)
	f, there, _ := w.tables.Frontends.Get(frontendKey(b.Ports[0].Frontends[0].FrontendKey))
	if got := rangesOf(w, f.Service); !there || !slices.Equal(got, []string{"198.51.100.0/24"}) {
		t.Errorf("frontend %v %+v, ranges %v", there, f, got)
	}
	if p := w.r.Pending(); len(p) != 1 || !errors.Is(p[0].Err, errInjected) || p[0].Service.Name != "a" || w.r.NextRetry().IsZero() {
		t.Errorf("pending: %+v", p)
	}
	w.settle()
	w.converged()
}

// Ranges that are no longer asked for outlive the programs that have read that
// they are, and are taken back even if that fails at first.
func TestLastRangesWaitForPrograms(t *testing.T) {
	w := newWorld(t, smallTables())
	at := spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}
	open := serviceOf("a", at)
	at.ranges = []string{"192.0.2.0/24"}
	closed := serviceOf("a", at)
	for _, again := range []bool{false, true} {
		w.apply(closed)
		w.elapse()
		w.converged()
		w.apply(open)
		if got := rangesOf(w, 0); len(got) != 1 {
			t.Errorf("ranges %v went away under their readers", got)
		}
		w.fail = onRanges(maps.Delete)
		w.elapse()
		if p := w.r.Pending(); len(p) != 1 || !errors.Is(p[0].Err, errInjected) {
			t.Errorf("pending: %+v", p)
		}
		if again { // they are wanted before they could be taken back
			w.fail = nil
			w.apply(closed)
			w.elapse()
			w.converged()
			w.apply(open)
		}
		w.settle()
		w.converged()
	}
}

// The cost of a change of source ranges is that change.
func TestOneRangeCostsItsEntryOnly(t *testing.T) {
	w := newWorld(t, smallTables())
	at := spec{ranges: []string{"192.0.2.0/24", "198.51.100.0/24"}, frontends: []string{"10.0.0.1:80"}, affinity: time.Hour}
	w.apply(serviceOf("a", at))
	at.ranges = []string{"192.0.2.0/24", "203.0.113.0/24"}
	if stats := w.apply(serviceOf("a", at)); stats.Puts != 1 || stats.Deletes != 1 || stats.Stores != 0 {
		t.Errorf("one range for another: %+v", stats)
	}
}

func TestPlanWithTwoGuards(t *testing.T) {
	w := newWorld(t, smallTables())
	s := serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80", "10.0.0.2:80"}})
	s.Ports[0].Frontends[1].SourceRanges = prefixes("198.51.100.0/24")
	w.r.Apply(t.Context(), []plan.Service{s})
	if len(w.r.Pending()) != 1 || w.r.present != 0 || w.r.ranges != 0 {
		t.Errorf("pending %+v, %d frontends", w.r.Pending(), w.r.present)
	}
}
