// SPDX-License-Identifier: Apache-2.0

package object

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/beeline-net/beeline/internal/model"
)

// StatedService tells what a Service says, also one that is not proxied.
func StatedService(in *corev1.Service) model.Stated {
	s := model.Stated{
		Name:          model.Name{Namespace: in.Namespace, Name: in.Name},
		Type:          string(in.Spec.Type),
		ExternalName:  in.Spec.ExternalName,
		Headless:      in.Spec.ClusterIP == corev1.ClusterIPNone,
		ExternalIPs:   in.Spec.ExternalIPs,
		SourceRanges:  in.Spec.LoadBalancerSourceRanges,
		ExternalLocal: in.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if s.Type == "" {
		s.Type = string(corev1.ServiceTypeClusterIP)
	}
	if proxy, ok := in.Labels[LabelProxyName]; ok {
		s.OtherProxy = &proxy
	}
	if len(in.Spec.Selector) > 0 {
		s.Selector = labels.FormatLabels(in.Spec.Selector)
	}
	if p := in.Spec.InternalTrafficPolicy; p != nil {
		s.InternalLocal = *p == corev1.ServiceInternalTrafficPolicyLocal
	}
	for _, ip := range append([]string{in.Spec.ClusterIP}, in.Spec.ClusterIPs...) {
		if ip != "" && ip != corev1.ClusterIPNone {
			s.ClusterIPs = appendNew(s.ClusterIPs, ip)
		}
	}
	for i := range in.Status.LoadBalancer.Ingress {
		ingress := &in.Status.LoadBalancer.Ingress[i]
		stated := model.StatedIngress{IP: ingress.IP, Hostname: ingress.Hostname}
		if ingress.IPMode != nil {
			stated.Mode = string(*ingress.IPMode)
		}
		s.Ingress = append(s.Ingress, stated)
	}
	for i := range in.Spec.Ports {
		p := &in.Spec.Ports[i]
		s.Ports = append(s.Ports, model.StatedPort{
			Name: p.Name, Protocol: protocolText(p.Protocol), Port: p.Port, NodePort: p.NodePort, TargetPort: p.TargetPort.String(),
		})
	}
	_, problems := Service(in)
	for _, p := range problems {
		s.Problems = append(s.Problems, p.Message)
	}
	return s
}

// StatedSlice tells what an EndpointSlice says, and of which Service; false if
// it names none.
func StatedSlice(in *discoveryv1.EndpointSlice) (model.StatedSlice, model.Name, bool) {
	service := in.Labels[discoveryv1.LabelServiceName]
	_, headless := in.Labels[corev1.IsHeadlessService]
	s := model.StatedSlice{Name: in.Name, AddressType: string(in.AddressType), Headless: headless}
	for i := range in.Ports {
		p := model.StatedPort{Protocol: string(corev1.ProtocolTCP)}
		if in.Ports[i].Name != nil {
			p.Name = *in.Ports[i].Name
		}
		if in.Ports[i].Protocol != nil {
			p.Protocol = protocolText(*in.Ports[i].Protocol)
		}
		if in.Ports[i].Port != nil {
			p.Port = *in.Ports[i].Port
		}
		s.Ports = append(s.Ports, p)
	}
	for i := range in.Endpoints {
		s.Endpoints = append(s.Endpoints, statedEndpoint(&in.Endpoints[i]))
	}
	return s, model.Name{Namespace: in.Namespace, Name: service}, service != ""
}

func statedEndpoint(in *discoveryv1.Endpoint) model.StatedEndpoint {
	e := model.StatedEndpoint{
		Ready:       orDefault(in.Conditions.Ready, true),
		Serving:     orDefault(in.Conditions.Serving, true),
		Terminating: orDefault(in.Conditions.Terminating, false),
	}
	if len(in.Addresses) > 0 {
		e.Addr = in.Addresses[0]
	}
	if in.NodeName != nil {
		e.Node = *in.NodeName
	}
	if ref := in.TargetRef; ref != nil && ref.Kind == "Pod" {
		e.Target = ref.Name
	}
	if in.Hints != nil {
		for _, z := range in.Hints.ForZones {
			e.ForZones = append(e.ForZones, z.Name)
		}
		for _, n := range in.Hints.ForNodes {
			e.ForNodes = append(e.ForNodes, n.Name)
		}
	}
	return e
}

// StatedPod tells what an explanation has to know of a pod.
func StatedPod(in *corev1.Pod) model.StatedPod {
	p := model.StatedPod{Name: in.Name, Why: string(in.Status.Phase)}
	for _, ip := range in.Status.PodIPs {
		p.Addresses = append(p.Addresses, ip.IP)
	}
	if len(p.Addresses) == 0 && in.Status.PodIP != "" {
		p.Addresses = []string{in.Status.PodIP}
	}
	i := slices.IndexFunc(in.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
	if i < 0 {
		return p
	}
	switch c := in.Status.Conditions[i]; {
	case c.Status == corev1.ConditionTrue:
		p.Ready, p.Why = true, ""
	case c.Reason != "":
		p.Why = c.Reason
		if c.Message != "" {
			p.Why += ": " + c.Message
		}
	}
	return p
}

func protocolText(p corev1.Protocol) string {
	if p == "" {
		return string(corev1.ProtocolTCP)
	}
	return string(p)
}
