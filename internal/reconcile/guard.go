// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/plan"
)

// guard is what the kernel has of the source ranges of a Service port. They are
// looked up only for frontends that ask for it (abi.FlagSourceRanges), all of
// the port alike. Where the packet path is switched off there are none.
type guard struct {
	have map[abi.SourceRangeKey]struct{}
	used int // frontends in the kernel that ask for them
	// leaving is where they are retired, because no frontend asks any more.
	leaving *retired
}

// guards reports whether frontends with these flags ask for source ranges.
func guards(flags uint32) bool { return flags&abi.FlagSourceRanges != 0 }

// ranges returns the source ranges that a port is to have. A nil port is one to
// be removed.
func ranges(w *plan.Port, index uint32) []abi.SourceRangeKey {
	if w == nil {
		return nil
	}
	var keys []abi.SourceRangeKey
	if i := slices.IndexFunc(w.Frontends, guarded); i >= 0 {
		for _, prefix := range w.Frontends[i].SourceRanges {
			keys = append(keys, abi.NewSourceRangeKey(index, prefix))
		}
	}
	return keys
}

func guarded(f plan.Frontend) bool { return len(f.SourceRanges) > 0 }

// publishGuard makes the source ranges those that are wanted, before any new
// frontend asks for them: first the missing ones, then without the others, so
// who stays allowed is let in by an old one or a new one all the time.
func (r *Reconciler) publishGuard(p *port, w *plan.Port) error {
	wanted := ranges(w, p.index)
	if len(wanted) == 0 || r.tables.Packet == nil {
		return nil // retireRanges sees to those that are there
	}
	p.guard.leaving = nil
	r.reopen(p)
	if err := r.addRanges(p, wanted); err != nil {
		return err
	}
	return r.dropRanges(p, wanted)
}

// addRanges writes those source ranges that are missing.
func (r *Reconciler) addRanges(p *port, wanted []abi.SourceRangeKey) (failed error) {
	var missing []abi.SourceRangeKey
	for _, key := range wanted {
		if _, there := p.guard.have[key]; !there {
			missing = append(missing, key)
		}
	}
	putAll(r.tables.Packet.SourceRanges, missing, make([]uint32, len(missing)), func(i int, err error) {
		if err == nil {
			r.hasRange(p, missing[i])
		} else if failed == nil {
			failed = fmt.Errorf("source range %s: %w", rangeString(missing[i]), err)
		}
	})
	return failed
}

// hasRange records a source range that the kernel has.
func (r *Reconciler) hasRange(p *port, key abi.SourceRangeKey) {
	if p.guard.have == nil {
		p.guard.have = map[abi.SourceRangeKey]struct{}{}
	}
	if _, known := p.guard.have[key]; !known {
		p.guard.have[key] = struct{}{}
		r.ranges++
	}
}

// retireRanges takes back the source ranges of a port that is to have none, once
// no frontend asks for them. They wait for the programs that have read a
// frontend as it was before, and would keep everybody out.
func (r *Reconciler) retireRanges(p *port, mode moveMode) {
	g := &p.guard
	if len(g.have) == 0 || p.retired || !p.owner.named {
		return
	}
	switch wanted := ranges(p.want, p.index); {
	case len(wanted) == 0 && g.used == 0 && g.leaving == nil:
		g.leaving = r.grace.collecting
		r.grace.collecting.guards = append(r.grace.collecting.guards, p)
	case len(wanted) > 0 && mode == moveByRemoval && p.owner.starved():
		// Make room for those that are missing.
		if err := r.dropRanges(p, wanted); err != nil {
			r.note(p.owner, fmt.Errorf("port %v: %w", p.id, err))
		}
	}
}

// dropRanges removes all source ranges of a port but these.
func (r *Reconciler) dropRanges(p *port, but []abi.SourceRangeKey) error {
	keep := make(map[abi.SourceRangeKey]struct{}, len(but))
	for _, key := range but {
		keep[key] = struct{}{}
	}
	var failed error
	for key := range p.guard.have {
		if _, stays := keep[key]; stays {
			continue
		}
		if err := r.tables.Packet.SourceRanges.Delete(key); err != nil {
			failed = fmt.Errorf("source range %s: %w", rangeString(key), err)
			continue
		}
		delete(p.guard.have, key)
		r.ranges--
	}
	return failed
}

// readRanges gives every source range to the port it names.
func (l *restoring) readRanges() error {
	if l.r.tables.Packet == nil {
		return nil
	}
	return l.r.tables.Packet.SourceRanges.Each(func(key abi.SourceRangeKey, _ uint32) bool {
		l.r.hasRange(l.port(key.Service), key)
		return true
	})
}

// rangeString names a source range for people.
func rangeString(key abi.SourceRangeKey) string { return prefixString(key.Addr, key.Prefixlen-32) }
