// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy/apis"
	"k8s.io/utils/ptr"
)

// The world is small so that things meet: few names, few addresses, few ports.
var (
	nodeNames    = []string{"node-a", "node-b", "node-c", "node-d"}
	zoneNames    = []string{"zone-1", "zone-2", "zone-3"}
	serviceKeys  = [...]key{{serviceKind, "a", "web"}, {serviceKind, "a", "dns"}, {serviceKind, "a", "web-2"}, {serviceKind, "b", "web"}, {serviceKind, "b", "db"}}
	portNames    = []string{"http", "dns", "dns-tcp", "db"}
	externalIPv4 = []string{"203.0.113.1", "203.0.113.2", "203.0.113.003", "192.0.2.11", "::ffff:203.0.113.1", "10.96.0.1"}
	externalIPv6 = []string{"2001:db8::1", "2001:DB8::0002", "2001:db8:0:0::3", "fd00:96:1::1"}
	balancerIPv4 = []string{"198.51.100.1", "198.51.100.2", "203.0.113.1"}
	balancerIPv6 = []string{"2001:db8:1::1", "2001:db8:1::2", "2001:db8::1"}
	sourceRanges = []string{
		"10.0.0.0/8", "192.0.2.0/24", " 192.0.2.7/32", "10.1.2.3/16\t", "172.016.0.0/12",
		"2001:db8:2::/48", " 2001:db8:6::/64 ", "2001:DB8:7::1/128", "0.0.0.0/0", " ::/0", "", "::ffff:10.2.0.0/112",
	}
)

// generator invents changes to a cluster.
type generator struct {
	*dice
	cluster cluster
	births  int // of Services, to give each an age
}

