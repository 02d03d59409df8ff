// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Outcome of a test.
type Outcome string

// The outcomes. Skipped tests found out themselves that they cannot run.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Result is that of one test, the last time it ran.
type Result struct {
	Outcome Outcome   `json:"outcome"`
	Started time.Time `json:"started"`
	Seconds int       `json:"seconds"`
	// Attempts is how often it has run with this outcome as the last.
	Attempts int `json:"attempts"`
	// Proxy is the proxy's version: kube-proxy's release; Beeline's commit, and
	// arguments beyond those in its manifest.
	Proxy string `json:"proxy"`
	// Message is the beginning of the failure's, or why it was skipped.
	Message string `json:"message,omitempty"`
}

// Variant is what results belong to.
type Variant struct {
	Proxy string `json:"proxy"`
	CNI   string `json:"cni"`
}

// file is the name of the variant's results.
func (v Variant) file() string { return v.Proxy + "-" + v.CNI + ".json" }

// Results are all of a variant, kept in a file.
type Results struct {
	Variant
	Kubernetes string            `json:"kubernetes"`
	Kernel     string            `json:"kernel"`
	Tests      map[string]Result `json:"tests"`
}

// ReadResults reads a variant's file in dir; there are none before the first run.
func ReadResults(dir string, v Variant) (*Results, error) {
	r := &Results{Variant: v, Tests: map[string]Result{}}
	text, err := os.ReadFile(filepath.Join(dir, v.file()))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", v.file(), err)
	}
	return r, nil
}

// Write keeps the results: a reader sees the old file or the new one.
func (r *Results) Write(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, r.file())
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path+".new", append(text, '\n'), 0o644)); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// prune forgets tests that do not run any more.
func (r *Results) prune(tests []Test) {
	maps.DeleteFunc(r.Tests, func(name string, _ Result) bool {
		return !slices.ContainsFunc(tests, func(t Test) bool { return t.Name == name && t.Cannot == "" })
	})
}

// add notes a test's result.
func (r *Results) add(name string, result Result) {
	result.Attempts = r.Tests[name].Attempts + 1
	r.Tests[name] = result
}

// report is the part of ginkgo's JSON report that is read.
type report struct {
	SpecReports []spec
}

type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	StartTime               time.Time
	RunTime                 time.Duration
	Failure                 struct{ Message string }
}

// name is the test's complete name.
func (s spec) name() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

// parseReport reads the results of the tests that ran, by name. Those that were
// not selected are in the report, too.
func parseReport(text []byte, wanted map[string]bool, version string) (map[string]Result, error) {
	var reports []report
	if err := json.Unmarshal(text, &reports); err != nil {
		return nil, fmt.Errorf("ginkgo's report: %w", err)
	}
	found := map[string]Result{}
	for _, rep := range reports {
		for _, s := range rep.SpecReports {
			if s.LeafNodeType != "It" || !wanted[s.name()] {
				continue
			}
			result := Result{
				Started: s.StartTime.UTC().Truncate(time.Second), Seconds: int(s.RunTime.Seconds()),
				Proxy: version, Message: shorten(s.Failure.Message),
			}
			switch s.State {
			case "passed":
				result.Outcome = Passed
			case "skipped":
				result.Outcome = Skipped
			case "interrupted", "pending", "invalid":
				continue // it says nothing about the proxy
			default: // failed, timedout, aborted, panicked
				result.Outcome = Failed
			}
			found[s.name()] = result
		}
	}
	return found, nil
}

// shorten keeps of a message what fits on a line.
func shorten(message string) string {
	const limit = 300
	line := strings.Join(strings.Fields(message), " ")
	if len(line) > limit {
		line = strings.ToValidUTF8(line[:limit], "") + "…"
	}
	return line
}
