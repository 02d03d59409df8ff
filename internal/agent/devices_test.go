// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
)

func TestPacketDevices(t *testing.T) {
	network := model.Network{Devices: []model.Device{
		{Index: 1, Name: "lo", Up: true, Loopback: true, LinkHeader: true},
		{Index: 2, Name: "eth0", Up: true, LinkHeader: true},
		{Index: 3, Name: "eth1", LinkHeader: true},
		{Index: 4, Name: "cni0", Up: true, Bridge: true, LinkHeader: true, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.1")}},
		{Index: 5, Name: "veth1", Up: true, Master: 4, LinkHeader: true},
		{Index: 6, Name: "wg0", Up: true},
		{Index: 7, Name: "cali123", Up: true, LinkHeader: true},
		{Index: 8, Name: "virbr0", Up: true, Bridge: true, LinkHeader: true},
		{Index: 9, Name: "vnet1", Up: true, Master: 8, LinkHeader: true},
		{Index: 10, Name: "bond0", Up: true, LinkHeader: true},
		{Index: 11, Name: "eth2", Up: true, Master: 10, LinkHeader: true},
		{Index: 12, Name: "vrf0", Up: true, VRF: true, LinkHeader: true},
		{Index: 13, Name: "eth3", Up: true, Master: 12, LinkHeader: true},
		{Index: 14, Name: "wg1", Up: true, Master: 12},
		{Index: 15, Name: "bond1", Up: true, Master: 12, LinkHeader: true},
		{Index: 16, Name: "eth4", Up: true, Master: 15, LinkHeader: true},
		{Index: 17, Name: "br1", Up: true, Bridge: true, Master: 12, LinkHeader: true, Addresses: []netip.Addr{netip.MustParseAddr("10.245.1.1")}},
		{Index: 18, Name: "vnet2", Up: true, Master: 17, LinkHeader: true},
		{Index: 19, Name: "cali456", Up: true, Master: 12, LinkHeader: true},
		{Index: 20, Name: "bond0.100", Up: true, Parent: 10, LinkHeader: true},
	}}
	for name, tt := range map[string]struct {
		local config.LocalTraffic
		pods  []string
	}{
		"pods are told by address":    {config.LocalTraffic{Mode: config.ClusterCIDR}, nil},
		"pods are behind a bridge":    {config.LocalTraffic{Mode: config.BridgeInterface, BridgeInterface: "cni0"}, []string{"cni0"}},
		"pods have devices by prefix": {config.LocalTraffic{Mode: config.InterfaceNamePrefix, InterfaceNamePrefix: "cali"}, []string{"cali123", "cali456"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := map[string]bool{}
			for _, p := range tt.pods {
				pod[p] = true
			}
			want := []datapath.Device{
				{Index: 2, Name: "eth0"},
				{Index: 4, Name: "cni0", Pod: pod["cni0"]},
				{Index: 5, Name: "veth1", EgressOnly: true},
				{Index: 6, Name: "wg0", NoLinkHeader: true},
				{Index: 7, Name: "cali123", Pod: pod["cali123"]},
				{Index: 8, Name: "virbr0"},
				{Index: 10, Name: "bond0", Trunk: true},
				{Index: 13, Name: "eth3"},
				{Index: 14, Name: "wg1", NoLinkHeader: true},
				{Index: 15, Name: "bond1"},
				{Index: 17, Name: "br1"},
				{Index: 18, Name: "vnet2", EgressOnly: true},
				{Index: 19, Name: "cali456", Pod: pod["cali456"]},
				{Index: 20, Name: "bond0.100"},
			}
			if diff := cmp.Diff(want, packetDevices(network, tt.local)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