// start makes the nodes; a world without them is no world.
func (g *generator) start() step {
	var s step
	for i, name := range nodeNames {
		node := &v1.Node{
			TypeMeta:   metav1.TypeMeta{Kind: "Node", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		}
		g.alterNodeAddresses(node, i)
		if g.chance(80) {
			node.Labels[v1.LabelTopologyZone] = zoneNames[i%2]
		}
		s = append(s, g.make(put(node)))
	}
	return s
}

// step invents what happens next: mostly one change, sometimes several that
// both sides see at once.
func (g *generator) step() step {
	count := 1
	if g.chance(15) {
		count = g.between(2, 5)
	}
	var s step
	for range count {
		s = append(s, g.make(g.change()))
	}
	return s
}

// emptying removes everything that can be, in any order.
func (g *generator) emptying() []step {
	rest := append(g.cluster.keys(serviceKind), g.cluster.keys(sliceKind)...)
	shuffle(g.dice, rest)
	var steps []step
	for _, k := range rest {
		steps = append(steps, step{g.make(remove(k))})
	}
	return steps
}

func (g *generator) make(c change) change {
	g.cluster.apply(c)
	return c
}

func (g *generator) change() change {
	switch roll := g.roll(100); {
	case roll < 38:
		return g.changeService()
	case roll < 96:
		return g.changeSlice()
	default:
		return g.changeNode()
	}
}

func (g *generator) changeNode() change {
	k := pick(g.dice, g.cluster.keys(nodeKind)...)
	node := g.cluster.node(k).DeepCopy()
	switch g.roll(5) {
	case 0:
		delete(node.Labels, v1.LabelTopologyZone)
	case 4:
		g.alterNodeAddresses(node, slices.Index(nodeNames, node.Name))
	case 1:
		node.Labels["example.com/rack"] = pick(g.dice, "r1", "r2")
	default:
		node.Labels[v1.LabelTopologyZone] = pick(g.dice, zoneNames...)
	}
	return put(node)
}

// alterNodeAddresses replaces a node's addresses, in any order: the first of a
// family matters for source ranges. kube-proxy restarts when they change.
func (g *generator) alterNodeAddresses(node *v1.Node, i int) {
	node.Status.Addresses = []v1.NodeAddress{
		{Type: v1.NodeHostName, Address: node.Name},
		{Type: v1.NodeInternalIP, Address: nodeAddress(discovery.AddressTypeIPv4, i)},
		{Type: v1.NodeInternalIP, Address: nodeAddress(discovery.AddressTypeIPv6, i)},
		{Type: v1.NodeExternalIP, Address: fmt.Sprintf("172.16.9.%d", i+1)},
		{Type: pick(g.dice, v1.NodeInternalIP, v1.NodeExternalIP), Address: fmt.Sprintf("2001:db8:6::%d", i+1)},
	}
	shuffle(g.dice, node.Status.Addresses)
	node.Status.Addresses = node.Status.Addresses[:g.between(2, len(node.Status.Addresses))]
}

func nodeAddress(family discovery.AddressType, i int) string {
	if family == discovery.AddressTypeIPv4 {
		return fmt.Sprintf("192.0.2.1%d", i+1)
	}
	return fmt.Sprintf("2001:db8:2::1%d", i+1)
}

func (g *generator) changeService() change {
	slot := g.roll(len(serviceKeys))
	k := serviceKeys[slot]
	old := g.cluster.service(k)
	if old == nil || g.chance(4) {
		return put(g.newService(k, slot)) // an old one was deleted and nobody saw it
	}
	if g.chance(6) {
		return remove(k)
	}
	s := old.DeepCopy()
	for again := true; again; again = g.chance(25) {
		g.alterService(s, slot)
	}
	return put(s)
}

func (g *generator) newService(k key, slot int) *v1.Service {
	g.births++
	s := &v1.Service{
		TypeMeta: metav1.TypeMeta{Kind: "Service", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: k.namespace, Name: k.name,
			UID: types.UID(fmt.Sprintf("uid-%d", g.births)),
			// Two of a kind happen: the API's times are whole seconds.
			CreationTimestamp: metav1.NewTime(time.Unix(1_800_000_000+int64(g.births/2), 0).UTC()),
		},
		Spec: v1.ServiceSpec{
			SessionAffinity:       v1.ServiceAffinityNone,
			InternalTrafficPolicy: ptr.To(v1.ServiceInternalTrafficPolicyCluster),
		},
	}
	g.alterPorts(s, slot)
	g.alterType(s, slot)
	g.alterAddresses(s, slot)
	for range g.roll(4) {
		g.alterService(s, slot)
	}
	return s
}

func (g *generator) alterService(s *v1.Service, slot int) {
	switch g.roll(16) {
	case 0:
		g.alterPorts(s, slot)
	case 1, 2:
		g.alterType(s, slot)
	case 3:
		g.alterAddresses(s, slot)
	case 4:
		s.Spec.InternalTrafficPolicy = pick(g.dice, nil,
			ptr.To(v1.ServiceInternalTrafficPolicyCluster), ptr.To(v1.ServiceInternalTrafficPolicyLocal))
	case 5, 6:
		s.Spec.ExternalTrafficPolicy = pick(g.dice, "", v1.ServiceExternalTrafficPolicyCluster,
			v1.ServiceExternalTrafficPolicyLocal, v1.ServiceExternalTrafficPolicyLocal)
		g.alterHealthCheck(s, slot)
	case 7:
		g.alterAffinity(s)
	case 8, 9:
		s.Spec.ExternalIPs = g.some(2, append(externalIPv4, externalIPv6...))
	case 10, 11:
		g.alterIngress(s)
	case 12:
		s.Spec.LoadBalancerSourceRanges = g.some(3, sourceRanges)
	case 13:
		g.alterNodePorts(s, slot)
	case 14:
		g.toggleLabel(&s.ObjectMeta, apis.LabelServiceProxyName, "other")
	case 15:
		g.alterIrrelevant(s)
	}
}

// some picks up to limit elements, with repetition.
func (g *generator) some(limit int, from []string) []string {
	var list []string
	for range g.roll(limit + 1) {
		list = append(list, pick(g.dice, from...))
	}
	return list
}

func (g *generator) toggleLabel(meta *metav1.ObjectMeta, label, value string) {
	labels := maps.Clone(meta.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if _, has := labels[label]; has {
		delete(labels, label)
	} else {
		labels[label] = pick(g.dice, "", value)
	}
	meta.Labels = labels
}

// alterIrrelevant changes what a proxy must not care about.
func (g *generator) alterIrrelevant(s *v1.Service) {
	switch g.roll(5) {
	case 0:
		g.toggleLabel(&s.ObjectMeta, v1.IsHeadlessService, "true")
	case 1:
		s.Spec.PublishNotReadyAddresses = !s.Spec.PublishNotReadyAddresses
	case 2:
		s.Spec.LoadBalancerIP = pick(g.dice, "", "198.51.100.9")
	case 3:
		s.Spec.TrafficDistribution = pick(g.dice, nil, ptr.To(v1.ServiceTrafficDistributionPreferSameZone))
	case 4:
		s.Annotations = map[string]string{v1.AnnotationLoadBalancerSourceRangesKey: "10.0.0.0/8"}
	}
}

// alterPorts replaces the ports; the API wants names and (port, protocol) to be
// unique.
func (g *generator) alterPorts(s *v1.Service, slot int) {
	protocol := func() v1.Protocol {
		return pick(g.dice, v1.ProtocolTCP, v1.ProtocolTCP, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolUDP, v1.ProtocolSCTP)
	}
	number := func() int32 { return pick[int32](g.dice, 80, 80, 53, 443, 1) }
	s.Spec.Ports = nil
	if g.chance(35) {
		s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Protocol: protocol(), Port: number()})
	} else {
		type place struct {
			port     int32
			protocol v1.Protocol
		}
		taken := map[place]bool{}
		for _, name := range portNames {
			p := place{number(), protocol()}
			if g.chance(55) && !taken[p] {
				taken[p] = true
				s.Spec.Ports = append(s.Spec.Ports, v1.ServicePort{Name: name, Protocol: p.protocol, Port: p.port})
			}
		}
		shuffle(g.dice, s.Spec.Ports)
	}
	if s.Spec.Type == v1.ServiceTypeNodePort || s.Spec.Type == v1.ServiceTypeLoadBalancer {
		g.alterNodePorts(s, slot)
	}
}

