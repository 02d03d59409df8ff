// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	resultsDir = "../../conformance"
	pageFile   = "../../../../docs/conformance.md"
)

// TestPage: nobody wrote the page by hand.
func TestPage(t *testing.T) {
	want, err := Page(resultsDir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(pageFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/conformance.md is not what the results give; run: hack/cluster conformance-page")
	}
}

// TestTable: the table can be read, and has the subset that runs first.
func TestTable(t *testing.T) {
	tests, err := Tests()
	if err != nil {
		t.Fatal(err)
	}
	fast := 0
	for _, test := range tests {
		if test.Fast {
			fast++
			if !test.Conformance() || test.Class != Proxy {
				t.Errorf("%s is fast, but no Conformance test of the proxy", test.Name)
			}
		}
		if test.Conformance() && test.Cannot != "" {
			t.Errorf("Conformance test %s does not run: %s", test.Name, test.Cannot)
		}
	}
	if fast != 14 {
		t.Errorf("%d tests are fast, want 14", fast)
	}
}

// TestResultsAreOfTheTable: no result is for a test that is not in the table,
// or that is said not to run.
func TestResultsAreOfTheTable(t *testing.T) {
	tests, err := Tests()
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]bool{}
	for _, test := range tests {
		runs[test.Name] = test.Cannot == ""
	}
	for _, v := range Variants() {
		results, err := ReadResults(resultsDir, v)
		if err != nil {
			t.Fatal(err)
		}
		for name := range results.Tests {
			if !runs[name] {
				t.Errorf("%s: %s has a result, but does not run", v.file(), name)
			}
		}
	}
}

// TestPlan: every test is in one chunk, selected by a pattern that selects
// nothing else, beside those that may run beside it.
func TestPlan(t *testing.T) {
	tests, err := Tests()
	if err != nil {
		t.Fatal(err)
	}
	planned := map[string]int{}
	for _, c := range plan(tests) {
		pattern := regexp.MustCompile(focus(c.tests))
		for _, test := range c.tests {
			planned[test.Name]++
			if test.Alone() != c.alone {
				t.Errorf("%s: %q is alone: %v", c.name, test.Name, test.Alone())
			}
		}
		matches := 0
		for _, test := range tests {
			if pattern.MatchString(suite + " " + test.Name) {
				matches++
			}
			if pattern.MatchString(suite + " " + test.Name + " more") {
				t.Errorf("%s selects more than %q", c.name, test.Name)
			}
		}
		if matches != len(c.tests) || len(c.tests) > chunkSize {
			t.Errorf("%s has %d tests and selects %d", c.name, len(c.tests), matches)
		}
	}
	for _, test := range tests {
		if planned[test.Name] != 1 {
			t.Errorf("%q is in %d chunks", test.Name, planned[test.Name])
		}
	}
}

func TestParseReport(t *testing.T) {
	const text = `[{"SpecReports": [
  {"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
  {"ContainerHierarchyTexts": ["[sig-network] A"], "LeafNodeType": "It", "LeafNodeText": "works [Slow]", "State": "passed",
   "StartTime": "2026-11-30T17:00:00.5Z", "RunTime": 2500000000},
  {"ContainerHierarchyTexts": ["[sig-network] A"], "LeafNodeType": "It", "LeafNodeText": "fails", "State": "timedout",
   "StartTime": "2026-11-30T17:00:00Z", "RunTime": 1, "Failure": {"Message": "took\n  too long"}},
  {"ContainerHierarchyTexts": ["[sig-network] A"], "LeafNodeType": "It", "LeafNodeText": "was cut short", "State": "interrupted"},
  {"ContainerHierarchyTexts": ["[sig-network] A"], "LeafNodeType": "It", "LeafNodeText": "was not selected", "State": "skipped"}]}]`
	wanted := map[string]bool{"[sig-network] A works [Slow]": true, "[sig-network] A fails": true, "[sig-network] A was cut short": true}
	got, err := parseReport([]byte(text), wanted, "v1")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 30, 17, 0, 0, 0, time.UTC)
	want := map[string]Result{
		"[sig-network] A works [Slow]": {Outcome: Passed, Started: start, Seconds: 2, Proxy: "v1"},
		"[sig-network] A fails":        {Outcome: Failed, Started: start, Proxy: "v1", Message: "took too long"},
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for name, result := range want {
		if got[name] != result {
			t.Errorf("%s: got %+v, want %+v", name, got[name], result)
		}
	}
}

// TestCheckAgainst: a test that only one side knows is an error, unless it is excluded.
func TestCheckAgainst(t *testing.T) {
	list := parseList("The following spec names can be used:\n    a/b.go:12: [sig-network] A works\n" +
		"    a/c.go:3: [sig-apps] B works\n    n/p.go:1: [sig-network] Netpol works\n\n")
	if len(list) != 3 || list[0] != "[sig-network] A works" {
		t.Fatalf("list is %q", list)
	}
	known := Test{Name: "[sig-network] A works", Class: Proxy}
	if err := checkAgainst([]Test{known}, list); err != nil {
		t.Error(err)
	}
	if err := checkAgainst(nil, list); err == nil || !strings.Contains(err.Error(), known.Name) {
		t.Errorf("not in the table: %v", err)
	}
	if err := checkAgainst([]Test{known, {Name: "[sig-network] C"}}, list); err == nil {
		t.Error("not in e2e.test: no error")
	}
}

// TestResume: a run does what has no result, and what failed if asked to.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	tests, err := Tests()
	if err != nil {
		t.Fatal(err)
	}
	v := Variants()[0]
	results, err := ReadResults(dir, v)
	if err != nil {
		t.Fatal(err)
	}
	results.add(tests[0].Name, Result{Outcome: Passed})
	results.add(tests[1].Name, Result{Outcome: Failed})
	if err := results.Write(dir); err != nil {
		t.Fatal(err)
	}
	for again, want := range map[Again]string{Resume: tests[2].Name, AgainFailed: tests[1].Name, AgainAll: tests[0].Name} {
		first := func(name string) bool { return name == tests[0].Name || name == tests[1].Name || name == tests[2].Name }
		run, err := NewRun(v, Options{Dir: dir, Match: first, Again: again}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := run.chunks[0].tests[0].Name; got != want {
			t.Errorf("%s: runs %q first, want %q", again, got, want)
		}
	}
}
