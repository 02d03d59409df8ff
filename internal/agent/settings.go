// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// datapathOptions is what the configuration means for the kernel.
func datapathOptions(c config.Config, log *slog.Logger) datapath.Options {
	timeouts := flowTimeouts(sysctl(c.Kernel.Sysctl), c.Conntrack)
	o := datapath.Options{
		BPFFS:      c.Kernel.BPFFS,
		CgroupRoot: c.Kernel.CgroupRoot,
		MapSizes: map[string]uint32{
			abi.MapFrontends:  uint32(c.Maps.Frontends),
			abi.MapServices:   uint32(c.Maps.Services),
			abi.MapSets:       uint32(c.Maps.Services) * abi.SetKinds,
			abi.MapSlots:      uint32(c.Maps.Slots),
			abi.MapBackends:   uint32(c.Maps.Backends),
			abi.MapPeers:      uint32(c.Maps.Peers),
			abi.MapAffinities: uint32(c.Maps.Affinities),

			abi.MapServiceCounts: uint32(min(c.Maps.ServiceCounts, c.Maps.Services)),
		},
		RefuseUnknownPorts: c.Datapath.RefuseUnknownPorts,
		TCPPeerNames:       c.Datapath.TCPPeerRecords,
		ServiceCounts:      c.Datapath.ServiceCounts,
		NodeOnly:           c.Datapath.SocketBalancing == config.HostSockets,
		OptOuts:            c.Datapath.SocketOptOut,
		LeaveKernelSockets: leaveKernelSockets(c, log),
		NoIPv6:             !hasIPv6(),
		Packet:             packetOptions(c),
		UDPTimeout:         timeouts[abi.TimeoutUDPUnanswered],
		UDPStreamTimeout:   timeouts[abi.TimeoutUDPAnswered],
		Carrier:            &maps.Carrier{},
		Log:                log,
	}
	if o.Packet != nil {
		o.MapSizes[abi.MapFlows] = roundUp(c.Maps.Flows)
		o.MapSizes[abi.MapFlowIndex] = roundUp(c.Maps.Flows) / 2
	}
	return o
}

// droppedRanges are the Service ranges whose free addresses nobody may use.
func droppedRanges(c plan.Config) []netip.Prefix {
	if !c.RefuseUnknownPorts {
		return nil
	}
	return c.ServiceCIDRs
}

// roundUp makes a power of two.
func roundUp(n int) uint32 { return 1 << bits.Len32(uint32(n)-1) }

// planConfig is what the configuration means for the plan.
func planConfig(c config.Config) plan.Config {
	return plan.Config{
		NodeName:           c.Node.Name,
		BindAddress:        c.Node.IP,
		AllowExternalIPs:   c.Claims.ExternalIPs,
		RefuseUnknownPorts: c.Datapath.RefuseUnknownPorts,
		NodePortAddresses:  nodePortAddresses(c.NodePorts),
		MasqueradeAll:      c.Masquerade.All,
		DetectLocal:        detectLocal(c.LocalTraffic),
		Leave:              c.Claims.Leave,
		Strict: plan.Strict{
			Enabled:       c.Claims.Strict,
			ExternalIPs:   c.Claims.Allowed,
			LoadBalancers: c.Claims.Allowed,
		},
	}
}

// kubernetesService is the Service of the API servers: their addresses are its
// endpoints.
var kubernetesService = model.Name{Namespace: "default", Name: "kubernetes"}

// completed adds to a configuration what only the cluster knows. server is the
// API server that the agent itself uses; zero for none.
func completed(c plan.Config, store *snapshot.Store, server netip.Addr) plan.Config {
	c.ServiceCIDRs = store.ServiceCIDRs()
	if !c.Strict.Enabled {
		return c
	}
	protected := slices.Clone(c.Strict.Protected)
	if server.IsValid() {
		protected = append(protected, server)
	}
	_, endpointSlices := store.Service(kubernetesService)
	for _, s := range endpointSlices {
		for _, e := range s.Endpoints {
			protected = append(protected, e.Addr)
		}
	}
	slices.SortFunc(protected, netip.Addr.Compare)
	c.Strict.Protected = slices.Compact(protected)
	return c
}

func nodePortAddresses(c config.NodePorts) plan.NodePortAddresses {
	n := plan.NodePortAddresses{IPv4Loopback: c.Localhost}
	for _, a := range c.Addresses {
		switch a.Keyword {
		case config.Primary:
			n.Primary = true
		case config.All, config.Localhost:
			n.Ranges = append(n.Ranges, a.Keyword.Prefixes()...)
		default:
			n.Ranges = append(n.Ranges, a.Prefix)
		}
	}
	return n
}

func detectLocal(c config.LocalTraffic) plan.DetectLocal {
	d := plan.DetectLocal{
		ClusterCIDRs:        c.ClusterCIDRs,
		BridgeInterface:     c.BridgeInterface,
		InterfaceNamePrefix: c.InterfaceNamePrefix,
	}
	switch c.Mode {
	case config.ClusterCIDR:
		d.Mode = plan.DetectClusterCIDR
	case config.NodeCIDR:
		d.Mode = plan.DetectNodeCIDR
	case config.BridgeInterface:
		d.Mode = plan.DetectBridgeInterface
	case config.InterfaceNamePrefix:
		d.Mode = plan.DetectInterfaceNamePrefix
	}
	return d
}