// alterNodePorts gives each port a NodePort or none; each Service has a range
// of its own, as the API server would see to it.
func (g *generator) alterNodePorts(s *v1.Service, slot int) {
	first := int32(30000 + 10*slot + g.roll(3))
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 0
		if g.chance(75) {
			s.Spec.Ports[i].NodePort = first + int32(i)
		}
	}
}

func (g *generator) alterType(s *v1.Service, slot int) {
	s.Spec.Type = pick(g.dice, v1.ServiceTypeClusterIP, v1.ServiceTypeNodePort,
		v1.ServiceTypeLoadBalancer, v1.ServiceTypeLoadBalancer, v1.ServiceTypeExternalName)
	s.Spec.ExternalName = ""
	switch s.Spec.Type {
	case v1.ServiceTypeExternalName:
		s.Spec.ExternalName = "db.example.com"
	case v1.ServiceTypeNodePort, v1.ServiceTypeLoadBalancer:
		g.alterNodePorts(s, slot)
	}
	// The API server clears what a type does not have. Old and half-written
	// objects exist all the same.
	if g.chance(90) {
		if s.Spec.Type != v1.ServiceTypeNodePort && s.Spec.Type != v1.ServiceTypeLoadBalancer {
			for i := range s.Spec.Ports {
				s.Spec.Ports[i].NodePort = 0
			}
		}
		if s.Spec.Type != v1.ServiceTypeLoadBalancer {
			s.Status.LoadBalancer.Ingress = nil
		}
	}
	if s.Spec.Type == v1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0 {
		g.alterIngress(s)
	}
	g.alterHealthCheck(s, slot)
}

