// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Clusters have three nodes in as many zones, or six of them.
const (
	zones     = 3
	fewNodes  = 3
	manyNodes = 6
)

// chunkSize is how many tests run before results are kept: what an interrupted
// run loses.
const chunkSize = 24

// chunk is what runs in one go.
type chunk struct {
	name  string
	nodes int
	alone bool
	tests []Test
}

// stage is a chunk's place: fewer nodes, then what is most worth knowing, first.
func stage(t Test) (nodes, order int, name string) {
	nodes = cmp.Or(t.Nodes, fewNodes)
	switch {
	case t.Alone():
		return nodes, 4, "alone"
	case t.Fast:
		return nodes, 0, "fast"
	case t.Slow():
		return nodes, 3, "slow"
	case t.Class == Proxy:
		return nodes, 1, "proxy"
	}
	return nodes, 2, "others"
}

// plan groups tests into chunks.
func plan(tests []Test) []chunk {
	tests = slices.Clone(tests)
	slices.SortStableFunc(tests, func(a, b Test) int {
		nodesA, orderA, _ := stage(a)
		nodesB, orderB, _ := stage(b)
		return cmp.Or(nodesA-nodesB, orderA-orderB)
	})
	var chunks []chunk
	var before string
	for _, t := range tests {
		nodes, _, name := stage(t)
		kind := fmt.Sprintf("%s-%d", name, nodes)
		if kind != before || len(chunks[len(chunks)-1].tests) == chunkSize {
			chunks = append(chunks, chunk{name: fmt.Sprintf("%s-%d", kind, len(chunks)+1), nodes: nodes, alone: t.Alone()})
		}
		before = kind
		last := &chunks[len(chunks)-1]
		last.tests = append(last.tests, t)
	}
	return chunks
}

// suite is the name of the whole, which ginkgo's pattern sees before a test's.
const suite = "Kubernetes e2e suite"

// focus is ginkgo's pattern for exactly these tests.
func focus(tests []Test) string {
	var names []string
	for _, t := range tests {
		names = append(names, regexp.QuoteMeta(t.Name))
	}
	return "^" + suite + " (" + strings.Join(names, "|") + ")$"
}
