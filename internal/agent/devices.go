// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
)

// packetDevices are the devices that the packet path is on: all through which
// traffic reaches the node. A port of a bond or team is left to its master, to
// which the kernel hands everything that the port takes in, and so is what comes
// in by a port of a bridge; but the reply of a backend to a client on the same
// bridge passes by nothing else than the client's port on its way out. A member
// of a VRF keeps its packets until they are routed, and has no port's part.
// What a VLAN carries is the VLAN's, also on the device below it: its routes may be
// others. Loopback, and the VRF itself, carry nothing but the node's own sockets'
// traffic, which the socket hooks have translated.
func packetDevices(n model.Network, local config.LocalTraffic) []datapath.Device {
	routed := map[int]bool{} // bridges through which the node routes
	domain := map[int]bool{} // VRFs
	trunk := map[int]bool{}  // devices with VLANs
	for _, d := range n.Devices {
		trunk[d.Parent] = true
		domain[d.Index] = d.VRF
		routed[d.Index] = d.Bridge && d.Up && len(d.Addresses) > 0
	}
	var all []datapath.Device
	for _, d := range n.Devices {
		port := d.Master != 0 && !domain[d.Master]
		if !d.Up || d.Loopback || d.VRF || port && !routed[d.Master] {
			continue
		}
		all = append(all, datapath.Device{
			Index: d.Index, Name: d.Name, NoLinkHeader: !d.LinkHeader, Pod: !port && isPodDevice(d, local), EgressOnly: port,
			Trunk: trunk[d.Index],
		})
	}
	return all
}

// isPodDevice tells whether all that comes in through a device was sent by a pod
// (kube-proxy's detect-local modes that go by device).
func isPodDevice(d model.Device, local config.LocalTraffic) bool {
	switch local.Mode {
	case config.BridgeInterface:
		return d.Name == local.BridgeInterface
	case config.InterfaceNamePrefix:
		return strings.HasPrefix(d.Name, local.InterfaceNamePrefix)
	}
	return false
}
