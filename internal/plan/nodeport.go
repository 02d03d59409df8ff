// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// NodePortAddresses is kube-proxy's nodePortAddresses: ranges and keywords. The
// zero value is all addresses.
type NodePortAddresses struct {
	Ranges []netip.Prefix
	// Primary adds the node's primary address of each family.
	Primary bool
	// IPv4Loopback serves NodePorts on 127.0.0.0/8 too, where the ranges hold
	// it (kube-proxy's iptables mode with localhostNodePorts). Loopback is
	// never served otherwise, and IPv6 loopback never at all.
	IPv4Loopback bool
}

// The keywords of nodePortAddresses (KubeProxyConfiguration).
const (
	keywordAll       = "all"
	keywordPrimary   = "primary"
	keywordLocalhost = "localhost"
)

// ParseNodePortAddresses understands CIDRs and the keywords all, primary and
// localhost in any combination. An empty list is all.
func ParseNodePortAddresses(values []string) (NodePortAddresses, error) {
	var n NodePortAddresses
	for _, v := range values {
		switch v {
		case keywordAll:
			n.Ranges = append(n.Ranges, everything(model.IPv4), everything(model.IPv6))
		case keywordPrimary:
			n.Primary = true
		case keywordLocalhost:
			n.Ranges = append(n.Ranges, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
		default:
			prefix, err := netip.ParsePrefix(v)
			if err != nil {
				return NodePortAddresses{}, fmt.Errorf("node port address %q: must be a CIDR, %q, %q or %q",
					v, keywordAll, keywordPrimary, keywordLocalhost)
			}
			n.Ranges = append(n.Ranges, prefix.Masked())
		}
	}
	return n, nil
}

// NodePortMatcher tells which of the addresses of one node serve NodePorts.
type NodePortMatcher struct {
	ranges   []netip.Prefix
	loopback bool
}

// NodePortMatcher resolves Config.NodePortAddresses for a node.
func (c Config) NodePortMatcher(node model.Node) NodePortMatcher {
	m := NodePortMatcher{
		ranges:   slices.Clone(c.NodePortAddresses.Ranges),
		loopback: c.NodePortAddresses.IPv4Loopback,
	}
	for _, family := range model.Families {
		if primary := c.Primary(node, family); c.NodePortAddresses.Primary && primary.IsValid() && !primary.IsLoopback() {
			m.ranges = append(m.ranges, netip.PrefixFrom(primary, primary.BitLen()))
		}
		// Ranges of one family only do not switch the other one off
		// (kube-proxy: pkg/proxy/util, NewNodePortAddresses).
		if !slices.ContainsFunc(m.ranges, func(p netip.Prefix) bool { return model.FamilyOf(p.Addr()) == family }) {
			m.ranges = append(m.ranges, everything(family))
		}
	}
	return m
}

// Match reports whether NodePorts are served on addr, which must be one of the
// node's own addresses: the matcher does not know which those are.
func (m NodePortMatcher) Match(addr netip.Addr) bool {
	addr = addr.Unmap()
	if addr.IsLoopback() && !(m.loopback && addr.Is4()) {
		return false
	}
	return contains(m.ranges, addr)
}

// MatchAll reports whether every address of the node in that family serves
// NodePorts, apart from loopback.
func (m NodePortMatcher) MatchAll(family model.Family) bool {
	return slices.Contains(m.ranges, everything(family))
}

// everything is the range of all addresses of a family.
func everything(family model.Family) netip.Prefix {
	return netip.PrefixFrom(unspecified(family), 0)
}

// unspecified is the address that stands for the node's own in a NodePort's key.
func unspecified(family model.Family) netip.Addr {
	if family == model.IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
