// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// scripts are sequences of Apply calls. Each is run with every kind of trouble.
var scripts = map[string][][]plan.Service{
	"one Service, made and removed": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}})},
		{serviceOf("a")},
	},
	"endpoints come, change and go": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 terminating", "10.1.0.3:8080 local"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 draining", "10.1.0.3:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}})},
	},
	"the one endpoint is replaced": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
	},
	"traffic policy to Local and back, the endpoints changing": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 local", "10.1.0.2:8080"}})},
		{serviceOf("a", spec{local: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 local", "10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{local: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080", "10.1.0.3:8080"}})},
		{serviceOf("a", spec{local: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080 local", "10.1.0.3:8080"}})},
	},
	"both traffic policies to Local and back, the endpoints changing": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 local", "10.1.0.2:8080"}})},
		{serviceOf("a", spec{local: true, inLocal: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 local", "10.1.0.3:8080"}})},
		{serviceOf("a", spec{inLocal: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080 local"}})},
		{serviceOf("a", spec{local: true, inLocal: true, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
	},
	"a frontend moves, named first by who loses it": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}),
			serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a"),
			serviceOf("b", spec{frontends: []string{"10.0.0.1:80", "10.0.0.2:80"}, backends: []string{"10.1.0.2:8080"}})},
	},
	"a frontend moves, named first by who gains it": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("b", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}}), serviceOf("a")},
	},
	"two frontends change places": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}),
			serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.1:8080"}}),
			serviceOf("b", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
	},
	"a port is renamed": {
		{serviceOf("a", spec{port: "http", frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{port: "web", frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
	},
	"a Service is deleted and made again": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a")},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
	},
	"affinity and node ports": {
		{serviceOf("a", spec{affinity: 3 * time.Hour, frontends: []string{"0.0.0.0:30080", "10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{affinity: time.Minute, frontends: []string{"0.0.0.0:30080", "10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
	},
	"an address refused by two Services": {
		{withAddresses(serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}}), "10.0.0.1"),
			withAddresses(serviceOf("b", spec{frontends: []string{"10.0.0.1:81"}}), "10.0.0.1")},
		{serviceOf("a")},
		{serviceOf("b")},
	},
	"source ranges come, change and go": {
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("a", spec{ranges: []string{"192.0.2.128/25", "198.51.100.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{ranges: []string{"128.0.0.0/1"}, frontends: []string{"0.0.0.0:30080", "10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{ranges: []string{"203.0.113.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
		{serviceOf("a", spec{ranges: []string{"198.51.100.0/24"}})},
	},
	"a frontend with source ranges moves to a Service with others": {
		{serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("b", spec{ranges: []string{"192.0.2.128/25", "198.51.100.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}}),
			serviceOf("a", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.1:8080"}})},
		{serviceOf("b"), serviceOf("c", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})},
	},
	"both families and two ports": {
		{serviceOf("a",
			spec{port: "dns", protocol: model.UDP, frontends: []string{"10.0.0.1:53"}, backends: []string{"10.1.0.1:53"}},
			spec{port: "dns-tcp", frontends: []string{"10.0.0.1:53"}, backends: []string{"10.1.0.1:53"}},
			spec{port: "dns6", protocol: model.UDP, frontends: []string{"[fd00::1]:53"}, backends: []string{"[fd00:1::1]:53"}})},
		{serviceOf("a",
			spec{port: "dns", protocol: model.UDP, frontends: []string{"10.0.0.1:53"}, backends: []string{"10.1.0.1:53"}})},
	},
}

// makeTables makes the tables that the scripts run on; the root tests have
// another one.
type makeTables func(t testing.TB) *maps.Tables

func inMemory(testing.TB) *maps.Tables { return smallTables() }

func TestScripts(t *testing.T) { runScripts(t, inMemory) }

func runScripts(t *testing.T, tables makeTables) {
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			t.Run("plainly", func(t *testing.T) { runPlainly(t, tables(t), script) })
			t.Run("restarting between", func(t *testing.T) { runRestarting(t, tables(t), script) })
			t.Run("every write failing once", func(t *testing.T) { runFailing(t, tables, script) })
			t.Run("dying at every write", func(t *testing.T) { runDying(t, tables, script) })
		})
	}
}

func runPlainly(t *testing.T, tables *maps.Tables, script [][]plan.Service) {
	for _, elapse := range []bool{true, false} {
		w := newWorld(t, tables)
		for _, plans := range script {
			w.apply(plans...)
			if elapse {
				w.elapse()
				w.converged()
			}
			if again := w.apply(plans...); again.Writes() != 0 {
				t.Errorf("the same once more: %+v", again)
			}
		}
		w.elapse()
		w.converged()
		w.empty()
	}
}

// empty removes everything and checks that nothing is left.
func (w *world) empty() {
	w.t.Helper()
	var none []plan.Service
	for _, p := range w.all() {
		none = append(none, plan.Service{Name: p.Name})
	}
	w.apply(none...)
	w.applyHost(host.Tables{})
	w.elapse()
	w.converged()
	if len(w.r.services)+len(w.r.frontends)+len(w.r.filter)+len(w.r.contested) != 0 {
		w.t.Errorf("records left: %d Services, %d frontends", len(w.r.services), len(w.r.frontends))
	}
}

func runRestarting(t *testing.T, tables *maps.Tables, script [][]plan.Service) {
	w := newWorld(t, tables)
	for _, plans := range script {
		w.apply(plans...)
		w.elapse()
		w.converged()
		before := numbering(t, w.tables)
		w.kill()
		if stats := w.apply(w.all()...); stats.Writes() != 0 {
			t.Errorf("apply after a restart: %+v", stats)
		}
		if stats := w.r.Prune(t.Context()); stats.Writes() != 0 {
			t.Errorf("prune after a restart: %+v", stats)
		}
		w.converged()
		if diff := cmp.Diff(before, numbering(t, w.tables)); diff != "" {
			t.Errorf("indexes: -before +after\n%s", diff)
		}
	}
	w.empty()
}

// numbering maps what has a number to its number and generation.
func numbering(t testing.TB, tables *maps.Tables) map[string]string {
	found := map[string]string{}
	err := tables.Services.Each(func(i uint32, n abi.ServiceName) bool {
		id, _ := portID(n)
		found[id.String()] = fmt.Sprint(i)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables.Backends.Len() {
		if b := tables.Backends.Load(i); b.Generation != 0 {
			found[fmt.Sprint(b.Service, abi.NetIP(b.Addr), b.Port)] = fmt.Sprint(i, b.Generation)
		}
	}
	return found
}

func runFailing(t *testing.T, tables makeTables, script [][]plan.Service) {
	for failing := 1; ; failing++ {
		w := newWorld(t, tables(t))
		asked := 0
		w.fail = func(maps.Write) error {
			if asked++; asked == failing {
				return errInjected
			}
			return nil
		}
		for _, plans := range script {
			w.apply(plans...)
			w.elapse()
		}
		total := asked
		w.settle()
		w.converged()
		if failing > total {
			return
		}
	}
}

func runDying(t *testing.T, tables makeTables, script [][]plan.Service) {
	for last := range script {
		for dying := 1; ; dying++ {
			w := newWorld(t, tables(t))
			for _, plans := range script[:last] {
				w.apply(plans...)
				w.elapse()
			}
			w.converged()
			dead := w.applyUntil(dying, script[last]...)
			w.kill()
			w.apply(w.all()...)
			w.r.Prune(t.Context())
			w.elapse()
			w.converged()
			w.empty()
			if !dead {
				break
			}
		}
	}
}

func TestRandomSequences(t *testing.T) {
	runRandom(t, inMemory, 60)
}

// runRandom plays random histories in which writes fail, grace periods last
// and the reconciler dies.
func runRandom(t *testing.T, tables makeTables, seeds int) {
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			w := newWorld(t, tables(t))
			g := newGenerator(uint64(seed))
			for range 25 {
				w.step(g, func() { w.settle(); w.converged() })
			}
			w.settle()
			w.converged()
			w.empty()
		})
	}
}

func (w *world) step(g *generator, converge func()) {
	w.fail = func(maps.Write) error {
		if g.IntN(10) == 0 {
			return errInjected
		}
		return nil
	}
	plans := g.change()
	if g.IntN(4) == 0 {
		w.applyHost(g.host())
	}
	switch g.IntN(8) {
	case 0:
		w.fail = nil
		w.applyUntil(g.IntN(40)+1, plans...)
		w.kill()
		w.applyHost(w.host())
		w.apply(w.all()...)
		w.r.Prune(w.t.Context())
	case 1:
		w.apply(plans...)
		converge()
	case 2:
		w.clock = w.clock.Add(time.Duration(g.IntN(60)) * time.Second)
		w.apply(plans...)
		w.r.Retry(w.t.Context())
		w.check()
	case 3:
		w.apply(plans...)
		w.elapse()
	default:
		w.apply(plans...)
	}
}

// In whatever order and portions plans come, the tables end up the same.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(30) {
		g := newGenerator(seed)
		desired := map[model.Name]plan.Service{}
		for range 10 {
			for _, p := range g.change() {
				desired[p.Name] = p
			}
		}
		plans := slices.Collect(func(yield func(plan.Service) bool) {
			for i := range generatedServices {
				yield(desired[model.Name{Namespace: "ns", Name: fmt.Sprint("s", i)}])
			}
		})
		plans = slices.DeleteFunc(plans, func(p plan.Service) bool { return p.Name.Name == "" })
		for range 5 {
			g.Shuffle(len(plans), func(i, j int) { plans[i], plans[j] = plans[j], plans[i] })
			w := newWorld(t, smallTables())
			for rest := plans; len(rest) > 0; {
				n := g.IntN(len(rest)) + 1
				w.apply(rest[:n]...)
				rest = rest[n:]
			}
			w.converged()
		}
	}
}

func TestOneEndpointCostsItsServiceOnly(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 3000, Services: 3000, Slots: 40000, Backends: 20000}))
	w.reader = nil
	var plans []plan.Service
	for i := range 1000 {
		plans = append(plans, manyEndpoints(i, 10))
	}
	w.apply(plans...)
	changed := manyEndpoints(500, 9)
	stats := w.apply(changed)
	t.Logf("one endpoint fewer of 10, in 1,000 Services: %+v", stats)
	// 9 slots, the set's word, the endpoint's status.
	if stats.Stores != 11 || stats.Puts+stats.Deletes+stats.Syscalls != 0 {
		t.Errorf("writes: %+v", stats)
	}
	w.elapse()
	stats = w.apply(manyEndpoints(500, 10))
	t.Logf("one more: %+v", stats)
	// 10 slots, the word, 4 words of the endpoint.
	if stats.Stores > 15 || stats.Puts+stats.Deletes+stats.Syscalls != 0 {
		t.Errorf("writes: %+v", stats)
	}
	w.elapse()
	w.converged()
}

func manyEndpoints(i, endpoints int) plan.Service {
	s := spec{port: "http", frontends: []string{fmt.Sprintf("10.%d.%d.%d:80", 100+i>>16, i>>8&255, i&255)}}
	for e := range endpoints {
		s.backends = append(s.backends, fmt.Sprintf("10.%d.%d.%d:8080", 10+e, i>>8, i&255))
	}
	return serviceOf(fmt.Sprint("s", i), s)
}

func TestNothingRestoredIsRemovedBeforePrune(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	b := withAddresses(serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.2:8080"}}), "10.0.0.2")
	w.apply(a, b)
	w.elapse()
	w.converged()
	w.kill()
	w.apply(a)
	w.elapse()
	w.converged() // b is still there
	w.want(plan.Service{Name: b.Name})
	w.r.Prune(t.Context())
	w.elapse()
	w.converged()
}

// Generations of an index go on after the process that gave them, also those
// of backends that are gone.
func TestGenerationsSurviveRestart(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	for want := range uint32(5) {
		w.apply(a)
		b := w.tables.Backends.Load(0)
		if b.Generation != want+1 {
			t.Fatalf("generation %d, want %d", b.Generation, want+1)
		}
		w.apply(plan.Service{Name: a.Name})
		w.elapse()
		w.converged()
		w.kill()
	}
}

// Who remembers a UDP flow to a backend learns from it that its Service port has
// lost a frontend, to another one or altogether; nothing else tells so.
func TestBackendsSayThatAFrontendHasLeft(t *testing.T) {
	lost := func(w *world) uint16 { return w.tables.Backends.Load(0).Lost }
	backend := []string{"10.1.0.1:8080"}
	for _, protocol := range []model.Protocol{model.UDP, model.TCP, model.SCTP} {
		w := newWorld(t, smallTables())
		both := serviceOf("a", spec{frontends: []string{"10.0.0.1:80", "10.0.0.2:80"}, backends: backend, protocol: protocol})
		one := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: backend, protocol: protocol})
		w.apply(both)
		w.apply(serviceOf("a", spec{frontends: []string{"10.0.0.1:80", "10.0.0.2:80"}, backends: backend, protocol: protocol, inLocal: true}))
		w.apply(both)
		if n := lost(w); n != 0 {
			t.Errorf("%v: %d without a loss", protocol, n)
		}
		w.apply(one, serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: backend, protocol: protocol}))
		w.elapse()
		w.converged()
		moved := lost(w)
		w.kill()
		w.apply(both, plan.Service{Name: serviceOf("b").Name})
		w.apply(one)
		w.elapse()
		w.converged()
		removed := lost(w)
		if udp := protocol == model.UDP; (moved > 0) != udp || (removed > moved) != udp {
			t.Errorf("%v: %d after a frontend moved, %d after one was removed", protocol, moved, removed)
		}
	}
}

func TestNumbersAreNotReusedWithinGracePeriod(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	w.apply(a)
	w.apply(plan.Service{Name: a.Name})
	b := serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.1:8080"}})
	w.apply(b)
	f, _, _ := w.tables.Frontends.Get(frontendKey(b.Ports[0].Frontends[0].FrontendKey))
	base, _ := abi.UnpackSet(w.tables.Sets.Load(f.Service, abi.SetCluster))
	if f.Service == 0 || base == 0 || w.tables.Slots.Load(base) == 0 {
		t.Errorf("reused: service %d, slot %d, backend %d", f.Service, base, w.tables.Slots.Load(base))
	}
	if w.tables.Backends.Load(0).Generation == 0 {
		t.Error("the removed backend died under its readers")
	}
	w.elapse()
	if w.tables.Backends.Load(0).Generation != 0 {
		t.Error("the removed backend lives on")
	}
	w.converged()
}

func TestApplyWaitsOnlyWhenFull(t *testing.T) {
	tables := maps.NewMemory(maps.Sizes{Frontends: 2, Services: 1, Slots: 2, Backends: 2})
	w := newWorld(t, tables)
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}})
	b := serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}})
	w.apply(a)
	w.apply(plan.Service{Name: a.Name}) // returns although nobody ends the grace period
	w.gate <- struct{}{}
	w.apply(b)
	w.converged()
}

