// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// Options of a run.
type Options struct {
	// Dir is where results are kept.
	Dir string
	// Classes and Pattern select tests; with no classes, all that can run.
	Classes []Class
	Match   func(name string) bool
	// Again says which of the selected tests run although they have a result.
	Again Again
	// Procs is how many tests run at once.
	Procs int
	// Version is the proxy's, for the results.
	Version string
}

// Again says what becomes of tests that have a result already.
type Again string

// A run resumes one that was interrupted, repeats what did not pass, or starts anew.
const (
	Resume      Again = "resume"
	AgainFailed Again = "failed"
	AgainAll    Again = "all"
)

// Run is a set of tests that are to run for one variant.
type Run struct {
	opts    Options
	tests   []Test // all of the table
	chunks  []chunk
	results *Results
	log     *slog.Logger
}

// NewRun selects what is to run.
func NewRun(v Variant, opts Options, log *slog.Logger) (*Run, error) {
	tests, err := Tests()
	if err != nil {
		return nil, err
	}
	results, err := ReadResults(opts.Dir, v)
	if err != nil {
		return nil, err
	}
	results.prune(tests)
	r := &Run{opts: opts, tests: tests, results: results, log: log}
	var selected []Test
	for _, t := range tests {
		if t.Cannot == "" && opts.selects(t) && r.runsAgain(t) {
			selected = append(selected, t)
		}
	}
	r.chunks = plan(selected)
	return r, nil
}

func (o Options) selects(t Test) bool {
	class := len(o.Classes) == 0
	for _, c := range o.Classes {
		class = class || c == t.Class
	}
	return class && (o.Match == nil || o.Match(t.Name))
}

func (r *Run) runsAgain(t Test) bool {
	have, ok := r.results.Tests[t.Name]
	switch {
	case !ok || r.opts.Again == AgainAll:
		return true
	case r.opts.Again == AgainFailed:
		return have.Outcome != Passed
	}
	return false
}

// Nodes are the sizes of the clusters that the run needs, one after the other.
func (r *Run) Nodes() []int {
	var sizes []int
	for _, c := range r.chunks {
		if len(sizes) == 0 || sizes[len(sizes)-1] != c.nodes {
			sizes = append(sizes, c.nodes)
		}
	}
	return sizes
}

// Configure makes the cluster one of the run's. The large one has IPv4 only.
func Configure(cfg *cluster.Config, nodes int) {
	cfg.Nodes, cfg.Zones, cfg.Dual = nodes, min(zones, nodes), nodes == fewNodes
}

// On runs the tests that need a cluster of this size on one, and keeps the
// results after every chunk.
func (r *Run) On(ctx context.Context, c *cluster.Cluster) error {
	if err := r.checkTable(ctx, c); err != nil {
		return err
	}
	for _, chunk := range r.chunks {
		if chunk.nodes != c.Nodes() {
			continue
		}
		r.log.Info("running", "chunk", chunk.name, "tests", len(chunk.tests), "procs", r.procs(chunk))
		if err := r.runChunk(ctx, c, chunk); err != nil {
			return fmt.Errorf("%s: %w", chunk.name, err)
		}
		select {
		case <-c.Failed():
			return errors.New("a node or the control plane has ended; its log tells why")
		default:
		}
	}
	return nil
}

// checkTable compares the table with the tests in the binary.
func (r *Run) checkTable(ctx context.Context, c *cluster.Cluster) error {
	var list strings.Builder
	err := c.RunIn(ctx, cluster.ControlBox, &list, path.Join(cluster.TestsDir, "e2e.test"), "--list-tests")
	if err != nil {
		return fmt.Errorf("list the official tests: %w", err)
	}
	return checkAgainst(r.tests, parseList(list.String()))
}

func (r *Run) procs(c chunk) int {
	if c.alone {
		return 1
	}
	return min(r.opts.Procs, len(c.tests))
}

// runChunk has ginkgo run the tests of a chunk in the control plane's box, which
// is outside of every node, and adds what it reports.
func (r *Run) runChunk(ctx context.Context, c *cluster.Cluster, chunk chunk) error {
	outside, inside := c.SharedDir("conformance-" + chunk.name)
	if err := os.MkdirAll(outside, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(outside, "output.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// Tests that fail make ginkgo fail; the report tells them apart from ginkgo's own failures.
	runErr := c.RunIn(ctx, cluster.ControlBox, log, ginkgoArgs(chunk, r.procs(chunk), inside)...)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text, err := os.ReadFile(filepath.Join(outside, reportFile))
	if err != nil {
		return errors.Join(runErr, err)
	}
	wanted := map[string]bool{}
	for _, t := range chunk.tests {
		wanted[t.Name] = true
	}
	found, err := parseReport(text, wanted, r.opts.Version)
	if err != nil {
		return err
	}
	return r.keep(c, chunk, found)
}

// keep adds the results of a chunk to the file and says how it went.
func (r *Run) keep(c *cluster.Cluster, chunk chunk, found map[string]Result) error {
	r.results.Kubernetes = c.KubernetesVersion()
	r.results.Kernel = kernelRelease()
	count := map[Outcome]int{}
	for _, t := range chunk.tests {
		result, ok := found[t.Name]
		if !ok {
			r.log.Warn("no result", "test", t.Name)
			continue
		}
		r.results.add(t.Name, result)
		count[result.Outcome]++
		if result.Outcome != Passed {
			r.log.Warn(string(result.Outcome), "test", t.Name, "message", result.Message)
		}
	}
	r.log.Info("ran", "chunk", chunk.name, "passed", count[Passed], "failed", count[Failed], "skipped", count[Skipped])
	return r.results.Write(r.opts.Dir)
}

const reportFile = "report.json"

// ginkgoArgs is the command that runs a chunk and leaves reports in dir.
func ginkgoArgs(c chunk, procs int, dir string) []string {
	return []string{
		path.Join(cluster.TestsDir, "ginkgo"), "--procs=" + strconv.Itoa(procs), "--no-color", "--timeout=3h",
		"--focus=" + focus(c.tests), "--output-dir=" + dir, "--json-report=" + reportFile, "--junit-report=junit.xml",
		path.Join(cluster.TestsDir, "e2e.test"), "--",
		"--num-nodes=" + strconv.Itoa(c.nodes), // only ginkgo's first process finds out itself
		"--kubeconfig=" + cluster.AdminKubeconfig, "--kubectl-path=" + cluster.KubectlPath, "--provider=skeleton",
	}
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
