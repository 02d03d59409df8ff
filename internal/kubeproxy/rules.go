// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset are the tables in which kube-proxy's rules may be.
type ruleset struct {
	// own are the tables of mode nftables, one of each family, and ownChains
	// theirs.
	own       []*nftables.Table
	ownChains []*nftables.Chain
	// shared are iptables' tables, as far as they are kept as nftables.
	shared []*sharedTable
}

// sharedTable is a table in which others have rules, too.
type sharedTable struct {
	table *nftables.Table
	// ours are kube-proxy's chains, others the rest.
	ours, others []*nftables.Chain
}

// read lists tables and chains.
func read() (ruleset, error) {
	var r ruleset
	c, err := nftables.New()
	if err != nil {
		return r, fmt.Errorf("open netlink to nftables: %w", err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		tables, err := c.ListTablesOfFamily(family)
		if notThere(err) {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("list tables of nftables: %w", err)
		}
		chains, err := c.ListChainsOfTableFamily(family)
		if err != nil && !notThere(err) {
			return r, fmt.Errorf("list chains of nftables: %w", err)
		}
		for _, t := range tables {
			r.add(t, chains)
		}
	}
	return r, nil
}

// notThere: the kernel has no nftables, or nothing in it.
func notThere(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

func (r *ruleset) add(t *nftables.Table, chains []*nftables.Chain) {
	if t.Name == table {
		r.own = append(r.own, t)
		for _, ch := range chains {
			if ch.Table != nil && ch.Table.Name == t.Name {
				r.ownChains = append(r.ownChains, ch)
			}
		}
		return
	}
	if !slices.Contains(sharedTables[:], t.Name) {
		return
	}
	s := &sharedTable{table: t}
	for _, ch := range chains {
		switch {
		case ch.Table == nil || ch.Table.Name != t.Name:
		case ownChain(ch.Name):
			s.ours = append(s.ours, ch)
		default:
			s.others = append(s.others, ch)
		}
	}
	r.shared = append(r.shared, s)
}

// fingerprint is another one if chains were made or removed, or if the rules for
// source NAT were written anew, which kube-proxy does whenever it writes everything:
// the kernel gives each rule a number that it never gives again.
func (r ruleset) fingerprint() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("open netlink to nftables: %w", err)
	}
	all := slices.Clone(r.ownChains)
	for _, s := range r.shared {
		all = append(all, s.ours...)
	}
	var lines []string
	for _, ch := range all {
		lines = append(lines, fmt.Sprintf("%d %s %s", ch.Table.Family, ch.Table.Name, ch.Name))
		if ch.Name != masqueradeChain && ch.Name != nftMasqueradeChain {
			continue
		}
		list, err := c.GetRules(ch.Table, ch)
		if err != nil && !notThere(err) {
			return "", fmt.Errorf("read chain %s: %w", ch.Name, err)
		}
		for _, rule := range list {
			lines = append(lines, fmt.Sprintf("%d %s rule %d", ch.Table.Family, ch.Table.Name, rule.Handle))
		}
	}
	slices.Sort(lines)
	sum := fnv.New64a()
	for _, line := range lines {
		_, _ = fmt.Fprintln(sum, line) // never fails
	}
	return fmt.Sprintf("%x", sum.Sum64()), nil
}

// onlyMasquerades reports whether all that there is of kube-proxy is what marks
// packets for source NAT, which Remove leaves if others use it, and which older
// kubelets make themselves. It serves nobody.
func (s *sharedTable) onlyMasquerades() bool {
	return !slices.ContainsFunc(s.ours, func(ch *nftables.Chain) bool {
		return ch.Name != markChain && ch.Name != masqueradeChain
	})
}

// Remove takes away every rule of kube-proxy that Find finds, each table in one
// step, and returns what it left because rules of others use it. kube-proxy must
// not run: it would put them back.
func Remove() (left []string, err error) {
	rules, err := read()
	if err != nil {
		return nil, err
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	for _, s := range rules.shared {
		kept, err := s.remove(c)
		if err != nil {
			return left, fmt.Errorf("remove kube-proxy's chains from table %s %s: %w", familyName(s.table.Family), s.table.Name, err)
		}
		left = append(left, kept...)
	}
	for _, t := range rules.own {
		c.DelTable(t)
		if err := c.Flush(); err != nil {
			return left, fmt.Errorf("remove table %s %s: %w", familyName(t.Family), t.Name, err)
		}
	}
	return left, nil
}

// remove takes kube-proxy's chains out of a table, and the rules that lead to
// them out of the chains of the kernel's hooks.
func (s *sharedTable) remove(c *nftables.Conn) (left []string, err error) {
	jumps := map[string][]*nftables.Rule{} // by where they lead, from chains of others
	for _, ch := range s.others {
		rules, err := c.GetRules(s.table, ch)
		if err != nil {
			return nil, err
		}
		for _, rule := range rules {
			rule.Table, rule.Chain = s.table, ch
			if to := target(rule); ownChain(to) {
				jumps[to] = append(jumps[to], rule)
			}
		}
	}
	keep := kept(jumps)
	for to, rules := range jumps {
		for _, rule := range rules {
			if keep[to] {
				continue
			}
			if err := c.DelRule(rule); err != nil {
				return nil, err
			}
		}
	}
	// All are emptied first, since they lead to one another.
	for _, remove := range []func(*nftables.Chain){c.FlushChain, c.DelChain} {
		for _, ch := range s.ours {
			if !keep[ch.Name] {
				remove(ch)
			}
		}
	}
	for name := range keep {
		left = append(left, fmt.Sprintf("chain %s in table %s %s, which rules of others use", name, familyName(s.table.Family), s.table.Name))
	}
	slices.Sort(left)
	return left, c.Flush()
}

// kept are the chains that stay because others mark packets by them for source
// NAT (the portmap plugin may be told to): kube-proxy itself never does so from a
// chain that is not its own.
func kept(jumps map[string][]*nftables.Rule) map[string]bool {
	if len(jumps[markChain]) == 0 {
		return nil
	}
	return map[string]bool{markChain: true, masqueradeChain: true}
}

// The chains that mark packets for source NAT, and translate the marked; the last
// one of mode nftables.
const (
	markChain          = "KUBE-MARK-MASQ"
	masqueradeChain    = "KUBE-POSTROUTING"
	nftMasqueradeChain = "masquerading"
)

// target is the chain that a rule leads to; empty if it does not.
func target(rule *nftables.Rule) string {
	for _, e := range rule.Exprs {
		if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			return v.Chain
		}
	}
	return ""
}
