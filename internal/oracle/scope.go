// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"net/netip"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// Scope is where a client is.
type Scope uint8

// The scopes.
const (
	// Unknown leaves it to the configured detection.
	Unknown Scope = iota
	// Pod: a pod of the cluster, as far as the detection mode sees.
	Pod
	// Node: an address of this node.
	Node
	// External: anything else.
	External
)

func (s Scope) String() string { return [...]string{"unknown", "pod", "node", "external"}[s] }

// scope finds where the client is: a pod first, then the node, as kube-proxy's
// rules come in that order.
func (q *query) scope() {
	src := q.packet.Source
	switch {
	case q.packet.Scope != Unknown:
		q.answer.Scope = q.packet.Scope
		q.step("client %v is %v, as told", src, q.answer.Scope)
	case q.fromPod():
		q.answer.Scope = Pod
		q.step("client %v is pod (detect-local %v)", src, q.view.Config.DetectLocal.Mode)
	case q.local(src):
		q.answer.Scope = Node
		q.step("client %v is node: one of its addresses", src)
	default:
		q.answer.Scope = External
		q.step("client %v is external", src)
	}
}

// fromPod reports whether the detection takes the client for a pod.
func (q *query) fromPod() bool {
	d := q.view.Config.DetectLocal
	switch d.Mode {
	case plan.DetectClusterCIDR, plan.DetectNodeCIDR:
		for _, cidr := range q.podCIDRs() {
			if cidr.Contains(q.packet.Source) {
				return true
			}
		}
	case plan.DetectBridgeInterface:
		return q.packet.Device != "" && q.packet.Device == d.BridgeInterface
	case plan.DetectInterfaceNamePrefix:
		return q.packet.Device != "" && strings.HasPrefix(q.packet.Device, d.InterfaceNamePrefix)
	}
	return false
}

// detects reports whether the detection works at all in the packet's family:
// modes by address need a range of it (kube-proxy: cmd/kube-proxy/app,
// getLocalDetectors).
func (q *query) detects() bool {
	switch q.view.Config.DetectLocal.Mode {
	case plan.DetectNone:
		return false
	case plan.DetectClusterCIDR, plan.DetectNodeCIDR:
		family := model.FamilyOf(q.packet.Destination.Addr())
		for _, cidr := range q.podCIDRs() {
			if model.FamilyOf(cidr.Addr()) == family {
				return true
			}
		}
		return false
	}
	return true
}

// podCIDRs are the ranges that a mode by address compares with.
func (o *Oracle) podCIDRs() []netip.Prefix {
	if o.view.Config.DetectLocal.Mode == plan.DetectNodeCIDR {
		return o.view.Node.PodCIDRs
	}
	return o.view.Config.DetectLocal.ClusterCIDRs
}
