// SPDX-License-Identifier: Apache-2.0

package object

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/beeline-net/beeline/internal/model"
)

// Slice converts an EndpointSlice. The result is nil if it is none of a
// proxy's business (no Service, of a headless Service, FQDN), or if it cannot be
// used. A proxy's name on the slice means nothing: the Service's own label
// decides who serves it, and kube-proxy watches such slices too.
func Slice(in *discoveryv1.EndpointSlice) (*model.EndpointSlice, []Problem) {
	service := in.Labels[discoveryv1.LabelServiceName]
	_, headless := in.Labels[corev1.IsHeadlessService]
	if service == "" || headless || in.AddressType == discoveryv1.AddressTypeFQDN {
		return nil, nil
	}
	c := &checker{kind: "EndpointSlice", namespace: in.Namespace, name: in.Name}
	name, ok := c.objectName(isSubdomain, "subdomain of up to 253 characters")
	if !ok {
		return nil, c.result()
	}
	if !isLabel(service) {
		c.addf("metadata.labels[%s]: %s is not a Service's name", discoveryv1.LabelServiceName, quote(service))
		return nil, c.result()
	}
	family, ok := c.family(in.AddressType)
	if !ok {
		return nil, c.result()
	}
	return &model.EndpointSlice{
		Name:      name,
		Service:   model.Name{Namespace: name.Namespace, Name: intern(service)},
		Family:    family,
		Ports:     c.endpointPorts(in.Ports),
		Endpoints: c.endpoints(in.Endpoints, family),
		Trigger:   c.trigger(in.Annotations),
	}, c.result()
}

func (c *checker) family(t discoveryv1.AddressType) (model.Family, bool) {
	switch t {
	case discoveryv1.AddressTypeIPv4:
		return model.IPv4, true
	case discoveryv1.AddressTypeIPv6:
		return model.IPv6, true
	}
	c.addf("addressType: %s: must be IPv4, IPv6 or FQDN", quote(string(t)))
	return 0, false
}

// endpointPorts leaves out ports without a name or number, as kube-proxy does:
// the API keeps those for meanings that nobody has given them yet.
func (c *checker) endpointPorts(in []discoveryv1.EndpointPort) []model.EndpointPort {
	ports := make([]model.EndpointPort, 0, len(in))
	for i := range in {
		if in[i].Name == nil || in[i].Port == nil || *in[i].Port == 0 {
			continue
		}
		p := model.EndpointPort{Name: intern(*in[i].Name), Protocol: model.TCP, Port: uint16(*in[i].Port)}
		var err error
		if in[i].Protocol != nil {
			p.Protocol, err = model.ParseProtocol(string(*in[i].Protocol))
		}
		same := func(o model.EndpointPort) bool { return o.Name == p.Name && o.Protocol == p.Protocol }
		switch {
		case err != nil:
			c.addf("ports[%d].protocol: %s: must be TCP, UDP or SCTP", i, quote(string(*in[i].Protocol)))
		case !isPort(*in[i].Port):
			c.addf("ports[%d].port: %d is not between 1 and 65535", i, *in[i].Port)
		case p.Name != "" && !isLabel(p.Name):
			c.addf("ports[%d].name: %s is not a DNS label of up to %d characters", i, quote(p.Name), maxLabel)
		case slices.ContainsFunc(ports, same):
			c.addf("ports[%d].name: %q is taken by an earlier %v port", i, p.Name, p.Protocol)
		default:
			ports = append(ports, p)
		}
	}
	return ports
}

// endpoints keeps an address that appears twice twice: which of them counts
// depends on other slices too, and is the plan's to decide.
func (c *checker) endpoints(in []discoveryv1.Endpoint, family model.Family) []model.Endpoint {
	endpoints := make([]model.Endpoint, 0, len(in))
	for i := range in {
		if len(in[i].Addresses) == 0 {
			c.addf("endpoints[%d].addresses: empty", i)
			continue
		}
		addr, err := parseAddr(in[i].Addresses[0])
		if err != nil {
			c.addf("endpoints[%d].addresses[0]: %v", i, err)
			continue
		}
		if model.FamilyOf(addr) != family {
			c.addf("endpoints[%d].addresses[0]: %v is not of addressType %v", i, addr, family)
			continue
		}
		ep := model.Endpoint{
			Addr:        addr,
			Ready:       orDefault(in[i].Conditions.Ready, true),
			Serving:     orDefault(in[i].Conditions.Serving, true),
			Terminating: orDefault(in[i].Conditions.Terminating, false),
			Node:        c.endpointNode(i, in[i].NodeName),
			Target:      c.target(i, in[i].TargetRef),
		}
		c.hints(i, &ep, in[i].Hints)
		endpoints = append(endpoints, ep)
	}
	return endpoints
}

func (c *checker) endpointNode(i int, node *string) string {
	switch {
	case node == nil || *node == "":
		return ""
	case !isSubdomain(*node):
		c.addf("endpoints[%d].nodeName: %s is not a node's name", i, quote(*node))
		return ""
	}
	return intern(*node)
}

// target is the name of a pod. References to anything else say nothing to the
// people whom the name is for.
func (c *checker) target(i int, ref *corev1.ObjectReference) string {
	switch {
	case ref == nil || ref.Kind != "Pod":
		return ""
	case !isSubdomain(ref.Name):
		c.addf("endpoints[%d].targetRef.name: %s is not a pod's name", i, quote(ref.Name))
		return ""
	}
	return ref.Name
}

func (c *checker) hints(i int, ep *model.Endpoint, hints *discoveryv1.EndpointHints) {
	if hints == nil {
		return
	}
	for j, zone := range hints.ForZones {
		if !isLabelValue(zone.Name) {
			c.addf("endpoints[%d].hints.forZones[%d].name: %s is not a zone's name", i, j, quote(zone.Name))
			continue
		}
		ep.ForZones = appendNew(ep.ForZones, intern(zone.Name))
	}
	for j, node := range hints.ForNodes {
		if !isSubdomain(node.Name) {
			c.addf("endpoints[%d].hints.forNodes[%d].name: %s is not a node's name", i, j, quote(node.Name))
			continue
		}
		ep.ForNodes = appendNew(ep.ForNodes, intern(node.Name))
	}
}

func (c *checker) trigger(annotations map[string]string) time.Time {
	value, ok := annotations[corev1.EndpointsLastChangeTriggerTime]
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		c.addf("metadata.annotations[%s]: %s is not a time of RFC 3339", corev1.EndpointsLastChangeTriggerTime, quote(value))
		return time.Time{}
	}
	return t
}

func orDefault(b *bool, def bool) bool {
	if b == nil {
		return def
	}
	return *b
}
