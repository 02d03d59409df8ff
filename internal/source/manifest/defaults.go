// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// defaultService does what the API server does to a new Service, as far as a
// proxy sees it, and tells where it would have allocated something.
func defaultService(s *corev1.Service) []object.Problem {
	if s.Namespace == "" {
		s.Namespace = metav1.NamespaceDefault
	}
	// A dump of a cluster has dates; here names decide who is first.
	s.CreationTimestamp = metav1.Time{}
	spec := &s.Spec
	if spec.ClusterIP == "" && len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(spec.ClusterIPs) == 0 && spec.ClusterIP != "" {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if len(spec.IPFamilies) == 0 && spec.ClusterIP != corev1.ClusterIPNone {
		for _, ip := range spec.ClusterIPs {
			family := corev1.IPv4Protocol // also of what is no address, which is reported later
			if addr, err := netip.ParseAddr(ip); err == nil && model.FamilyOf(addr) == model.IPv6 {
				family = corev1.IPv6Protocol
			}
			spec.IPFamilies = append(spec.IPFamilies, family)
		}
	}
	var problems []object.Problem
	for i := range spec.Ports {
		if spec.Type == corev1.ServiceTypeNodePort && spec.Ports[i].NodePort == 0 {
			problems = append(problems, object.Problem{
				Object:  object.Ref("Service", s.Namespace, s.Name),
				Message: fmt.Sprintf("spec.ports[%d].nodePort: empty, and nothing allocates one here", i),
			})
		}
	}
	return problems
}

// defaultSlice does the same to an EndpointSlice.
func defaultSlice(s *discoveryv1.EndpointSlice) []object.Problem {
	if s.Namespace == "" {
		s.Namespace = metav1.NamespaceDefault
	}
	for i := range s.Ports {
		if s.Ports[i].Name == nil {
			s.Ports[i].Name = new(string)
		}
	}
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		return []object.Problem{{
			Object:  object.Ref("EndpointSlice", s.Namespace, s.Name),
			Message: fmt.Sprintf("metadata.labels: without %s it belongs to no Service", discoveryv1.LabelServiceName),
		}}
	}
	return nil
}
