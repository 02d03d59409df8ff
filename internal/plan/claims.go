// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"slices"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// claim is a Service's claim to a frontend key. It is comparable.
type claim struct {
	key       FrontendKey
	service   model.Name
	created   time.Time
	clusterIP bool
	// yields: the winner of the key leaves it unplanned.
	yields bool
	// meek: the winner of the key leaves it unplanned while it is anybody's
	// target.
	meek bool
}

// rank orders the claims to one key, the winner first. The doc of the package
// says why.
func (c claim) rank(o claim) int {
	switch {
	case c.clusterIP && !o.clusterIP:
		return -1
	case !c.clusterIP && o.clusterIP:
		return 1
	}
	return cmp.Or(c.created.Compare(o.created), c.service.Compare(o.service))
}

// claims holds who claims which key, in order of rank.
type claims map[FrontendKey][]claim

// winner returns the first claim to key.
func (c claims) winner(key FrontendKey) (claim, bool) {
	if list := c[key]; len(list) > 0 {
		return list[0], true
	}
	return claim{}, false
}

func (c claims) add(n claim) {
	list := c[n.key]
	i, _ := slices.BinarySearchFunc(list, n, claim.rank)
	c[n.key] = slices.Insert(list, i, n)
}

func (c claims) remove(old claim) {
	list := slices.DeleteFunc(c[old.key], func(o claim) bool { return o == old })
	if len(list) == 0 {
		delete(c, old.key)
		return
	}
	c[old.key] = list
}

// targets holds which Services have a usable endpoint at a key. Nearly every key
// has one user; the others are kept apart, so that the many cost little.
type targets struct {
	first map[FrontendKey]*entry
	more  map[FrontendKey]map[*entry]bool
}

func newTargets() targets {
	return targets{map[FrontendKey]*entry{}, map[FrontendKey]map[*entry]bool{}}
}

func (t targets) add(key FrontendKey, e *entry) {
	switch {
	case t.first[key] == nil:
		t.first[key] = e
	case t.more[key] == nil:
		t.more[key] = map[*entry]bool{e: true}
	default:
		t.more[key][e] = true
	}
}

func (t targets) remove(key FrontendKey, e *entry) {
	more := t.more[key]
	if t.first[key] != e {
		delete(more, e)
	} else {
		delete(t.first, key)
		for next := range more {
			t.first[key] = next
			delete(more, next)
			break
		}
	}
	if len(more) == 0 {
		delete(t.more, key)
	}
}

// any returns one of the Services with an endpoint at key, or nil. Which one does
// not depend on the order of events.
func (t targets) any(key FrontendKey) *entry {
	least := t.first[key]
	for e := range t.more[key] {
		if e.plan.Name.Compare(least.plan.Name) < 0 {
			least = e
		}
	}
	return least
}

// users calls do for the Services with an endpoint at key, in no order.
func (t targets) users(key FrontendKey, do func(*entry)) {
	if e := t.first[key]; e != nil {
		do(e)
	}
	for e := range t.more[key] {
		do(e)
	}
}

// difference calls gone and come for what is only in one of two lists, both
// sorted by compare and without duplicates.
func difference[T any](before, after []T, compare func(a, b T) int, gone, come func(T)) {
	for len(before) > 0 || len(after) > 0 {
		c := -1
		switch {
		case len(before) == 0:
			c = 1
		case len(after) > 0:
			c = compare(before[0], after[0])
		}
		if c < 0 {
			gone(before[0])
		}
		if c > 0 {
			come(after[0])
		}
		if c <= 0 {
			before = before[1:]
		}
		if c >= 0 {
			after = after[1:]
		}
	}
}
