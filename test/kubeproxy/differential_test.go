// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"flag"
	"io"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/features"

	"github.com/beeline-net/beeline/internal/plan"
)

// How much the tests do unless the environment says otherwise: steps in all,
// and at most how many before a sequence empties its cluster.
const (
	defaultSteps  = 120_000
	sequenceSteps = 150
)

func TestMain(m *testing.M) {
	// kube-proxy tells stderr what it ignores of what the generator makes.
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			panic(err)
		}
	}
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// TestDifferential compares both sides after every step of random sequences.
func TestDifferential(t *testing.T) {
	differential(t, asKubeProxy(), setting(t, "BEELINE_DIFF_STEPS", defaultSteps), setting(t, "BEELINE_DIFF_SEED", 1))
}

// TestDifferentialWithoutExternalIPs does the same where externalIPs are
// switched off.
func TestDifferentialWithoutExternalIPs(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.AllowServiceExternalIPs, false)
	config := asKubeProxy()
	config.AllowExternalIPs = false
	differential(t, config, setting(t, "BEELINE_DIFF_STEPS", defaultSteps)/10, setting(t, "BEELINE_DIFF_SEED", 1))
}

// differential plays the sequences of consecutive seeds until all steps are
// done.
func differential(t *testing.T, config plan.Config, want, first int) {
	var seed, done atomic.Int64
	seed.Store(int64(first) - 1)
	var mu sync.Mutex
	seen := census{}
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for done.Load() < int64(want) && !t.Failed() {
				n := seed.Add(1)
				steps := invent(seeded(uint64(n)), sequenceSteps)
				m := newMatch(config)
				if m.play(steps) != "" {
					t.Errorf("seed %d fails; to see it again: BEELINE_DIFF_SEED=%d BEELINE_DIFF_STEPS=1", n, n)
					explain(t, config, steps)
				}
				done.Add(int64(len(steps)))
				mu.Lock()
				seen.add(m.census)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	t.Logf("%d steps compared on %d nodes; seeds %d to %d", done.Load(), len(observers), first, seed.Load())
	if testing.Verbose() {
		t.Logf("seen:\n%v", seen)
	}
	if missing := seen.missing(); want >= 10_000 && config.AllowExternalIPs && len(missing) > 0 {
		t.Errorf("never seen, so the generator has a gap: %q", missing)
	}
}

// invent makes a sequence of up to limit steps, ending early when the dice are
// spent, and lets it end with an empty cluster.
func invent(d *dice, limit int) []step {
	g := &generator{dice: d, cluster: cluster{}}
	steps := []step{g.start()}
	for len(steps) < limit && !d.spent {
		steps = append(steps, g.step())
	}
	return append(steps, g.emptying()...)
}

// explain tells a failure with as few steps as show it.
func explain(t *testing.T, config plan.Config, steps []step) {
	t.Helper()
	fails := func(steps []step) string { return newMatch(config).play(steps) }
	steps = shrink(steps, fails)
	t.Errorf("%s\nafter these %d steps:\n%s", fails(steps), len(steps), printSteps(steps))
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
	f.Fuzz(func(t *testing.T, data []byte) {
		steps := invent(scripted(data), sequenceSteps)
		if newMatch(asKubeProxy()).play(steps) != "" {
			explain(t, asKubeProxy(), steps)
		}
	})
}
