// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// The device and the numbers of flannel's VXLAN backend.
const (
	vxlanDevice = "flannel.1"
	vxlanID     = 1
	vxlanPort   = 8472
	vxlanMTU    = 1450
)

// buildVXLAN makes a node's tunnel device and, as flannel does, tells it every
// other node's tunnel address and the pods behind it, so that nothing needs to
// be learned or flooded.
func buildVXLAN(ns *lab.Namespace, self nodeNetwork, others []nodeNetwork) error {
	err := ns.Do(func() error {
		device, err := addTunnel(self)
		if err != nil {
			return err
		}
		for _, other := range others {
			if err := addTunnelPeer(device, other); err != nil {
				return fmt.Errorf("peer %s: %w", other.v4, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("vxlan in %s: %w", ns.Name, err)
	}
	return nil
}

func addTunnel(self nodeNetwork) (*netlink.Vxlan, error) {
	underlay, err := netlink.LinkByName(wire)
	if err != nil {
		return nil, err
	}
	device := &netlink.Vxlan{
		LinkAttrs:    netlink.LinkAttrs{Name: vxlanDevice, MTU: vxlanMTU, HardwareAddr: tunnelMAC(self)},
		VxlanId:      vxlanID,
		VtepDevIndex: underlay.Attrs().Index,
		SrcAddr:      self.v4.AsSlice(),
		Port:         vxlanPort,
	}
	if err := netlink.LinkAdd(device); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(device); err != nil {
		return nil, err
	}
	for _, pods := range self.pods() {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(pods.Addr(), pods.Addr().BitLen())), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(device, addr); err != nil {
			return nil, err
		}
	}
	return device, nil
}

// addTunnelPeer says: those pods are behind that tunnel address, that address
// has that MAC, that MAC is at that node.
func addTunnelPeer(device *netlink.Vxlan, peer nodeNetwork) error {
	mac, index := tunnelMAC(peer), device.Attrs().Index
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		IP: peer.v4.AsSlice(), HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("forwarding entry: %w", err)
	}
	for _, pods := range peer.pods() {
		gateway := net.IP(pods.Addr().AsSlice())
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gateway, HardwareAddr: mac})
		if err != nil {
			return fmt.Errorf("neighbour: %w", err)
		}
		err = netlink.RouteReplace(&netlink.Route{
			LinkIndex: index, Dst: ipNet(pods), Gw: gateway, Flags: int(netlink.FLAG_ONLINK),
		})
		if err != nil {
			return fmt.Errorf("route to %s: %w", pods, err)
		}
	}
	return nil
}

// tunnelMAC is a locally administered address made of the node's.
func tunnelMAC(n nodeNetwork) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0xbe}, n.v4.AsSlice()...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
