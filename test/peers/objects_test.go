// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// endpoint is a backend in a state.
type endpoint struct {
	at    string // whose backend it is
	state string
}

// States of an endpoint.
const (
	ready       = "ready"
	notReady    = "not ready"
	terminating = "terminating" // and serving
	ended       = "ended"       // terminating, and not serving any more
)

// service is a Service of type LoadBalancer with all kinds of addresses, on one
// port number for TCP and UDP; edit makes it another.
type service struct {
	name      string
	number    int // tells its addresses and its NodePort
	external  corev1.ServiceExternalTrafficPolicy
	internal  corev1.ServiceInternalTrafficPolicy
	endpoints []endpoint
	edit      func(*corev1.Service)
}

// Addresses of Services; the router sends them to node 1.
var (
	routed   = []string{"10.96.0.0/16", "fd00:96::/112", "198.18.0.0/16", "2001:db8:18::/112", "198.19.0.0/16", "2001:db8:19::/112"}
	clusters = [2]netip.Prefix{netip.MustParsePrefix(routed[0]), netip.MustParsePrefix(routed[1])}
	external = [2]netip.Prefix{netip.MustParsePrefix(routed[2]), netip.MustParsePrefix(routed[3])}
	balanced = [2]netip.Prefix{netip.MustParsePrefix(routed[4]), netip.MustParsePrefix(routed[5])}
)

// at is the address of a number in a block.
func at(block netip.Prefix, number int) netip.Addr {
	b := block.Addr().AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(number>>8), byte(number)
	a, _ := netip.AddrFromSlice(b)
	return a
}

const (
	servicePort   = 80
	firstNodePort = 30000
)

func (s *service) nodePort() int { return firstNodePort + s.number }

func both(blocks [2]netip.Prefix, number int) []string {
	return []string{at(blocks[0], number).String(), at(blocks[1], number).String()}
}

// object is the Service for the API server.
func (s *service) object() *corev1.Service {
	internal, families := s.internal, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	if internal == "" {
		internal = corev1.ServiceInternalTrafficPolicyCluster
	}
	o := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: both(clusters, s.number), IPFamilies: families,
			ExternalIPs:           both(external, s.number),
			ExternalTrafficPolicy: s.external, InternalTrafficPolicy: &internal,
		},
	}
	if o.Spec.ExternalTrafficPolicy == "" {
		o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
	for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
			Name: strings.ToLower(string(p)), Protocol: p, Port: servicePort, NodePort: int32(s.nodePort()),
		})
	}
	for _, ip := range both(balanced, s.number) {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	if s.edit != nil {
		s.edit(o)
	}
	return o
}

// slices are the Service's EndpointSlices, of both families.
func (s *service) slices(w *world) (all []runtime.Object) {
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		o := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: fmt.Sprintf("%s-%d", s.name, i),
				Labels: map[string]string{discoveryv1.LabelServiceName: s.name},
			},
			AddressType: family,
		}
		for _, p := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP} {
			name, port := strings.ToLower(string(p)), int32(backendPort)
			o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: &name, Protocol: &p, Port: &port})
		}
		for _, e := range s.endpoints {
			node := nodeOf(e.at)
			isReady, isTerminating := e.state == ready, e.state == terminating || e.state == ended
			serving := isReady || e.state == terminating
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{w.addrs[e.at][i].String()}, NodeName: node,
				Conditions: discoveryv1.EndpointConditions{Ready: &isReady, Serving: &serving, Terminating: &isTerminating},
			})
		}
		all = append(all, o)
	}
	return all
}

// nodeOf is the node of a backend, nil for none.
func nodeOf(backend string) *string {
	name := node1
	switch backend {
	case remote, node2:
		name = node2
	case router:
		return nil
	}
	return &name
}

// objects are those of Services; w says where backends are, which is the same
// in both worlds.
func objects(w *world, services ...*service) (all []runtime.Object) {
	for _, s := range services {
		all = append(all, s.slices(w)...)
	}
	for _, s := range services {
		all = append(all, s.object())
	}
	return all
}

// objects are what the cluster says of its nodes and of its ranges.
func (w *world) objects() (all []runtime.Object) {
	for _, n := range w.nodes {
		o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		o.Spec.PodCIDRs = []string{fmt.Sprintf("10.244.%d.0/24", n.Index), fmt.Sprintf("fd00:244:%d::/64", n.Index)}
		o.Spec.PodCIDR = o.Spec.PodCIDRs[0]
		for _, a := range w.addrs[n.Name] {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
		}
		all = append(all, o)
	}
	all = append(all, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: meshed, UID: meshedUID,
			Annotations: map[string]string{"beeline.dev/socket-balancing": "false"},
		},
		Spec: corev1.PodSpec{NodeName: node1},
	})
	return append(all, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{clusters[0].String(), clusters[1].String()}},
	})
}

// several reports whether more than one backend may answer somewhere.
func (s *service) several() bool {
	var usable []string
	for _, e := range s.endpoints {
		if e.state == ready || e.state == terminating {
			usable = append(usable, e.at)
		}
	}
	slices.Sort(usable)
	return len(slices.Compact(usable)) > 1
}
