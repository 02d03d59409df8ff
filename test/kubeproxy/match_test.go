// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/internal/plan"
)

// observers are the nodes from which both sides look at the same cluster. A
// further one only has endpoints.
var observers = nodeNames[:3]

// match is a cluster with both sides watching it.
type match struct {
	config  plan.Config
	cluster cluster
	theirs  *kubeProxies
	ours    *beelines
	census  census
}

// newMatch makes one whose nodes exist and are nowhere in particular.
func newMatch(config plan.Config) *match {
	m := &match{
		config: config, cluster: cluster{},
		theirs: newKubeProxies(observers), ours: newBeelines(observers, config),
		census: census{},
	}
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

// play takes a sequence with everything that has to hold, and returns what does
// not; "" if all does.
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

// difference compares both sides on every node.
func (m *match) difference() string {
	for _, node := range observers {
		theirs := m.theirs.view(node)
		m.census.count(theirs)
		diff := difference(theirs, m.ours.view(node))
		diff += m.ours.nodes[node].complaint()
		if diff != "" {
			return fmt.Sprintf("on %s:\n%s", node, diff)
		}
	}
	return ""
}
