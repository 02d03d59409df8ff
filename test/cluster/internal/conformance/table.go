// SPDX-License-Identifier: Apache-2.0

// Package conformance runs the official [sig-network] end-to-end tests of
// Kubernetes on test clusters, keeps their results, and writes the page that
// compares service proxies by them.
package conformance

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed tests.yaml
var tableText []byte

// Class says what a test is about; tests.yaml tells which ones there are.
type Class string

// Classes in the order of the page.
const (
	Proxy        Class = "P"
	API          Class = "A"
	DNS          Class = "D"
	PodNetwork   Class = "N"
	KubeProxyWay Class = "X"
)

// Classes are all of them.
func Classes() []Class { return []Class{Proxy, API, DNS, PodNetwork, KubeProxyWay} }

// About says what the tests of the class are about.
func (c Class) About() string {
	return map[Class]string{
		Proxy:        "the data path of the service proxy",
		API:          "API and control plane, which need the Service `kubernetes`",
		DNS:          "DNS, through the Service `kube-dns`",
		PodNetwork:   "pods' network, whatever the service proxy",
		KubeProxyWay: "how kube-proxy does it, and not what a Service does",
	}[c]
}

// Test is one row of tests.yaml.
type Test struct {
	// Name is the complete one: containers, text and labels.
	Name  string `json:"name"`
	Class Class  `json:"class"`
	// Cannot says why it does not run here; empty for one that does.
	Cannot string `json:"cannot"`
	// Nodes is how many it needs; 0 means three.
	Nodes int `json:"nodes"`
	// Fast tests run first.
	Fast bool `json:"fast"`
	// Remark explains a result.
	Remark string `json:"remark"`
}

// Conformance says whether a cluster must pass it to be called Kubernetes.
func (t Test) Conformance() bool { return t.has("[Conformance]") }

// Slow tests take minutes.
func (t Test) Slow() bool { return t.has("[Slow]") }

// Alone says that no other test may run beside it.
func (t Test) Alone() bool { return t.has("[Serial]") || t.has("[Disruptive]") }

func (t Test) has(label string) bool { return strings.Contains(t.Name, label) }

// excluded are tests that are not in the table, by the beginning of their name.
var excluded = map[string]string{
	"[sig-network] Netpol": "NetworkPolicies are enforced by the CNI, and the CNIs here enforce none",
}

func isExcluded(name string) bool {
	for prefix := range excluded {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Tests reads the table.
func Tests() ([]Test, error) {
	var all []Test
	if err := yaml.UnmarshalStrict(tableText, &all); err != nil {
		return nil, fmt.Errorf("tests.yaml: %w", err)
	}
	seen := map[string]bool{}
	for _, t := range all {
		switch {
		case !slices.Contains(Classes(), t.Class):
			return nil, fmt.Errorf("tests.yaml: %q has class %q", t.Name, t.Class)
		case seen[t.Name]:
			return nil, fmt.Errorf("tests.yaml: %q is there twice", t.Name)
		case t.Nodes != 0 && t.Nodes != manyNodes:
			return nil, fmt.Errorf("tests.yaml: %q wants %d nodes; clusters have %d or %d", t.Name, t.Nodes, fewNodes, manyNodes)
		}
		seen[t.Name] = true
	}
	return all, nil
}

// checkAgainst compares the table with the names of all tests in e2e.test.
func checkAgainst(tests []Test, official []string) error {
	known := map[string]bool{}
	for _, t := range tests {
		known[t.Name] = true
	}
	var missing, gone []string
	for _, name := range official {
		if strings.HasPrefix(name, "[sig-network]") && !known[name] && !isExcluded(name) {
			missing = append(missing, name)
		}
	}
	for _, t := range tests {
		if !slices.Contains(official, t.Name) {
			gone = append(gone, t.Name)
		}
	}
	if len(missing) == 0 && len(gone) == 0 {
		return nil
	}
	return fmt.Errorf("tests.yaml does not fit e2e.test; not in tests.yaml:\n  %s\nnot in e2e.test:\n  %s",
		strings.Join(missing, "\n  "), strings.Join(gone, "\n  "))
}

// parseList reads what `e2e.test --list-tests` prints: lines with a file, a
// number and a name.
func parseList(output string) []string {
	var names []string
	for line := range strings.Lines(output) {
		if i := strings.Index(line, ": ["); strings.HasPrefix(line, "    ") && i >= 0 {
			names = append(names, strings.TrimSpace(line[i+2:]))
		}
	}
	return names
}
