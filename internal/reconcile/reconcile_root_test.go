// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/plan"
)

// kernelTables makes the real maps, not pinned. With sizes given they have
// those, which the strict reader can walk after every write.
func kernelTables(t testing.TB, sizes map[string]uint32) *maps.Tables {
	t.Helper()
	lab.RequireRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	specs, err := abi.MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	opened := map[string]*ebpf.Map{}
	for name, spec := range specs {
		if n, ok := sizes[name]; ok {
			spec.MaxEntries = n
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatalf("make map %s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		opened[name] = m
	}
	tables, err := maps.New(opened)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tables.Close(); err != nil {
			t.Error(err)
		}
	})
	return tables
}

func smallKernel(t testing.TB) *maps.Tables {
	return kernelTables(t, map[string]uint32{
		abi.MapFrontends: 100, abi.MapServices: 150, abi.MapSets: 150 * abi.SetKinds,
		abi.MapSlots: 2000, abi.MapBackends: 600, abi.MapPeers: 1, abi.MapAffinities: 1,
		abi.MapLocalAddrs: 20, abi.MapPodRanges: 6, abi.MapSourceRanges: 200, abi.MapEgressAddrs: 20,
		abi.MapFlows: 1, abi.MapFlowIndex: 1, abi.MapFragments: 1,
	})
}

func TestKernelScripts(t *testing.T) { runScripts(t, smallKernel) }

func TestKernelHostScript(t *testing.T) { runHost(t, smallKernel) }

func TestKernelRandomSequences(t *testing.T) { runRandom(t, smallKernel, 10) }

// The number: the kernel part of the first sync of 10,000 Services
// with 10 endpoints each stays under 0.5 s.
func TestKernelTenThousandServices(t *testing.T) {
	const services, endpoints, limit = 10_000, 10, 500 * time.Millisecond
	tables := kernelTables(t, nil)
	var plans []plan.Service
	for i := range services {
		plans = append(plans, manyEndpoints(i, endpoints))
	}
	ctx := context.Background()
	r := newRestored(t, tables)
	runtime.GC() // of what made the plans
	runtime.LockOSThread()
	waited := runDelay(t)
	first := r.Apply(ctx, plans)
	waited = runDelay(t) - waited
	runtime.UnlockOSThread()
	t.Logf("first apply: %+v, of which others had the CPU for %v", first, waited)
	if own := first.Took - waited; own > limit {
		t.Errorf("first apply took %v by itself, more than %v", own, limit)
	}
	if p := r.Pending(); len(p) > 0 {
		t.Fatalf("pending: %+v", p[0])
	}
	t.Logf("the same again: %+v", r.Apply(ctx, plans))
	t.Logf("one endpoint fewer: %+v", r.Apply(ctx, []plan.Service{manyEndpoints(5000, endpoints-1)}))
	if err := r.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("one endpoint more: %+v", r.Apply(ctx, []plan.Service{manyEndpoints(5000, endpoints)}))
	t.Logf("one Service more: %+v", r.Apply(ctx, []plan.Service{manyEndpoints(services, endpoints)}))
	t.Logf("usage: %+v", r.Usage())
	r.Close()

	start := time.Now()
	r = newRestored(t, tables)
	t.Logf("restore: %v", time.Since(start))
	again := r.Apply(ctx, plans)
	if again.Writes() != 0 {
		t.Errorf("apply after a restart: %+v", again)
	}
	t.Logf("apply after a restart: %+v", again)
	t.Logf("prune of one Service: %+v", r.Prune(ctx))
	var none []plan.Service
	for _, p := range plans {
		none = append(none, plan.Service{Name: p.Name})
	}
	t.Logf("remove all: %+v", r.Apply(ctx, none))
	if err := r.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for _, u := range r.Usage() {
		if u.Used != 0 {
			t.Errorf("left over: %+v", u)
		}
	}
	r.Close()
}

// runDelay is what a busy machine adds to what takes time on this thread.
func runDelay(t *testing.T) time.Duration {
	t.Helper()
	d, err := lab.ThreadRunDelay()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newRestored(t *testing.T, tables *maps.Tables) *Reconciler {
	t.Helper()
	r := New(tables, Options{})
	if err := r.Restore(context.Background()); err != nil {
		t.Fatal(err)
	}
	return r
}