func (g *generator) alterHealthCheck(s *v1.Service, slot int) {
	s.Spec.HealthCheckNodePort = 0
	local := s.Spec.Type == v1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == v1.ServiceExternalTrafficPolicyLocal
	if local != g.chance(5) {
		s.Spec.HealthCheckNodePort = int32(32000 + 10*slot + g.roll(3))
	}
}

func (g *generator) alterAffinity(s *v1.Service) {
	s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = v1.ServiceAffinityNone, nil
	switch g.roll(4) {
	case 0:
	case 1: // left behind by a Service that had affinity
		s.Spec.SessionAffinityConfig = affinityFor(60)
	default:
		s.Spec.SessionAffinity = v1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = affinityFor(pick[int32](g.dice, 1, 10, 10800, 86400))
	}
}

func affinityFor(seconds int32) *v1.SessionAffinityConfig {
	return &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &seconds}}
}

// alterAddresses replaces the ClusterIPs: single and dual stack in either
// order, objects from before dual stack, headless, none yet.
func (g *generator) alterAddresses(s *v1.Service, slot int) {
	four := fmt.Sprintf("10.96.%d.%d", slot, g.between(1, 2))
	six := fmt.Sprintf("fd00:96:%d::%d", slot, g.between(1, 2))
	set := func(families []v1.IPFamily, ips ...string) {
		s.Spec.IPFamilies, s.Spec.ClusterIPs, s.Spec.ClusterIP = families, ips, ""
		if len(ips) > 0 {
			s.Spec.ClusterIP = ips[0]
		}
	}
	switch g.roll(16) {
	case 0, 1:
		set([]v1.IPFamily{v1.IPv4Protocol}, four)
	case 2, 3:
		set([]v1.IPFamily{v1.IPv6Protocol}, six)
	case 4:
		set(nil, pick(g.dice, four, six))
		s.Spec.ClusterIPs = nil
	case 5:
		set([]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, v1.ClusterIPNone)
	case 6:
		set(nil)
	case 7: // became dual stack, second address still to come
		set([]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, four)
	case 8, 9, 10:
		set([]v1.IPFamily{v1.IPv6Protocol, v1.IPv4Protocol}, six, four)
	default:
		set([]v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}, four, six)
	}
}

func (g *generator) alterIngress(s *v1.Service) {
	if s.Spec.Type != v1.ServiceTypeLoadBalancer && !g.chance(10) {
		s.Status.LoadBalancer.Ingress = nil
		return
	}
	var ingress []v1.LoadBalancerIngress
	for range g.roll(4) {
		entry := v1.LoadBalancerIngress{
			IP:     pick(g.dice, append(balancerIPv4, balancerIPv6...)...),
			IPMode: pick(g.dice, nil, nil, ptr.To(v1.LoadBalancerIPModeVIP), ptr.To(v1.LoadBalancerIPModeProxy)),
		}
		if g.chance(10) {
			entry = v1.LoadBalancerIngress{Hostname: "lb.example.com"}
		}
		if g.chance(10) {
			entry.Ports = []v1.PortStatus{{Port: 80, Protocol: v1.ProtocolTCP}}
		}
		ingress = append(ingress, entry)
	}
	s.Status.LoadBalancer.Ingress = ingress
}

// owner returns the Service that a slice says it belongs to.
func owner(s *discovery.EndpointSlice) key {
	return key{serviceKind, s.Namespace, s.Labels[discovery.LabelServiceName]}
}

func (g *generator) changeSlice() change {
	service := serviceKeys[g.roll(len(serviceKeys))]
	k := key{sliceKind, service.namespace, fmt.Sprintf("%s-%d", service.name, g.roll(5))}
	old := g.cluster.slice(k)
	if old == nil {
		return put(g.newSlice(k, service))
	}
	if g.chance(7) {
		return remove(k)
	}
	s := old.DeepCopy()
	if g.chance(20) {
		g.alterSlicePorts(s) // mostly those of the Service
	}
	for again := true; again; again = g.chance(25) {
		g.alterSlice(s)
	}
	return put(s)
}