// A frontend moves to a Service that needs the very room its holder has.
func TestMoveWithoutRoom(t *testing.T) {
	tables := maps.NewMemory(maps.Sizes{Frontends: 1, Services: 1, Slots: 2, Backends: 2})
	w := newWorld(t, tables)
	w.reader = nil // absent for a while: there is no other way
	w.apply(serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}}))
	w.gate <- struct{}{}
	w.apply(serviceOf("a"), serviceOf("b", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}}))
	w.elapse()
	w.converged()
}

func TestWhatDoesNotFitIsPendingAndTheRestWorks(t *testing.T) {
	for name, size := range map[string]maps.Sizes{
		"frontends": {Frontends: 3, Services: 10, Slots: 100, Backends: 100},
		"services":  {Frontends: 10, Services: 3, Slots: 100, Backends: 100},
		"slots":     {Frontends: 10, Services: 10, Slots: 6, Backends: 100},
		"backends":  {Frontends: 10, Services: 10, Slots: 100, Backends: 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, maps.NewMemory(size))
			w.reader = nil
			var plans []plan.Service
			for i := range 4 {
				plans = append(plans, manyEndpoints(i, 2))
			}
			w.apply(plans...)
			pending := w.r.Pending()
			if len(pending) != 1 || pending[0].Service != plans[3].Name || !pending[0].Full {
				t.Fatalf("pending: %+v", pending)
			}
			if w.r.NextRetry().IsZero() {
				t.Error("no retry is due")
			}
			if _, there, _ := w.tables.Frontends.Get(frontendKey(plans[3].Ports[0].Frontends[0].FrontendKey)); there {
				t.Error("a frontend was published that leads nowhere")
			}
			if w.r.present != 3 {
				t.Errorf("%d frontends", w.r.present)
			}
			w.apply(plan.Service{Name: plans[0].Name})
			w.settle()
			w.converged()
		})
	}
}

