// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"reflect"

	"github.com/beeline-net/beeline/internal/model"
)

// Config is what an operator decides about all Services. It is a value: change
// a copy and hand it to Planner.SetConfig.
type Config struct {
	// NodeName is this node's name as endpoints give it (kube-proxy's
	// --hostname-override); empty: the name in model.Node.
	NodeName string
	// BindAddress overrides the node's primary address in its family
	// (kube-proxy's --bind-address); zero or unspecified: none.
	BindAddress netip.Addr
	// AllowExternalIPs honours spec.externalIPs (feature gate
	// AllowServiceExternalIPs, by default true).
	AllowExternalIPs bool
	// RefuseUnknownPorts refuses what reaches a ClusterIP on a port that its
	// Service does not have, and drops what reaches an address in ServiceCIDRs
	// that nobody has, as kube-proxy's nftables mode does and its others do not.
	RefuseUnknownPorts bool
	// ServiceCIDRs are the ranges of which ClusterIPs are taken.
	ServiceCIDRs []netip.Prefix
	// NodePortAddresses says which of the node's addresses serve NodePorts.
	NodePortAddresses NodePortAddresses
	// MasqueradeAll translates the source of everything sent to a ClusterIP.
	MasqueradeAll bool
	// DetectLocal tells clients that are pods from the others.
	DetectLocal DetectLocal
	// Strict limits the addresses that a Service may claim.
	Strict Strict
	// Leave are addresses that are no frontends here, whichever Service has
	// them: they go to whoever has them otherwise.
	Leave []netip.Prefix
}

// Strict limits the addresses that ExternalIPs and load balancers may have: who
// may create a Service could otherwise take any address (CVE-2020-8554). The
// zero value limits nothing, as kube-proxy.
type Strict struct {
	Enabled bool
	// ExternalIPs and LoadBalancers are the ranges allowed to each kind; none
	// allows nothing.
	ExternalIPs, LoadBalancers []netip.Prefix
	// Protected addresses may not be claimed at all, such as the API
	// servers'. This node's own addresses always belong to them.
	Protected []netip.Addr
}

// DetectLocalMode is a way to tell that a client is a pod
// (KubeProxyConfiguration.detectLocalMode).
type DetectLocalMode uint8

// The ways to tell that a client is a pod.
const (
	// DetectNone: pods are not told from others.
	DetectNone DetectLocalMode = iota
	// DetectClusterCIDR: its address is in one of DetectLocal.ClusterCIDRs.
	DetectClusterCIDR
	// DetectNodeCIDR: its address is in one of the node's PodCIDRs.
	DetectNodeCIDR
	// DetectBridgeInterface: it comes in through that device.
	DetectBridgeInterface
	// DetectInterfaceNamePrefix: it comes in through a device whose name
	// begins so.
	DetectInterfaceNamePrefix
)

func (m DetectLocalMode) String() string {
	return [...]string{"None", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"}[m]
}

// DetectLocal is a mode with what it needs.
type DetectLocal struct {
	Mode                DetectLocalMode
	ClusterCIDRs        []netip.Prefix
	BridgeInterface     string
	InterfaceNamePrefix string
}

// plansAs reports whether both make the same plans. The ranges that ClusterIPs
// come from and how pods are told apart are about packets.
func (c Config) plansAs(o Config) bool {
	c.ServiceCIDRs, o.ServiceCIDRs = nil, nil
	c.DetectLocal, o.DetectLocal = DetectLocal{}, DetectLocal{}
	c.MasqueradeAll, o.MasqueradeAll = false, false
	return reflect.DeepEqual(c, o)
}

// nodeName is the name that a local endpoint carries; empty: none is local.
func (c Config) nodeName(node model.Node) string {
	if c.NodeName != "" {
		return c.NodeName
	}
	return node.Name
}

// Primary is the node's main address in that family, or the zero address
// (kube-proxy: cmd/kube-proxy/app, detectNodeIPs).
func (c Config) Primary(node model.Node, family model.Family) netip.Addr {
	if bind := c.BindAddress.Unmap(); bind.IsValid() && !bind.IsUnspecified() && model.FamilyOf(bind) == family {
		return bind
	}
	for _, a := range node.Addresses {
		if a.IsValid() && model.FamilyOf(a) == family {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// contains reports whether one of the prefixes holds addr.
func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
