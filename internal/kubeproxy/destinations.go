// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Destinations are the addresses that kube-proxy's rules translate, NodePorts
// aside. Rules of iptables-legacy are not read.
func Destinations() (map[netip.Addr]bool, error) {
	rules, err := read()
	if err != nil {
		return nil, err
	}
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netlink to nftables: %w", err)
	}
	found := map[netip.Addr]bool{}
	for _, t := range rules.own {
		set, err := c.GetSetByName(t, "service-ips")
		if notThere(err) {
			continue // a table without content
		}
		if err != nil {
			return nil, fmt.Errorf("read map service-ips: %w", err)
		}
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("read map service-ips: %w", err)
		}
		for _, e := range elements {
			if addr, ok := netip.AddrFromSlice(e.Key[:addrLen(t.Family)]); ok {
				found[addr] = true
			}
		}
	}
	for _, s := range rules.shared {
		if s.table.Name != "nat" || len(s.ours) == 0 {
			continue
		}
		chain := &nftables.Chain{Name: "KUBE-SERVICES", Table: s.table}
		list, err := c.GetRules(s.table, chain)
		if err != nil && !notThere(err) {
			return nil, fmt.Errorf("read chain %s: %w", chain.Name, err)
		}
		for _, rule := range list {
			if addr, ok := destination(rule, s.table.Family); ok {
				found[addr] = true
			}
		}
	}
	return found, nil
}

// addrLen is how long an address is, in bytes.
func addrLen(f nftables.TableFamily) int {
	if f == nftables.TableFamilyIPv6 {
		return 16
	}
	return 4
}

// Where the destination is in an IP header, in bytes.
const (
	dstAt4 = 16
	dstAt6 = 24
)

// destination is the one address that a rule compares the packet's with.
func destination(rule *nftables.Rule, family nftables.TableFamily) (netip.Addr, bool) {
	at, size := uint32(dstAt4), addrLen(family)
	if family == nftables.TableFamilyIPv6 {
		at = dstAt6
	}
	loaded := false
	for _, e := range rule.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			loaded = e.Base == expr.PayloadBaseNetworkHeader && e.Offset == at && int(e.Len) == size
		case *expr.Cmp:
			if loaded && e.Op == expr.CmpOpEq && len(e.Data) == size {
				return netip.AddrFromSlice(e.Data)
			}
		}
	}
	return netip.Addr{}, false
}
