// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ErrUnreadable says that rules are kept in a way that is not read here.
var ErrUnreadable = errors.New("only rules in nftables can be read, as kube-proxy's mode nftables and iptables-nft have them")

// Ruleset are kube-proxy's rules as the kernel has them, to be asked what they
// decide. It does not change when the kernel's do.
type Ruleset struct {
	tables []*rules
}

// rules is one table with its content.
type rules struct {
	mode   Mode
	family nftables.TableFamily
	name   string
	chains map[string][]*nftables.Rule
	sets   map[string]*set
}

// set is a set or map with its elements.
type set struct {
	interval bool
	elements []nftables.SetElement
	byKey    map[string]*nftables.SetElement
}

// Load reads kube-proxy's rules.
func Load() (*Ruleset, error) {
	found, err := read()
	if err != nil {
		return nil, err
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	r := &Ruleset{}
	add := func(mode Mode, t *nftables.Table, chains []*nftables.Chain) error {
		loaded, err := load(c, mode, t, chains)
		if err != nil {
			return fmt.Errorf("read table %s %s: %w", familyName(t.Family), t.Name, err)
		}
		r.tables = append(r.tables, loaded)
		return nil
	}
	for _, t := range found.own {
		chains, err := c.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return nil, fmt.Errorf("list chains of nftables: %w", err)
		}
		chains = slices.DeleteFunc(chains, func(ch *nftables.Chain) bool { return ch.Table.Name != t.Name })
		if err := add(NFTables, t, chains); err != nil {
			return nil, err
		}
	}
	for _, s := range found.shared {
		if len(s.ours) == 0 {
			continue
		}
		if err := add(IPTables, s.table, s.ours); err != nil {
			return nil, err
		}
	}
	if len(r.tables) == 0 {
		return nil, ErrUnreadable
	}
	return r, nil
}

func load(c *nftables.Conn, mode Mode, t *nftables.Table, chains []*nftables.Chain) (*rules, error) {
	r := &rules{mode: mode, family: t.Family, name: t.Name, chains: map[string][]*nftables.Rule{}, sets: map[string]*set{}}
	for _, ch := range chains {
		list, err := c.GetRules(t, ch)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", ch.Name, err)
		}
		r.chains[ch.Name] = list
	}
	used := r.usedSets()
	sets, err := c.GetSets(t)
	if err != nil && !notThere(err) {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		if !used[s.Name] {
			continue
		}
		elements, err := c.GetSetElements(s)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", s.Name, err)
		}
		r.sets[s.Name] = newSet(s.Interval, elements)
	}
	return r, nil
}

// usedSets are those that the rules look into.
func (r *rules) usedSets() map[string]bool {
	used := map[string]bool{}
	for _, list := range r.chains {
		for _, rule := range list {
			for _, e := range rule.Exprs {
				if l, ok := e.(*expr.Lookup); ok {
					used[l.SetName] = true
				}
			}
		}
	}
	return used
}

func newSet(interval bool, elements []nftables.SetElement) *set {
	s := &set{interval: interval, elements: elements, byKey: make(map[string]*nftables.SetElement, len(elements))}
	for i := range elements {
		s.byKey[string(elements[i].Key)] = &elements[i]
	}
	return s
}

// find returns the element that a key belongs to. An interval begins with one
// element and ends before another.
func (s *set) find(key []byte) (*nftables.SetElement, bool) {
	if !s.interval {
		e, ok := s.byKey[string(key)]
		return e, ok
	}
	var best *nftables.SetElement
	for i := range s.elements {
		e := &s.elements[i]
		if string(e.Key) <= string(key) && (best == nil || string(e.Key) > string(best.Key) ||
			string(e.Key) == string(best.Key) && best.IntervalEnd) {
			best = e
		}
	}
	return best, best != nil && !best.IntervalEnd
}

// Attributes of a verdict (linux/netfilter/nf_tables.h), and how they are laid
// out (linux/netlink.h).
const (
	attrHead     = 4
	attrAlign    = 4
	verdictCode  = 1
	verdictChain = 2
	attrTypeMask = 0x3fff
)

// verdictOf reads an element of a verdict map: the library hands its attributes
// on as they are.
func verdictOf(e *nftables.SetElement) (*expr.Verdict, error) {
	v := &expr.Verdict{}
	for b := e.Val; len(b) > 0; {
		if len(b) < attrHead {
			return nil, fmt.Errorf("element of a verdict map: %x", e.Val)
		}
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&attrTypeMask
		if size < attrHead || size > len(b) {
			return nil, fmt.Errorf("element of a verdict map: %x", e.Val)
		}
		switch value := b[attrHead:size]; {
		case kind == verdictCode && len(value) == 4:
			v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(value)))
		case kind == verdictChain:
			v.Chain = string(bytes.TrimRight(value, "\x00"))
		}
		b = b[min(len(b), (size+attrAlign-1)/attrAlign*attrAlign):]
	}
	return v, nil
}
