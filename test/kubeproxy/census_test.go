// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
)

// census counts what kube-proxy was seen to do, so that a generator which does
// not get everywhere any more is noticed.
type census map[string]int

// sights is everything that a long run must have seen.
func sights() []string {
	list := []string{
		"external and internal clients differ", "affinity", "source ranges", "frontend of several Services",
		"kube-proxy leaves open which endpoint counts", "terminating endpoints used", "hints leave endpoints out",
		"health check with local endpoints", "health check without", "draining flows",
	}
	for _, family := range model.Families {
		for _, kind := range []string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalIP"} {
			for _, verdict := range []string{"backends", drop, reject} {
				list = append(list, fmt.Sprintf("%v %s %s", family, kind, verdict))
			}
		}
	}
	return list
}

func (c census) count(v view) {
	for id, options := range v.ports {
		c.note(len(options) > 1, "kube-proxy leaves open which endpoint counts")
		port := options[0]
		used := ""
		for _, f := range port.frontends {
			used += " " + f.internal + " " + f.external
			verdict := f.external
			if verdict != drop && verdict != reject {
				verdict = "backends"
			}
			c[fmt.Sprintf("%v %v %s", id.Family, f.kind, verdict)]++
			c.note(f.internal != f.external, "external and internal clients differ")
			c.note(f.affinity > 0, "affinity")
			c.note(f.ranges != "", "source ranges")
			c.note(len(v.claims[f.key]) > 1, "frontend of several Services")
		}
		c.note(strings.Contains(used, "+terminating"), "terminating endpoints used")
		c.note(port.hinted, "hints leave endpoints out")
		c.note(slices.ContainsFunc(port.kept, func(addr string) bool { return !strings.Contains(used, addr) }), "draining flows")
	}
	for _, options := range v.health {
		c.note(options[0].localReady > 0, "health check with local endpoints")
		c.note(options[0].localReady == 0, "health check without")
	}
}

func (c census) note(seen bool, what string) {
	if seen {
		c[what]++
	}
}

func (c census) add(o census) {
	for what, n := range o {
		c[what] += n
	}
}

// missing lists the sights that were not seen.
func (c census) missing() []string {
	return slices.DeleteFunc(sights(), func(s string) bool { return c[s] > 0 })
}

func (c census) String() string {
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%9d %s\n", c[what], what)
	}
	return b.String()
}