func (g *generator) newSlice(k, service key) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		TypeMeta: metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: k.namespace, Name: k.name,
			Labels: map[string]string{discovery.LabelServiceName: service.name},
		},
		AddressType: pick(g.dice, discovery.AddressTypeIPv4, discovery.AddressTypeIPv6),
	}
	if g.chance(2) {
		s.AddressType = discovery.AddressTypeFQDN
	}
	g.alterSlicePorts(s)
	for range g.roll(5) {
		s.Endpoints = append(s.Endpoints, g.newEndpoint(s.AddressType))
	}
	if g.chance(40) {
		g.hintAll(s)
	}
	return s
}

func (g *generator) alterSlice(s *discovery.EndpointSlice) {
	switch g.roll(15) {
	case 14:
		if g.chance(20) { // it changes hands, or belongs to nobody
			s.Labels = maps.Clone(s.Labels)
			s.Labels[discovery.LabelServiceName] = pick(g.dice, "", "web", "web-2", "dns")
		}
	case 0:
		g.alterSlicePorts(s)
	case 1, 2:
		s.Endpoints = append(s.Endpoints, g.newEndpoint(s.AddressType))
	case 3:
		g.copyEndpoint(s)
	case 4:
		g.reuseAddress(s)
	case 5:
		shuffle(g.dice, s.Endpoints)
	case 6:
		g.hintAll(s)
	case 7:
		g.toggleLabel(&s.ObjectMeta, pick(g.dice, v1.IsHeadlessService, apis.LabelServiceProxyName, "example.com/x"), "true")
	case 8:
		s.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}
	default:
		if len(s.Endpoints) == 0 {
			s.Endpoints = append(s.Endpoints, g.newEndpoint(s.AddressType))
			return
		}
		g.alterEndpoint(s)
	}
}

func (g *generator) alterEndpoint(s *discovery.EndpointSlice) {
	i := g.roll(len(s.Endpoints))
	e := &s.Endpoints[i]
	switch g.roll(10) {
	case 0, 1:
		s.Endpoints = slices.Delete(s.Endpoints, i, i+1)
	case 2:
		e.NodeName = pick(g.dice, nil, &nodeNames[0], &nodeNames[1], &nodeNames[2])
	case 3:
		e.Hints = g.hints(g.roll(4))
	case 4, 5: // the pod is being deleted
		e.Conditions = conditions(false, true, true)
	case 6:
		e.Conditions = conditions(false, false, g.chance(50))
	default:
		e.Conditions = g.conditions()
	}
}

func conditions(ready, serving, terminating bool) discovery.EndpointConditions {
	return discovery.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
}

// conditions are mostly those that a controller writes, ready and not, and
// sometimes any combination, with nils.
func (g *generator) conditions() discovery.EndpointConditions {
	if g.chance(60) {
		return conditions(true, true, false)
	}
	any := func() *bool { return pick(g.dice, nil, ptr.To(true), ptr.To(false)) }
	return discovery.EndpointConditions{Ready: any(), Serving: any(), Terminating: any()}
}

// newEndpoint is a pod: its address says on which node it runs.
func (g *generator) newEndpoint(family discovery.AddressType) discovery.Endpoint {
	node, pod := g.roll(len(nodeNames)), g.between(1, 4)
	e := discovery.Endpoint{
		NodeName:   &nodeNames[node],
		Conditions: g.conditions(),
		TargetRef:  &v1.ObjectReference{Kind: "Pod", Namespace: "a", Name: fmt.Sprintf("pod-%d-%d", node, pod)},
	}
	switch family {
	case discovery.AddressTypeIPv4:
		e.Addresses = []string{fmt.Sprintf("10.244.%d.%d", node, pod)}
		if g.chance(5) {
			e.Addresses[0] = fmt.Sprintf("010.244.%d.%03d", node, pod)
		}
		if g.chance(5) {
			e.Addresses = append(e.Addresses, "10.244.9.9")
		}
	case discovery.AddressTypeIPv6:
		e.Addresses = []string{fmt.Sprintf("fd00:244:%d::%d", node, pod)}
		if g.chance(5) {
			e.Addresses[0] = fmt.Sprintf("FD00:0244:%d:0:0::%d", node, pod)
		}
	case discovery.AddressTypeFQDN:
		e.Addresses = []string{"pod.example.com"}
	}
	if family != discovery.AddressTypeFQDN && g.chance(8) { // in the host's network
		e.Addresses = []string{nodeAddress(family, node)}
	}
	if g.chance(5) {
		e.NodeName = nil
	}
	if g.chance(20) {
		e.Hints = g.hints(g.roll(4))
	}
	return e
}

