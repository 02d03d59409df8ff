// SPDX-License-Identifier: Apache-2.0

package object

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/beeline-net/beeline/internal/model"
)

// LabelProxyName on a Service gives it to another proxy. Its presence decides,
// whatever its value.
const LabelProxyName = "service.kubernetes.io/service-proxy-name"

// Bounds of spec.sessionAffinityConfig.clientIP.timeoutSeconds.
const (
	defaultAffinityTimeout = 10800
	maxAffinityTimeout     = 86400
)

// Service converts a Service. The result is nil if it is not to be proxied, or
// if it cannot be.
func Service(in *corev1.Service) (*model.Service, []Problem) {
	if skipService(in) {
		return nil, nil
	}
	c := &checker{kind: "Service", namespace: in.Namespace, name: in.Name}
	name, ok := c.objectName(isLabel, "label of up to 63 characters")
	if !ok {
		return nil, c.result()
	}
	clusterIPs := c.clusterIPs(&in.Spec)
	if len(clusterIPs) == 0 {
		return nil, c.result()
	}
	svc := &model.Service{
		Name:            name,
		UID:             c.uid(&in.ObjectMeta),
		Created:         in.CreationTimestamp.Time,
		Type:            c.serviceType(in.Spec.Type),
		ClusterIPs:      clusterIPs,
		ExternalIPs:     c.externalIPs(in.Spec.ExternalIPs),
		LoadBalancerIPs: c.ingressIPs(in.Status.LoadBalancer.Ingress),
		AffinityTimeout: c.affinity(&in.Spec),
		Drain:           c.drain(in.Annotations),
		Ports:           c.servicePorts(in.Spec.Ports),
	}
	c.policies(svc, &in.Spec)
	c.sourceRanges(svc, in.Spec.LoadBalancerSourceRanges)
	if svc.Type == model.LoadBalancer && svc.ExternalLocal {
		svc.HealthCheckNodePort = c.optionalPort("spec.healthCheckNodePort", in.Spec.HealthCheckNodePort)
	}
	return svc, c.result()
}

// skipService is true for what kube-proxy does not proxy either.
func skipService(in *corev1.Service) bool {
	_, foreign := in.Labels[LabelProxyName]
	return foreign || in.Spec.ClusterIP == corev1.ClusterIPNone || in.Spec.Type == corev1.ServiceTypeExternalName
}

func (c *checker) serviceType(t corev1.ServiceType) model.ServiceType {
	switch t {
	case corev1.ServiceTypeClusterIP, "":
		return model.ClusterIP
	case corev1.ServiceTypeNodePort:
		return model.NodePort
	case corev1.ServiceTypeLoadBalancer:
		return model.LoadBalancer
	}
	c.addf("spec.type: %s: must be ClusterIP, NodePort, LoadBalancer or ExternalName; taken for ClusterIP", quote(string(t)))
	return model.ClusterIP
}

// clusterIPs pairs spec.clusterIPs with spec.ipFamilies. An object from before
// dual stack has no families, and then only spec.clusterIP counts.
func (c *checker) clusterIPs(spec *corev1.ServiceSpec) []netip.Addr {
	if spec.ClusterIP == "" {
		c.addf("spec.clusterIP: empty, and nobody has allocated an address")
		return nil
	}
	if len(spec.IPFamilies) == 0 {
		addr, err := parseAddr(spec.ClusterIP)
		if err != nil {
			c.addf("spec.clusterIP: %v", err)
			return nil
		}
		return []netip.Addr{addr}
	}
	if len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] != spec.ClusterIP {
		c.addf("spec.clusterIP: %s differs from spec.clusterIPs[0], which is used", quote(spec.ClusterIP))
	}
	var addrs []netip.Addr
	for i, s := range spec.ClusterIPs {
		addr, err := parseAddr(s)
		switch {
		case err != nil:
			c.addf("spec.clusterIPs[%d]: %v", i, err)
		case i >= len(spec.IPFamilies):
			c.addf("spec.clusterIPs[%d]: %v has no family in spec.ipFamilies", i, addr)
		case string(spec.IPFamilies[i]) != model.FamilyOf(addr).String():
			c.addf("spec.clusterIPs[%d]: %v is not of the family %s of spec.ipFamilies[%d]", i, addr, quote(string(spec.IPFamilies[i])), i)
		case slices.ContainsFunc(addrs, func(a netip.Addr) bool { return model.FamilyOf(a) == model.FamilyOf(addr) }):
			c.addf("spec.clusterIPs[%d]: %v is the second %v address", i, addr, model.FamilyOf(addr))
		default:
			addrs = append(addrs, addr)
		}
	}
	for i := len(spec.ClusterIPs); i < len(spec.IPFamilies); i++ {
		c.addf("spec.ipFamilies[%d]: %s has no address in spec.clusterIPs", i, quote(string(spec.IPFamilies[i])))
	}
	return addrs
}

