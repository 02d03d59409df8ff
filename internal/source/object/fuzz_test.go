// SPDX-License-Identifier: Apache-2.0

package object

import (
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/beeline-net/beeline/internal/model"
)

// FuzzObjects feeds whatever decodes as an object to the conversions. They
// must not panic, and what they let through must be sound.
func FuzzObjects(f *testing.F) {
	for _, v := range []any{
		apiService(nil), apiSlice(nil), &corev1.Node{},
		apiService(func(s *corev1.Service) {
			clientIP(s, 1)
			s.Spec.ExternalIPs, s.Spec.LoadBalancerSourceRanges = []string{"::ffff:1.2.3.4"}, []string{" ::ffff:0:0/90", "0/0"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "01.2.3.4"}}
		}),
		apiSlice(func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Hints: &discoveryv1.EndpointHints{}, TargetRef: &corev1.ObjectReference{}})
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{})
		}),
	} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var svc corev1.Service
		if json.Unmarshal(data, &svc) == nil {
			if got, problems := Service(&svc); got != nil {
				checkService(t, got, problems)
			}
		}
		var slice discoveryv1.EndpointSlice
		if json.Unmarshal(data, &slice) == nil {
			if got, problems := Slice(&slice); got != nil {
				checkSlice(t, got, problems)
			}
		}
		var node corev1.Node
		if json.Unmarshal(data, &node) == nil {
			if got, _ := Node(&node); got != nil {
				checkAddrs(t, got.Addresses)
				checkPrefixes(t, got.PodCIDRs)
			}
		}
	})
}

func checkService(t *testing.T, s *model.Service, problems []Problem) {
	if !isLabel(s.Name.Name) || !isLabel(s.Name.Namespace) || len(problems) > maxProblems+1 {
		t.Errorf("name %v, %d problems", s.Name, len(problems))
	}
	if n := len(s.ClusterIPs); n == 0 || n > 2 || n == 2 && model.FamilyOf(s.ClusterIPs[0]) == model.FamilyOf(s.ClusterIPs[1]) {
		t.Errorf("cluster IPs %v", s.ClusterIPs)
	}
	checkAddrs(t, slices.Concat(s.ClusterIPs, s.ExternalIPs, s.LoadBalancerIPs))
	checkPrefixes(t, s.SourceRanges)
	if s.AffinityTimeout < 0 || s.AffinityTimeout > 24*time.Hour {
		t.Errorf("affinity timeout %v", s.AffinityTimeout)
	}
	for i, p := range s.Ports {
		if p.Port == 0 || p.Protocol == 0 || p.Name != "" && !isLabel(p.Name) {
			t.Errorf("port %+v", p)
		}
		for _, o := range s.Ports[:i] {
			if p.Protocol == o.Protocol && (p.Port == o.Port || p.Name == o.Name || p.NodePort != 0 && p.NodePort == o.NodePort) {
				t.Errorf("ports %+v and %+v", o, p)
			}
		}
	}
}

func checkSlice(t *testing.T, s *model.EndpointSlice, problems []Problem) {
	if !isSubdomain(s.Name.Name) || !isLabel(s.Service.Name) || s.Service.Namespace != s.Name.Namespace || len(problems) > maxProblems+1 {
		t.Errorf("name %v of %v, %d problems", s.Name, s.Service, len(problems))
	}
	for _, p := range s.Ports {
		if p.Port == 0 || p.Protocol == 0 {
			t.Errorf("port %+v", p)
		}
	}
	for _, e := range s.Endpoints {
		checkAddrs(t, []netip.Addr{e.Addr})
		if model.FamilyOf(e.Addr) != s.Family {
			t.Errorf("%v in a slice of %v", e.Addr, s.Family)
		}
	}
}

func checkAddrs(t *testing.T, list []netip.Addr) {
	for _, a := range list {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			t.Errorf("address %v", a)
		}
	}
}

func checkPrefixes(t *testing.T, list []netip.Prefix) {
	for _, p := range list {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			t.Errorf("prefix %v", p)
		}
	}
}