func TestContestedFrontend(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	b := serviceOf("b", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.2:8080"}})
	w.apply(b)
	w.apply(a) // comes first by name, but b has it
	pending := w.r.Pending()
	if len(pending) != 1 || pending[0].Service != a.Name || !errors.Is(pending[0].Err, ErrContested) {
		t.Fatalf("pending: %+v", pending)
	}
	if !strings.Contains(pending[0].Err.Error(), "10.0.0.1:80/TCP") || !strings.Contains(pending[0].Err.Error(), "ns/b") {
		t.Errorf("error %q names no object", pending[0].Err)
	}
	w.kill()
	w.apply(a, b) // still b's
	if p := w.r.Pending(); len(p) != 1 || p[0].Service != a.Name {
		t.Errorf("pending after a restart: %+v", p)
	}
	w.apply(plan.Service{Name: b.Name})
	w.elapse()
	w.converged()
}

func TestFailureIsReportedWithItsObject(t *testing.T) {
	w := newWorld(t, smallTables())
	w.fail = func(write maps.Write) error {
		if write.Table == abi.MapFrontends {
			return errInjected
		}
		return nil
	}
	w.apply(serviceOf("a", spec{frontends: []string{"10.0.0.1:80", "10.0.0.2:80"}}))
	first := w.clock
	pending := w.r.Pending()
	if len(pending) != 1 || pending[0].Errors != 2 || !errors.Is(pending[0].Err, errInjected) ||
		!strings.HasPrefix(pending[0].Err.Error(), "frontend 10.0.0.1:80/TCP: ") {
		t.Fatalf("pending: %+v", pending)
	}
	for attempts := 2; attempts < 15; attempts++ {
		if stats := w.r.Retry(t.Context()); stats.Services != 0 {
			t.Fatal("retried before it was due")
		}
		w.clock = w.r.NextRetry()
		w.r.Retry(t.Context())
		if p := w.r.Pending()[0]; p.Attempts != attempts || p.Since != first || p.Next.Sub(w.clock) > retryMax {
			t.Fatalf("attempt %d: %+v", attempts, p)
		}
	}
	w.settle()
	w.converged()
	if !w.r.NextRetry().IsZero() {
		t.Error("a retry is due though all is well")
	}
}

// damage is done to tables behind the reconciler's back, while it is down.
var damage = map[string]func(tables *maps.Tables){
	"nothing":               func(*maps.Tables) {},
	"name lost":             func(m *maps.Tables) { must(m.Services.Delete(0)) },
	"name twice":            func(m *maps.Tables) { n, _, _ := m.Services.Get(0); must(m.Services.Put(7, n)) },
	"name garbled":          func(m *maps.Tables) { must(m.Services.Put(8, abi.ServiceName{Family: 9})) },
	"name out of range":     func(m *maps.Tables) { n, _, _ := m.Services.Get(0); must(m.Services.Put(1<<20, n)) },
	"frontend nowhere":      func(m *maps.Tables) { must(m.Frontends.Put(abi.FrontendKey{Port: 9}, abi.Frontend{Service: 1 << 30})) },
	"frontend to nobody":    func(m *maps.Tables) { must(m.Frontends.Put(abi.FrontendKey{Port: 9}, abi.Frontend{Service: 21})) },
	"filter bit lost":       func(m *maps.Tables) { m.Filter.Clear(abi.FilterBit(abi.Addr(netip.MustParseAddr("10.0.0.2")))) },
	"filter bit too many":   func(m *maps.Tables) { m.Filter.Set(4711) },
	"set beyond the slots":  func(m *maps.Tables) { m.Sets.Store(1, abi.SetLocal, abi.SetWord(1<<31, 5)) },
	"set of nobody":         func(m *maps.Tables) { m.Sets.Store(20, abi.SetCluster, abi.SetWord(0, 2)) },
	"sets overlap":          func(m *maps.Tables) { m.Sets.Store(1, abi.SetCluster, m.Sets.Load(0, abi.SetCluster)) },
	"set word garbled":      func(m *maps.Tables) { m.Sets.Store(1, abi.SetCluster, 12345) },
	"source range lost":     func(m *maps.Tables) { must(m.Packet.SourceRanges.Delete(sourceRange(0, "192.0.2.0/24"))) },
	"source range too many": func(m *maps.Tables) { must(m.Packet.SourceRanges.Put(sourceRange(0, "0.0.0.0/0"), 0)) },
	"source range, no flag": func(m *maps.Tables) { must(m.Packet.SourceRanges.Put(sourceRange(1, "192.0.2.0/24"), 0)) },
	"source range, nobody":  func(m *maps.Tables) { must(m.Packet.SourceRanges.Put(sourceRange(20, "192.0.2.0/24"), 0)) },
	"source range nowhere":  func(m *maps.Tables) { must(m.Packet.SourceRanges.Put(sourceRange(1<<30, "192.0.2.0/24"), 0)) },
	"source range for all":  func(m *maps.Tables) { must(m.Packet.SourceRanges.Put(abi.SourceRangeKey{}, 0)) },
	"address lost":          func(m *maps.Tables) { must(m.Packet.LocalAddrs.Delete(abi.Addr(hosts[1].Addresses[0].Addr))) },
	"address too many":      func(m *maps.Tables) { must(m.Packet.LocalAddrs.Put(abi.IP{}, 3)) },
	"address without flags": func(m *maps.Tables) { must(m.Packet.LocalAddrs.Put(abi.Addr(hosts[1].Addresses[0].Addr), 0)) },
	"source replaced":       func(m *maps.Tables) { must(m.Packet.EgressAddrs.Put(abi.NewEgressKey(2, false), abi.IP{})) },
	"pod range too many":    func(m *maps.Tables) { must(m.Packet.PodRanges.Put(abi.PodRangeKey{}, 7)) },
	"reserved ports lost":   func(m *maps.Tables) { m.Packet.ReservedPorts.Store(8080/64, 0) },
	"slot beyond backends":  func(m *maps.Tables) { m.Slots.Store(0, 1<<31) },
	"backend of nobody":     func(m *maps.Tables) { m.Backends.Create(50, abi.Backend{State: 1, Service: 22}) },
	"backend out of range":  func(m *maps.Tables) { m.Backends.Create(50, abi.Backend{State: 1, Service: 1 << 30}) },
	"backend half made":     func(m *maps.Tables) { m.Backends.Create(50, abi.Backend{Service: 1}) },
	"backend twice":         func(m *maps.Tables) { b := m.Backends.Load(0); b.Sets = 0; m.Backends.Create(50, b) },
	"backend killed":        func(m *maps.Tables) { m.Backends.Free(0) },
	"backend in wrong hand": func(m *maps.Tables) { b := m.Backends.Load(0); b.Service = 1; m.Backends.Update(0, b) },
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func TestRestoreMendsDamage(t *testing.T) {
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, smallTables())
			w.applyHost(hosts[1])
			w.apply(
				serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}}),
				serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.3:8080"}}),
				serviceOf("c", spec{frontends: []string{"10.0.0.3:80"}, backends: []string{"10.1.0.4:8080"}}))
			w.elapse()
			w.converged()
			w.reader = nil
			w.r.Close()
			spoil(w.tables)
			w.boot()
			w.applyHost(hosts[1])
			w.apply(w.all()...)
			w.r.Prune(t.Context())
			w.elapse()
			w.converged()
			w.empty()
		})
	}
}