// externalIPs tolerates empty strings, which older API servers let pass.
func (c *checker) externalIPs(in []string) []netip.Addr {
	var addrs []netip.Addr
	for i, s := range in {
		if strings.TrimSpace(s) == "" {
			continue
		}
		addr, err := parseAddr(s)
		if err != nil {
			c.addf("spec.externalIPs[%d]: %v", i, err)
			continue
		}
		addrs = appendNew(addrs, addr)
	}
	return addrs
}

// ingressIPs takes the addresses that a proxy has to serve: ipMode Proxy means
// that traffic must go through the load balancer itself (KEP-1860).
func (c *checker) ingressIPs(in []corev1.LoadBalancerIngress) []netip.Addr {
	var addrs []netip.Addr
	for i := range in {
		mode := in[i].IPMode
		if mode != nil && *mode != corev1.LoadBalancerIPModeVIP && *mode != corev1.LoadBalancerIPModeProxy {
			c.addf("status.loadBalancer.ingress[%d].ipMode: %s: must be VIP or Proxy", i, quote(string(*mode)))
		}
		if in[i].IP == "" || mode != nil && *mode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		addr, err := parseAddr(in[i].IP)
		if err != nil {
			c.addf("status.loadBalancer.ingress[%d].ip: %v", i, err)
			continue
		}
		addrs = appendNew(addrs, addr)
	}
	return addrs
}

// sourceRanges fails closed: with an unreadable range, LoadBalancer addresses
// of a family that has no readable one are withheld.
func (c *checker) sourceRanges(svc *model.Service, in []string) {
	unreadable := false
	for i, s := range in {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		prefix, err := parsePrefix(s)
		if err != nil {
			c.addf("spec.loadBalancerSourceRanges[%d]: %v", i, err)
			unreadable = true
			continue
		}
		svc.SourceRanges = appendNew(svc.SourceRanges, prefix)
	}
	if !unreadable {
		return
	}
	svc.LoadBalancerIPs = slices.DeleteFunc(svc.LoadBalancerIPs, func(vip netip.Addr) bool {
		protected := slices.ContainsFunc(svc.SourceRanges, func(p netip.Prefix) bool {
			return model.FamilyOf(p.Addr()) == model.FamilyOf(vip)
		})
		if !protected {
			c.addf("status.loadBalancer.ingress: %v withheld, as no readable source range of its family protects it", vip)
		}
		return !protected
	})
}

