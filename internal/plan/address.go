// SPDX-License-Identifier: Apache-2.0

package plan

import "net/netip"

// metadata6 is the cloud metadata service over IPv6; over IPv4 it has a
// link-local address, which is refused as such.
var metadata6 = netip.MustParseAddr("fd00:ec2::254")

// special says what keeps an address from being a frontend or a backend, or ""
// if nothing does. The API server refuses most of these
// (pkg/apis/core/validation, ValidateNonSpecialIP); a folder of YAML has no API
// server in front of it.
func special(addr netip.Addr) string {
	addr = addr.Unmap()
	switch {
	case !addr.IsValid():
		return "not an address"
	case addr.Zone() != "":
		return "an address with a zone"
	case addr.IsUnspecified():
		return "the unspecified address"
	case addr.IsLoopback():
		return "a loopback address"
	case addr.IsMulticast():
		return "a multicast address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	case addr == metadata6:
		return "the metadata address"
	}
	return ""
}