func sourceRange(service uint32, prefix string) abi.SourceRangeKey {
	return abi.NewSourceRangeKey(service, netip.MustParsePrefix(prefix))
}

func TestVerifyAndRepair(t *testing.T) {
	for name, spoil := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, smallTables())
			w.applyHost(hosts[1])
			w.apply(
				withAddresses(serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}}), "10.0.0.1"),
				serviceOf("b", spec{local: true, frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.3:8080"}}),
				serviceOf("c", spec{frontends: []string{"10.0.0.3:80"}, backends: []string{"10.1.0.4:8080"}}))
			if _, err := w.r.Verify(t.Context()); !errors.Is(err, ErrBusy) {
				t.Errorf("verify before Prune: %v", err)
			}
			w.r.Prune(t.Context())
			w.elapse()
			w.converged()
			if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
				t.Fatalf("verify of untouched tables: %+v, %v", drifts, err)
			}
			w.reader = nil
			spoil(w.tables)
			drifts, err := w.r.Verify(t.Context())
			if err != nil || len(drifts) == 0 != (name == "nothing") {
				t.Fatalf("drifts: %+v, %v", drifts, err)
			}
			t.Logf("%+v", drifts)
			w.gate <- struct{}{}
			if _, err := w.r.Repair(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.elapse()
			w.converged()
			if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
				t.Fatalf("after the repair: %+v, %v", drifts, err)
			}
			w.empty()
		})
	}
}

