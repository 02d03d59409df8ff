// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// many is a world with Services s0, s1, ... of four endpoints each, which holds
// mass removals for a minute; advance moves its clock.
func many(t *testing.T, services int) (w *world, advance func(time.Duration)) {
	w = newWorld(t, plan.Config{NodeName: "here"})
	now := time.Now()
	w.loop.hold.after, w.loop.hold.now = time.Minute, func() time.Time { return now }
	w.populate(services, 4)
	w.synced()
	w.expectServed("at first", services)
	return w, func(d time.Duration) {
		now = now.Add(d)
		w.loop.retry(t.Context())
	}
}

// populate replaces everything that the sources say, as a relist does.
func (w *world) populate(services, endpoints int) {
	var all []model.Service
	var slices []model.EndpointSlice
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		all = append(all, service(name, fmt.Sprintf("10.96.1.%d", i+1)))
		var addrs []string
		for e := range endpoints {
			addrs = append(addrs, fmt.Sprintf("10.1.%d.%d", i, e+1))
		}
		slices = append(slices, slice(name, addrs...))
	}
	w.store.ReplaceServices(all)
	w.store.ReplaceSlices(slices)
}

// served counts the Services to which a connection can be made.
func (w *world) served() int {
	return len(slices.DeleteFunc(w.loop.reconcile.Served(), func(n model.Name) bool { return n == selfTestName }))
}

func (w *world) expectServed(when string, want int) {
	w.t.Helper()
	if got := w.served(); got != want {
		w.t.Errorf("%s: %d Services are served, want %d", when, got, want)
	}
}

func TestAMassRemovalIsHeldUntilItPersists(t *testing.T) {
	for what, relist := range map[string]func(*world){
		"no endpoints": func(w *world) { w.populate(20, 0) },
		"no Services":  func(w *world) { w.populate(0, 0) },
		"one endpoint": func(w *world) { w.populate(20, 1) },
	} {
		t.Run(what, func(t *testing.T) {
			w, advance := many(t, 20)
			relist(w)
			w.pass()
			w.expectServed("held", 20)
			if got := w.loop.reconcile.Members(name("s7")); got != 4 {
				t.Errorf("a Service has %d members", got)
			}
			if got := w.scrape("beeline_services_held")["beeline_services_held"]; got != "20" {
				t.Errorf("metric: %s", got)
			}
			if told := w.told(); len(told) != toldEvents || !strings.Contains(told[0], "UpdateHeld") {
				t.Errorf("Events: %q", told)
			}
			advance(59 * time.Second)
			w.expectServed("not yet", 20)
			advance(time.Second)
			if got := w.loop.reconcile.Members(name("s7")); got > 1 {
				t.Errorf("applied: a Service has %d members", got)
			}
			if got := w.scrape("beeline_services_held")["beeline_services_held"]; got != "0" {
				t.Errorf("metric: %s", got)
			}
		})
	}
}

func TestWhatComesBackIsNotHeld(t *testing.T) {
	w, advance := many(t, 20)
	w.populate(20, 0)
	w.pass()
	w.store.SetService(service("new", "10.96.2.1"))
	w.store.SetSlice(slice("new", "10.2.0.1"))
	w.pass()
	w.expectServed("a new Service comes meanwhile", 21)
	w.populate(20, 3)
	w.pass()
	advance(2 * time.Minute)
	if got := w.loop.reconcile.Members(name("s7")); got != 3 {
		t.Errorf("a Service has %d members, want its new 3", got)
	}
	if len(w.loop.hold.held) > 0 {
		t.Error("something is still held")
	}
}

// The first list of a new agent is the most dangerous: all that it does not
// name goes (pains A5).
func TestTheFirstListIsHeldToo(t *testing.T) {
	w, _ := many(t, 20)
	next, advance := w.restarted()
	next.populate(2, 4)
	next.synced()
	next.expectServed("held", 20)
	select {
	case <-next.loop.inStep:
	default:
		t.Error("what is held keeps the agent from being in step")
	}
	advance(time.Minute)
	next.expectServed("applied", 2)
	if got := len(next.content()); got == 0 {
		t.Error("nothing is left")
	}
}

// restarted is the next agent on the same tables.
func (w *world) restarted() (next *world, advance func(time.Duration)) {
	next = newWorld(w.t, plan.Config{NodeName: "here"})
	now := time.Now()
	next.adopt(w.tables)
	next.loop.hold.after, next.loop.hold.now = time.Minute, func() time.Time { return now }
	return next, func(d time.Duration) {
		now = now.Add(d)
		next.loop.retry(w.t.Context())
	}
}

func TestSmallRemovalsAreNotHeld(t *testing.T) {
	w, _ := many(t, 9)
	w.populate(9, 0)
	w.pass()
	w.expectServed("fewer than ten", 0)
	w, _ = many(t, 50)
	for i := range 11 {
		w.store.SetSlice(slice(fmt.Sprintf("s%d", i)))
	}
	w.pass()
	w.expectServed("fewer than a quarter", 39)
	w, _ = many(t, 20)
	w.populate(20, 2)
	w.pass()
	if got := w.loop.reconcile.Members(name("s7")); got != 2 {
		t.Errorf("half of the endpoints: %d members", got)
	}
	w, _ = many(t, 20)
	w.loop.hold.after = 0
	w.populate(20, 0)
	w.pass()
	w.expectServed("switched off", 0)
}

// A Service that changes again while it is held does not begin its time anew,
// or what is true would never be applied.
func TestAHeldServiceThatChangesIsNotHeldForEver(t *testing.T) {
	w, advance := many(t, 20)
	for i := range 6 { // one endpoint or none, by turns, all of them at once
		w.populate(20, i%2)
		w.pass()
		advance(10 * time.Second)
	}
	if got := w.loop.reconcile.Members(name("s7")); got > 1 {
		t.Errorf("after a minute a Service has %d members", got)
	}
}

// What begins to lose late has its own time: a list that empties bit by bit is
// not applied with its first part.
func TestEachServiceIsHeldForItsOwnTime(t *testing.T) {
	w, advance := many(t, 40)
	for i := range 20 {
		w.store.SetSlice(slice(fmt.Sprintf("s%d", i)))
	}
	w.pass()
	advance(50 * time.Second)
	w.populate(40, 0)
	w.pass()
	advance(10 * time.Second)
	w.expectServed("the first ones are due", 20)
	advance(49 * time.Second)
	w.expectServed("the others are not yet", 20)
	advance(time.Second)
	w.expectServed("all are due", 0)
}

// What a change costs must not grow with the cluster.
func TestASmallChangeDoesNotLookAtEveryService(t *testing.T) {
	w, _ := many(t, 20)
	known, looks := w.loop.hold.known, 0
	w.loop.hold.known = func() []model.Name { looks++; return known() }
	for i := range holdServices - 1 {
		w.store.SetSlice(slice(fmt.Sprintf("s%d", i)))
	}
	w.pass()
	w.expectServed("without the endpoints of some", 20-(holdServices-1))
	if looks > 0 {
		t.Errorf("%d looks at every Service", looks)
	}
}
