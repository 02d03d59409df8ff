// SPDX-License-Identifier: Apache-2.0

package object

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/beeline-net/beeline/internal/model"
)

// ServiceCIDR converts a ServiceCIDR. The result is nil if its name cannot be
// used. Its conditions do not count, as with kube-proxy: while one is being
// deleted, Services still have addresses in it.
func ServiceCIDR(in *networkingv1.ServiceCIDR) (*model.ServiceCIDR, []Problem) {
	c := &checker{kind: "ServiceCIDR", name: in.Name}
	if !isSubdomain(in.Name) {
		c.addf("metadata.name: %s is not a DNS subdomain of up to %d characters", quote(in.Name), maxSubdomain)
		return nil, c.result()
	}
	cidr := &model.ServiceCIDR{Name: model.Name{Name: in.Name}}
	for i, s := range in.Spec.CIDRs {
		prefix, err := parsePrefix(s)
		switch {
		case err != nil:
			c.addf("spec.cidrs[%d]: %v", i, err)
		case prefix.Bits() == 0:
			c.addf("spec.cidrs[%d]: %v is every address, and all that are no Service's would be dropped", i, prefix)
		default:
			cidr.CIDRs = appendNew(cidr.CIDRs, prefix)
		}
	}
	return cidr, c.result()
}