// What happens to other Services is seen and mended while one has no room.
func TestVerifyBesideOneWithoutRoom(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 9, Services: 9, Slots: 9, Backends: 4}))
	w.apply(
		serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}}),
		serviceOf("b", spec{frontends: []string{"10.0.0.2:80"}, backends: []string{"10.1.0.3:8080"}}))
	w.apply(serviceOf("c", spec{frontends: []string{"10.0.0.3:80"}, backends: []string{"10.1.0.4:8080", "10.1.0.5:8080", "10.1.0.6:8080"}}))
	w.r.Prune(t.Context())
	w.elapse()
	if p := w.r.Pending(); len(p) != 1 || p[0].Service.Name != "c" {
		t.Fatalf("pending: %+v", p)
	}
	if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
		t.Fatalf("nothing happened: %+v, %v", drifts, err)
	}
	w.reader = nil
	key := frontendKey(plan.FrontendKey{Addr: netip.MustParseAddr("10.0.0.2"), Port: 80, Protocol: model.TCP})
	must(w.tables.Frontends.Delete(key))
	drifts, err := w.r.Verify(t.Context())
	if err != nil || len(drifts) != 1 || drifts[0].Service.Name != "b" {
		t.Fatalf("a frontend was deleted: %+v, %v", drifts, err)
	}
	w.gate <- struct{}{}
	if _, err := w.r.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.elapse()
	if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
		t.Fatalf("after the repair: %+v, %v", drifts, err)
	}
	if p := w.r.Pending(); len(p) != 1 || p[0].Service.Name != "c" {
		t.Errorf("pending after the repair: %+v", p)
	}
}