// policies applies the traffic policies. The external one counts only where
// something external leads to the Service.
func (c *checker) policies(svc *model.Service, spec *corev1.ServiceSpec) {
	if p := spec.InternalTrafficPolicy; p != nil {
		switch *p {
		case corev1.ServiceInternalTrafficPolicyLocal:
			svc.InternalLocal = true
		case corev1.ServiceInternalTrafficPolicyCluster:
		default:
			c.addf("spec.internalTrafficPolicy: %s: must be Cluster or Local; taken for Cluster", quote(string(*p)))
		}
	}
	switch p := spec.ExternalTrafficPolicy; p {
	case corev1.ServiceExternalTrafficPolicyLocal:
		svc.ExternalLocal = svc.Type != model.ClusterIP || len(spec.ExternalIPs) > 0
	case corev1.ServiceExternalTrafficPolicyCluster, "":
	default:
		c.addf("spec.externalTrafficPolicy: %s: must be Cluster or Local; taken for Cluster", quote(string(p)))
	}
}

func (c *checker) affinity(spec *corev1.ServiceSpec) time.Duration {
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone, "":
		return 0
	case corev1.ServiceAffinityClientIP:
	default:
		c.addf("spec.sessionAffinity: %s: must be None or ClientIP; taken for None", quote(string(spec.SessionAffinity)))
		return 0
	}
	seconds := int32(defaultAffinityTimeout)
	if cfg := spec.SessionAffinityConfig; cfg != nil && cfg.ClientIP != nil && cfg.ClientIP.TimeoutSeconds != nil {
		seconds = *cfg.ClientIP.TimeoutSeconds
	}
	if seconds < 1 || seconds > maxAffinityTimeout {
		c.addf("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not between 1 and %d; %d is used",
			seconds, maxAffinityTimeout, defaultAffinityTimeout)
		seconds = defaultAffinityTimeout
	}
	return time.Duration(seconds) * time.Second
}

// servicePorts keeps the first of two ports that have the same name or number
// within one protocol. (The API refuses the same name even across protocols;
// kube-proxy tells those apart, and so do we.)
func (c *checker) servicePorts(in []corev1.ServicePort) []model.ServicePort {
	ports := make([]model.ServicePort, 0, len(in))
	for i := range in {
		protocol, err := model.ParseProtocol(string(in[i].Protocol))
		switch same := func(p model.ServicePort) bool {
			return p.Protocol == protocol && (p.Name == in[i].Name || int32(p.Port) == in[i].Port)
		}; {
		case err != nil:
			c.addf("spec.ports[%d].protocol: %s: must be TCP, UDP or SCTP", i, quote(string(in[i].Protocol)))
		case !isPort(in[i].Port):
			c.addf("spec.ports[%d].port: %d is not between 1 and 65535", i, in[i].Port)
		case in[i].Name != "" && !isLabel(in[i].Name):
			c.addf("spec.ports[%d].name: %s is not a DNS label of up to %d characters", i, quote(in[i].Name), maxLabel)
		case slices.ContainsFunc(ports, same):
			c.addf("spec.ports[%d]: name %q or number %d is taken by an earlier %v port", i, in[i].Name, in[i].Port, protocol)
		default:
			ports = append(ports, model.ServicePort{
				Name: intern(in[i].Name), Protocol: protocol, Port: uint16(in[i].Port),
				NodePort: c.nodePort(i, in[i].NodePort, protocol, ports),
			})
		}
	}
	return ports
}

func (c *checker) nodePort(i int, n int32, protocol model.Protocol, earlier []model.ServicePort) uint16 {
	if n != 0 && !isPort(n) {
		c.addf("spec.ports[%d].nodePort: %d is not between 0 and 65535", i, n)
		return 0
	}
	taken := func(p model.ServicePort) bool { return p.Protocol == protocol && int32(p.NodePort) == n }
	if n != 0 && slices.ContainsFunc(earlier, taken) {
		c.addf("spec.ports[%d].nodePort: %d is taken by an earlier %v port", i, n, protocol)
		return 0
	}
	return uint16(n)
}

// optionalPort returns 0 for a port that is not given or not valid.
func (c *checker) optionalPort(field string, n int32) uint16 {
	if n != 0 && !isPort(n) {
		c.addf("%s: %d is not between 0 and 65535", field, n)
		return 0
	}
	return uint16(n)
}

func appendNew[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}
