// SPDX-License-Identifier: Apache-2.0

package link

import (
	"testing"

	"github.com/vishvananda/netlink"
)

// Only a VLAN has its packets carried by its parent; a veth's is its other end.
func TestParentOfAVLAN(t *testing.T) {
	attrs := netlink.LinkAttrs{Index: 7, ParentIndex: 3}
	if got := device(&netlink.Vlan{LinkAttrs: attrs}, nil).Parent; got != 3 {
		t.Errorf("a VLAN's parent is %d", got)
	}
	if got := device(&netlink.Veth{LinkAttrs: attrs}, nil).Parent; got != 0 {
		t.Errorf("a veth's parent is %d", got)
	}
}
