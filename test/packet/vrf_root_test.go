// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/link"
)

// vrfTable is the routing table of the VRF.
const vrfTable = 10

// B7: the node's devices belong to a VRF. Its members carry the programs, and
// the way to backends and clients is that of the VRF's table.
func TestMembersOfAVRF(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	w.vrf("vrf0", "eth0", "pod")
	check(t, w.node1.Do(func() error {
		n, err := link.Look()
		if err != nil {
			return err
		}
		byName := map[string]model.Device{}
		for _, d := range n.Devices {
			byName[d.Name] = d
		}
		if !byName["vrf0"].VRF || byName["eth0"].VRF || byName["eth0"].Master != byName["vrf0"].Index {
			t.Errorf("the devices are %+v", n.Devices)
		}
		return nil
	}))
	for _, s := range wires {
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(w.index("eth0"), s.family == 6), abi.Addr(s.node))
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			for _, c := range []struct {
				to   *endpoint
				sees netip.Addr
			}{
				{&endpoint{at: port(s.localPod, podPort), local: true}, s.client},
				{&endpoint{at: port(s.remotePod, podPort)}, s.node},
			} {
				at := w.nodePortService(s.side, proto, 0, c.to)
				backend, seen, err := w.exchange(network, at, []byte("hello"))
				if err != nil || backend != c.to.at || seen.Addr() != c.sees {
					t.Errorf("IPv%d %s: answered by %v, which saw %v, want %v: %v; counters %v", s.family, network, backend, seen, c.sees, err, w.counters())
				}
			}
		}
	}
}

// vrf makes a VRF on node 1 and puts devices into it, with the routes that go
// by them.
func (w *wired) vrf(name string, members ...string) {
	t := w.t
	t.Helper()
	check(t, w.node1.Sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")) // a member goes down and up
	err := w.node1.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		master := &netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: name}, Table: vrfTable}
		if err := netlink.LinkAdd(master); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(master); err != nil {
			return err
		}
		for _, m := range members {
			member, err := netlink.LinkByName(m)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(member, master); err != nil {
				return err
			}
		}
		// The kernel moves the routes to the devices' own networks itself.
		for _, r := range routes {
			if r.Gw == nil {
				continue
			}
			r.Table = vrfTable
			if err := netlink.RouteReplace(&r); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VRF; Debian's, which hack/kernel-test boots, has")
	}
	check(t, err)
}
