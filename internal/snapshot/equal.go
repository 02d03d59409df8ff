// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// Equality is written out because it runs for every object of a relist, where
// reflection would cost more than all the rest. A test holds it to the fields
// that the model has.

func equalService(a, b *model.Service) bool {
	return a.Name == b.Name && a.UID == b.UID && a.Created.Equal(b.Created) &&
		a.Type == b.Type &&
		slices.Equal(a.ClusterIPs, b.ClusterIPs) &&
		slices.Equal(a.ExternalIPs, b.ExternalIPs) &&
		slices.Equal(a.LoadBalancerIPs, b.LoadBalancerIPs) &&
		slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal &&
		a.AffinityTimeout == b.AffinityTimeout &&
		a.HealthCheckNodePort == b.HealthCheckNodePort && a.Drain == b.Drain &&
		slices.Equal(a.Ports, b.Ports)
}

// equalSlice leaves out Trigger: a new date for the same endpoints changes
// nothing that anybody has to act upon.
func equalSlice(a, b *model.EndpointSlice) bool {
	return a.Name == b.Name && a.Service == b.Service && a.Family == b.Family &&
		slices.Equal(a.Ports, b.Ports) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, equalEndpoint)
}

func equalEndpoint(a, b model.Endpoint) bool {
	return a.Addr == b.Addr &&
		a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
		a.Node == b.Node &&
		slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes) &&
		a.Target == b.Target
}

func equalNode(a, b *model.Node) bool {
	return a.Name == b.Name && a.Zone == b.Zone && a.Draining == b.Draining && a.Takeover == b.Takeover &&
		slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
}

func equalNetwork(a, b *model.Network) bool {
	return slices.EqualFunc(a.Devices, b.Devices, equalDevice)
}

func equalDevice(a, b model.Device) bool {
	return a.Index == b.Index && a.Name == b.Name &&
		a.Up == b.Up && a.Loopback == b.Loopback && a.LinkHeader == b.LinkHeader &&
		a.Bridge == b.Bridge && a.VRF == b.VRF && a.Master == b.Master && a.Parent == b.Parent &&
		slices.Equal(a.Addresses, b.Addresses)
}
