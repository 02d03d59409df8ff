// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// How much TestDifferential does; each seed is one sequence of about as many
// steps.
const (
	defaultSteps = 120_000
	stepsPerSeed = 150
)

// observers are the nodes from which both sides look at the same cluster: in
// two zones, and one that may have none. A fourth only has endpoints.
var observers = nodeNames[:3]

func TestMain(m *testing.M) {
	// kube-proxy says on stderr what it ignores in what the generator makes.
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("alsologtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// match is a cluster with both sides watching it.
type match struct {
	cluster cluster
	theirs  *kubeProxies
	ours    *beelines
}

// newMatch makes one whose nodes exist and are nowhere in particular.
func newMatch() *match {
	m := &match{cluster: cluster{}, theirs: newKubeProxies(observers), ours: newBeelines(observers)}
	m.take(bareNodes())
	return m
}

func bareNodes() step {
	var s step
	for _, name := range observers {
		s = append(s, put(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	return s
}

// take lets both sides learn a step.
func (m *match) take(s step) {
	for _, c := range s {
		if e, ok := m.cluster.apply(c); ok {
			m.theirs.handle(e)
			m.ours.handle(e)
		}
	}
	m.theirs.sync()
	m.ours.sync()
}

// difference compares both sides on every node.
func (m *match) difference() string {
	for _, node := range observers {
		diff := difference(m.theirs.view(node), m.ours.view(node))
		diff += m.ours.nodes[node].complaint()
		if diff != "" {
			return fmt.Sprintf("on %s:\n%s", node, diff)
		}
	}
	return ""
}

// check plays a sequence with everything that has to hold, and returns what
// does not; "" if all does.
func check(steps []step) string { return newMatch().play(steps) }

func (m *match) play(steps []step) string {
	last := lastPut(steps)
	for i, s := range steps {
		m.take(s)
		if diff := m.difference(); diff != "" {
			return diff
		}
		if i == last {
			if diff := m.checkOrder(steps[:i+1]); diff != "" {
				return diff
			}
		}
	}
	return m.leftovers()
}

// invent makes a sequence of up to limit steps, ending early when the dice are
// spent, and one that removes everything.
func invent(d *dice, limit int) []step {
	g := &generator{dice: d, cluster: cluster{}}
	steps := []step{g.start()}
	for len(steps) < limit && !d.spent {
		steps = append(steps, g.step())
	}
	return append(steps, g.emptying()...)
}

// emptying removes everything that can be, in any order.
func (g *generator) emptying() []step {
	rest := append(g.cluster.keys(serviceKind), g.cluster.keys(sliceKind)...)
	shuffle(g.dice, rest)
	var steps []step
	for _, k := range rest {
		steps = append(steps, step{g.make(remove(k))})
	}
	return steps
}

// report plays, and explains a failure with as few steps as show it.
func report(t *testing.T, steps []step, fails func([]step) string) {
	t.Helper()
	diff := fails(steps)
	if diff == "" {
		return
	}
	steps = shrink(steps, fails)
	t.Errorf("%s\nafter these %d steps:\n%s", fails(steps), len(steps), printSteps(steps))
}

func TestDifferential(t *testing.T) {
	want, first := setting(t, "BEELINE_DIFF_STEPS", defaultSteps), setting(t, "BEELINE_DIFF_SEED", 1)
	var seed, done atomic.Int64
	seed.Store(int64(first) - 1)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for done.Load() < int64(want) && !t.Failed() {
				n := seed.Add(1)
				steps := invent(seeded(uint64(n)), stepsPerSeed)
				done.Add(int64(len(steps)))
				if diff := check(steps); diff != "" {
					t.Logf("seed %d fails; again with BEELINE_DIFF_SEED=%d BEELINE_DIFF_STEPS=1", n, n)
					report(t, steps, check)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d steps on %d nodes, seeds %d to %d", done.Load(), len(observers), first, seed.Load())
}

// setting is a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	value, ok := os.LookupEnv(name)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// FuzzDifferential lets a fuzzer choose what happens.
func FuzzDifferential(f *testing.F) {
	for seed := range uint64(8) {
		d := seeded(1000 + seed)
		data := make([]byte, 1500)
		for i := range data {
			data[i], _ = d.next()
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		report(t, invent(scripted(data), stepsPerSeed), check)
	})
}