// hints of a style: none, zones, nodes, both.
func (g *generator) hints(style int) *discovery.EndpointHints {
	if style == 0 {
		return pick(g.dice, nil, &discovery.EndpointHints{})
	}
	h := &discovery.EndpointHints{}
	if style&1 != 0 {
		for range g.between(1, 2) {
			h.ForZones = append(h.ForZones, discovery.ForZone{Name: pick(g.dice, zoneNames...)})
		}
	}
	if style&2 != 0 {
		for range g.between(1, 2) {
			h.ForNodes = append(h.ForNodes, discovery.ForNode{Name: pick(g.dice, nodeNames...)})
		}
	}
	return h
}

// hintAll does what the controller does: every endpoint has hints of a style.
func (g *generator) hintAll(s *discovery.EndpointSlice) {
	style := g.roll(4)
	for i := range s.Endpoints {
		s.Endpoints[i].Hints = g.hints(style)
	}
}

// copyEndpoint is half of a move between slices of a Service: the endpoint is
// in both for a while.
func (g *generator) copyEndpoint(s *discovery.EndpointSlice) {
	var from []discovery.Endpoint
	for _, k := range g.cluster.keys(sliceKind) {
		if other := g.cluster.slice(k); owner(other) == owner(s) && other.AddressType == s.AddressType {
			from = append(from, other.Endpoints...)
		}
	}
	if len(from) > 0 {
		s.Endpoints = append(s.Endpoints, clone(pick(g.dice, from...)))
	}
}

func clone(e discovery.Endpoint) discovery.Endpoint { return *e.DeepCopy() }

// reuseAddress gives an address of a slice to a second pod.
func (g *generator) reuseAddress(s *discovery.EndpointSlice) {
	if len(s.Endpoints) == 0 {
		return
	}
	heir := clone(pick(g.dice, s.Endpoints...))
	heir.TargetRef = &v1.ObjectReference{Kind: "Pod", Namespace: "a", Name: "heir"}
	heir.Conditions = g.conditions()
	s.Endpoints = slices.Insert(s.Endpoints, g.roll(len(s.Endpoints)+1), heir)
}

// alterSlicePorts replaces a slice's ports; names are unique within it. Target
// ports differ between slices, as named ones do.
func (g *generator) alterSlicePorts(s *discovery.EndpointSlice) {
	s.Ports = nil
	add := func(name string) {
		p := discovery.EndpointPort{
			Name:     &name,
			Protocol: pick(g.dice, ptr.To(v1.ProtocolTCP), ptr.To(v1.ProtocolTCP), ptr.To(v1.ProtocolUDP), ptr.To(v1.ProtocolSCTP)),
			Port:     pick(g.dice, ptr.To[int32](8080), ptr.To[int32](8080), ptr.To[int32](9090), ptr.To[int32](5353)),
		}
		if g.chance(3) {
			p.Port = pick(g.dice, nil, ptr.To[int32](0))
		}
		if g.chance(3) {
			p.Name = nil
		}
		s.Ports = append(s.Ports, p)
	}
	if service := g.cluster.service(owner(s)); service != nil && g.chance(90) {
		for _, p := range service.Spec.Ports {
			add(p.Name)
			s.Ports[len(s.Ports)-1].Protocol = ptr.To(p.Protocol)
		}
		return
	}
	if g.chance(40) {
		add("")
		return
	}
	for _, name := range portNames {
		if g.chance(60) {
			add(name)
		}
	}
}
