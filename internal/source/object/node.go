// SPDX-License-Identifier: Apache-2.0

package object

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/takeover"
)

// taintToBeDeleted is set by the cluster autoscaler before it removes a node;
// load balancers are to stop sending to it (KEP-3836).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// AnnotationTakeover on a Node says how that node is handed over from kube-proxy
// or back to it: one of the wishes of package takeover.
const AnnotationTakeover = "beeline.dev/takeover"

// Node converts a Node. The result is nil if its name cannot be used.
func Node(in *corev1.Node) (*model.Node, []Problem) {
	c := &checker{kind: "Node", name: in.Name}
	if !isSubdomain(in.Name) {
		c.addf("metadata.name: %s is not a DNS subdomain of up to %d characters", quote(in.Name), maxSubdomain)
		return nil, c.result()
	}
	node := &model.Node{
		Name:      in.Name,
		Zone:      in.Labels[corev1.LabelTopologyZone],
		Addresses: c.nodeAddresses(in.Status.Addresses),
		PodCIDRs:  c.podCIDRs(&in.Spec),
		Draining:  in.DeletionTimestamp != nil || slices.ContainsFunc(in.Spec.Taints, toBeDeleted),
	}
	if wish, ok := in.Annotations[AnnotationTakeover]; ok {
		if _, err := takeover.ParseWish(wish); err != nil {
			c.addf("metadata.annotations[%s]: %v", AnnotationTakeover, err)
		} else {
			node.Takeover = wish
		}
	}
	if node.Zone != "" && !isLabelValue(node.Zone) {
		c.addf("metadata.labels[%s]: %s is not a zone's name", corev1.LabelTopologyZone, quote(node.Zone))
		node.Zone = ""
	}
	return node, c.result()
}

func toBeDeleted(t corev1.Taint) bool { return t.Key == taintToBeDeleted }

// nodeAddresses lists internal addresses before external ones, each kind in
// the order of the status: the first of a family is the node's primary one.
func (c *checker) nodeAddresses(in []corev1.NodeAddress) []netip.Addr {
	var addrs []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i := range in {
			if in[i].Type != kind {
				continue
			}
			addr, err := parseAddr(in[i].Address)
			if err != nil {
				c.addf("status.addresses[%d].address: %v", i, err)
				continue
			}
			addrs = appendNew(addrs, addr)
		}
	}
	return addrs
}

func (c *checker) podCIDRs(spec *corev1.NodeSpec) []netip.Prefix {
	cidrs, field := spec.PodCIDRs, "spec.podCIDRs"
	if len(cidrs) == 0 && spec.PodCIDR != "" {
		cidrs, field = []string{spec.PodCIDR}, "spec.podCIDR"
	}
	var prefixes []netip.Prefix
	for _, s := range cidrs {
		prefix, err := parsePrefix(s)
		if err != nil {
			c.addf("%s: %v", field, err)
			continue
		}
		prefixes = appendNew(prefixes, prefix)
	}
	return prefixes
}