// While there is no room for an update, the old state stays whole.
func TestUpdateWithoutRoom(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 9, Services: 9, Slots: 5, Backends: 9}))
	w.apply(manyEndpoints(0, 2), manyEndpoints(1, 2))
	w.elapse()
	w.converged()
	changed := manyEndpoints(0, 2)
	changed.Ports[0].Backends[0].Addr = netip.MustParseAddrPort("10.9.9.9:1")
	w.apply(changed)
	w.elapse()
	w.clock = w.clock.Add(time.Hour)
	w.r.Retry(t.Context())
	w.elapse()
	if p := w.r.Pending(); len(p) != 1 || !p[0].Full || p[0].Attempts != 2 {
		t.Fatalf("pending: %+v", p)
	}
	w.apply(plan.Service{Name: manyEndpoints(1, 0).Name})
	w.settle()
	w.converged()
}

// Random histories in tables that are too small for most of them.
func TestRandomSequencesWithoutRoom(t *testing.T) {
	for seed := range uint64(60) {
		tiny := maps.PacketSizes{LocalAddrs: 20, PodRanges: 6, SourceRanges: 7, EgressAddrs: 20}
		w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 9, Services: 5, Slots: 30, Backends: 16, Packet: tiny}))
		w.hurried, w.scarce = true, true
		g := newGenerator(seed)
		for range 25 {
			w.step(g, w.settleWhatFits)
			for _, a := range w.allowed {
				a.absent = true // for want of room
			}
		}
		w.settleWhatFits()
		w.empty()
	}
}

