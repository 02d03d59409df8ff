// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"hash/fnv"
	"slices"
)

// lastPut is the index of the last step that puts something: what follows only
// removes. It is -1 if nothing is ever put.
func lastPut(steps []step) int {
	for i := len(steps) - 1; i >= 0; i-- {
		if slices.ContainsFunc(steps[i], func(c change) bool { return c.now != nil }) {
			return i
		}
	}
	return -1
}

// checkOrder holds that order does not matter: the same changes of each object,
// mixed with those of the others in any way and taken together in any groups,
// give a new agent the same plans to the letter.
func (m *match) checkOrder(steps []step) string {
	again := newBeelines(observers, m.config)
	world := cluster{}
	take := func(s step) {
		for _, c := range s {
			if e, ok := world.apply(c); ok {
				again.handle(e)
			}
		}
		again.sync()
	}
	take(bareNodes())
	for _, s := range mixed(steps) {
		take(s)
	}
	for _, node := range observers {
		if !samePlans(m.ours.nodes[node], again.nodes[node]) {
			return "on " + node + ": the plans depend on the order of events\n"
		}
	}
	return ""
}

// mixed permutes changes without touching the order of those of one object. The
// permutation looks random and is always the same for the same steps.
func mixed(steps []step) []step {
	histories := map[key][]change{}
	var keys []key // one for each change, of its object
	hash := fnv.New64a()
	for _, s := range steps {
		for _, c := range s {
			histories[c.key] = append(histories[c.key], c)
			keys = append(keys, c.key)
			_, _ = hash.Write([]byte(c.key.String()))
		}
	}
	d := seeded(hash.Sum64())
	shuffle(d, keys)
	var all []step
	for len(keys) > 0 {
		group := keys[:min(len(keys), d.between(1, 6))]
		keys = keys[len(group):]
		var s step
		for _, k := range group {
			s = append(s, histories[k][0])
			histories[k] = histories[k][1:]
		}
		all = append(all, s)
	}
	return all
}

// leftovers is what is planned though nothing is there any more.
func (m *match) leftovers() string {
	if len(m.cluster.keys(serviceKind)) > 0 {
		return "" // the sequence was cut before its end
	}
	for _, node := range observers {
		n := m.ours.nodes[node]
		for range n.planner.Services() {
			return "on " + node + ": the planner keeps a Service that is gone\n"
		}
		if len(n.plans) > 0 || len(n.planner.Problems()) > 0 {
			return "on " + node + ": plans or problems are left when all Services are gone\n"
		}
	}
	return ""
}
