// SPDX-License-Identifier: Apache-2.0

package object

import (
	"fmt"
	"net/netip"
	"strings"

	netutils "k8s.io/utils/net"
)

// Lengths from the API's rules for names.
const (
	maxLabel     = 63
	maxSubdomain = 253
	maxUID       = 128
)

// isLabel and isSubdomain are RFC 1123 as the API applies it. They are written
// out because they run for every endpoint.
func isLabel(s string) bool { return len(s) <= maxLabel && isDNS(s, false) }

func isSubdomain(s string) bool { return len(s) <= maxSubdomain && isDNS(s, true) }

func isDNS(s string, dots bool) bool {
	afterAlnum := false // a label begins and ends with a letter or digit
	for i := range len(s) {
		switch ch := s[i]; {
		case 'a' <= ch && ch <= 'z', '0' <= ch && ch <= '9':
			afterAlnum = true
		case ch == '-' && i > 0 && s[i-1] != '.':
			afterAlnum = false
		case ch == '.' && dots && afterAlnum:
			afterAlnum = false
		default:
			return false
		}
	}
	return afterAlnum
}

// isLabelValue is the API's rule for the value of a label, which zones are.
func isLabelValue(s string) bool {
	alnum := func(ch byte) bool {
		return 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || '0' <= ch && ch <= '9'
	}
	if s == "" || len(s) > maxLabel || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && !strings.ContainsRune("-_.", rune(s[i])) {
			return false
		}
	}
	return true
}

// parseAddr reads an address as kube-proxy does: leading zeros are decimal, as
// objects from before Kubernetes refused them may have, and an IPv4-mapped
// address is IPv4.
func parseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		addr, _ = netip.AddrFromSlice(netutils.ParseIPSloppy(s))
	}
	if !addr.IsValid() || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s is not an IP address", quote(s))
	}
	return addr.Unmap(), nil
}

// parsePrefix reads a CIDR with the same tolerance; bits of the host are
// cleared.
func parsePrefix(s string) (netip.Prefix, error) {
	bad := fmt.Errorf("%s is not an address range in CIDR notation", quote(s))
	ip, cidr, err := netutils.ParseCIDRSloppy(s)
	if err != nil {
		return netip.Prefix{}, bad
	}
	addr, _ := netip.AddrFromSlice(ip)
	bits, size := cidr.Mask.Size()
	if addr.Is4In6() && size == 128 && strings.Contains(s, ":") {
		if bits -= 96; bits < 0 {
			return netip.Prefix{}, bad // neither IPv4 nor IPv6
		}
	}
	return netip.PrefixFrom(addr.Unmap(), bits).Masked(), nil
}

func isPort(n int32) bool { return 0 < n && n <= 65535 }