func TestPlanThatBreaksItsPromises(t *testing.T) {
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080", "10.1.0.2:8080"}})
	for name, spoil := range map[string]func(p *plan.Port){
		"unsorted":      func(p *plan.Port) { slices.Reverse(p.Backends) },
		"no such index": func(p *plan.Port) { p.Cluster.Members = []int{7} },
		"long name":     func(p *plan.Port) { p.ID.Port = strings.Repeat("x", 64) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, smallTables())
			w.reader = nil
			s := a
			s.Ports = slices.Clone(a.Ports)
			s.Ports[0].Backends = slices.Clone(s.Ports[0].Backends)
			spoil(&s.Ports[0])
			w.r.Apply(t.Context(), []plan.Service{s})
			if len(w.r.Pending()) != 1 || w.r.present != 0 {
				t.Errorf("pending %+v, %d frontends", w.r.Pending(), w.r.present)
			}
			w.apply(a)
			w.elapse()
			w.converged()
		})
	}
}

func TestWake(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	w.apply(a)
	w.apply(plan.Service{Name: a.Name})
	w.gate <- struct{}{}
	<-w.r.Wake()
	w.r.Retry(t.Context())
	w.converged()
}

func TestExtents(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		x := newExtents(1000)
		var taken []extent
		owner := make([]bool, 1000)
		mark := func(e extent, to bool) {
			for i := e.base; i < e.end(); i++ {
				if owner[i] == to {
					t.Fatalf("seed %d: slot %d is twice %v", seed, i, to)
				}
				owner[i] = to
			}
		}
		for range 2000 {
			switch e := (extent{uint32(rng.IntN(1000)), uint32(rng.IntN(20) + 1)}); rng.IntN(5) {
			case 0, 1:
				if e, ok := x.alloc(e.count); ok {
					mark(e, true)
					taken = append(taken, e)
				}
			case 2:
				isFree := e.end() <= 1000 && !slices.Contains(owner[e.base:min(e.end(), 1000)], true)
				if ok := x.reserve(e); ok != isFree {
					t.Fatalf("seed %d: reserve %v: %v", seed, e, ok)
				} else if ok {
					mark(e, true)
					taken = append(taken, e)
				}
			default:
				if len(taken) > 0 {
					i := rng.IntN(len(taken))
					mark(taken[i], false)
					x.release(taken[i])
					taken = slices.Delete(taken, i, i+1)
				}
			}
			for i := 1; i < len(x.free); i++ {
				if x.free[i-1].end() >= x.free[i].base {
					t.Fatalf("seed %d: not merged or not sorted: %v", seed, x.free)
				}
			}
		}
		for _, e := range taken {
			x.release(e)
		}
		if diff := cmp.Diff(newExtents(1000).free, x.free, cmp.AllowUnexported(extent{})); diff != "" || x.used != 0 {
			t.Fatalf("seed %d: after all are back, %d used: %s", seed, x.used, diff)
		}
	}
}

func TestIndexes(t *testing.T) {
	x := newIndexes(70)
	if !x.reserve(3) || x.reserve(3) || x.reserve(70) {
		t.Error("reserve")
	}
	seen := map[uint32]bool{3: true}
	for range 69 {
		i, ok := x.alloc()
		if !ok || seen[i] {
			t.Fatalf("alloc: %d, %v", i, ok)
		}
		seen[i] = true
	}
	if i, ok := x.alloc(); ok {
		t.Errorf("alloc of none left: %d", i)
	}
	x.release(66)
	x.release(5)
	for _, want := range []uint32{5, 66} {
		if i, ok := x.alloc(); !ok || i != want {
			t.Errorf("alloc: %d, %v, want %d", i, ok, want)
		}
	}
	if x.used != 70 {
		t.Errorf("used %d", x.used)
	}
}
