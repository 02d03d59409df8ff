// SPDX-License-Identifier: Apache-2.0

package object

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/internal/model"
)

var options = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func of[T any](v T) *T { return &v }

// messages drops the object from problems, to compare what is said about it.
func messages(problems []Problem) []string {
	var out []string
	for _, p := range problems {
		out = append(out, p.Message)
	}
	return out
}

// apiService is a Service as the API server would deliver it.
func apiService(edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "u-1",
			CreationTimestamp: metav1.NewTime(time.Unix(1000, 0)),
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
			IPFamilies:            []corev1.IPFamily{corev1.IPv4Protocol},
			SessionAffinity:       corev1.ServiceAffinityNone,
			InternalTrafficPolicy: of(corev1.ServiceInternalTrafficPolicyCluster),
			Ports:                 []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

// modelService is what becomes of apiService.
func modelService(edit func(*model.Service)) *model.Service {
	s := &model.Service{
		Name: model.Name{Namespace: "shop", Name: "web"}, UID: "u-1", Created: time.Unix(1000, 0),
		ClusterIPs: addrs("10.96.0.1"),
		Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

type serviceCase struct {
	name     string
	in       func(*corev1.Service)
	want     func(*model.Service) // of what becomes of apiService
	none     bool                 // no Service at all
	problems []string
}

func runServices(t *testing.T, tests []serviceCase) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := modelService(tt.want)
			if tt.none {
				want = nil
			}
			got, problems := Service(apiService(tt.in))
			if diff := cmp.Diff(want, got, options); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Error(diff)
			}
			for _, p := range problems {
				if p.Object != "Service shop/web" && !strings.Contains(tt.name, "name") {
					t.Errorf("object %q", p.Object)
				}
			}
		})
	}
}

func TestServicesThatAreNotProxied(t *testing.T) {
	runServices(t, []serviceCase{
		{name: "ExternalName", none: true, in: func(s *corev1.Service) {
			s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
		}},
		{name: "ExternalName with an address", none: true, in: func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeExternalName
		}},
		{name: "headless", none: true, in: func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		}},
		{name: "of another proxy", none: true, in: func(s *corev1.Service) {
			s.Labels = map[string]string{LabelProxyName: "other"}
		}},
		{name: "of another proxy with an empty name", none: true, in: func(s *corev1.Service) {
			s.Labels = map[string]string{LabelProxyName: ""}
		}},
		{name: "without an address", none: true, in: func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}, problems: []string{"spec.clusterIP: empty, and nobody has allocated an address"}},
	})
}

func TestClusterIPs(t *testing.T) {
	families := func(f ...corev1.IPFamily) func(s *corev1.Service) []corev1.IPFamily {
		return func(s *corev1.Service) []corev1.IPFamily { return f }
	}
	set := func(families func(*corev1.Service) []corev1.IPFamily, first string, ips ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies = first, ips, families(s)
		}
	}
	want := func(list ...string) func(*model.Service) {
		return func(s *model.Service) { s.ClusterIPs = addrs(list...) }
	}
	v4, v6 := corev1.IPv4Protocol, corev1.IPv6Protocol
	runServices(t, []serviceCase{
		{name: "IPv4", want: want("10.96.0.1")},
		{name: "IPv6", in: set(families(v6), "fd00::1", "fd00::1"), want: want("fd00::1")},
		{name: "both", in: set(families(v4, v6), "10.96.0.1", "10.96.0.1", "fd00::1"), want: want("10.96.0.1", "fd00::1")},
		{name: "both, IPv6 first", in: set(families(v6, v4), "fd00::1", "fd00::1", "10.96.0.1"), want: want("fd00::1", "10.96.0.1")},
		{name: "old object without families", in: set(families(), "10.96.0.1"), want: want("10.96.0.1")},
		{name: "old object with IPv6", in: set(families(), "fd00::1"), want: want("fd00::1")},
		{name: "leading zeros of an old object are decimal", in: set(families(v4), "010.096.000.001", "010.096.000.001"),
			want: want("10.96.0.1")},
		{name: "IPv4-mapped is IPv4", in: set(families(v4), "::ffff:10.96.0.1", "::ffff:10.96.0.1"), want: want("10.96.0.1")},
		{name: "garbage", none: true, in: set(families(v4), "10.96.0.300", "10.96.0.300"),
			problems: []string{`spec.clusterIPs[0]: "10.96.0.300" is not an IP address`}},
		{name: "garbage without families", none: true, in: set(families(), "web"),
			problems: []string{`spec.clusterIP: "web" is not an IP address`}},
		{name: "with a zone", none: true, in: set(families(v6), "fe80::1%eth0", "fe80::1%eth0"),
			problems: []string{`spec.clusterIPs[0]: "fe80::1%eth0" is not an IP address`}},
		{name: "one of two is garbage", in: set(families(v4, v6), "10.96.0.1", "10.96.0.1", "fd00::x"), want: want("10.96.0.1"),
			problems: []string{`spec.clusterIPs[1]: "fd00::x" is not an IP address`}},
		{name: "wrong family", none: true, in: set(families(v6), "10.96.0.1", "10.96.0.1"),
			problems: []string{`spec.clusterIPs[0]: 10.96.0.1 is not of the family "IPv6" of spec.ipFamilies[0]`}},
		{name: "family without address", in: set(families(v4, v6), "10.96.0.1", "10.96.0.1"), want: want("10.96.0.1"),
			problems: []string{`spec.ipFamilies[1]: "IPv6" has no address in spec.clusterIPs`}},
		{name: "address without family", in: set(families(v4), "10.96.0.1", "10.96.0.1", "fd00::1"), want: want("10.96.0.1"),
			problems: []string{`spec.clusterIPs[1]: fd00::1 has no family in spec.ipFamilies`}},
		{name: "twice the same family", in: set(families(v4, v4), "10.96.0.1", "10.96.0.1", "10.96.0.2"), want: want("10.96.0.1"),
			problems: []string{`spec.clusterIPs[1]: 10.96.0.2 is the second IPv4 address`}},
		{name: "clusterIP and clusterIPs differ", in: set(families(v4), "10.96.0.9", "10.96.0.1"), want: want("10.96.0.1"),
			problems: []string{`spec.clusterIP: "10.96.0.9" differs from spec.clusterIPs[0], which is used`}},
	})
}

func TestServiceTypesPoliciesAndAffinity(t *testing.T) {
	local := corev1.ServiceExternalTrafficPolicyLocal
	runServices(t, []serviceCase{
		{name: "NodePort",
			in: func(s *corev1.Service) {
				s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
			},
			want: func(s *model.Service) { s.Type, s.Ports[0].NodePort = model.NodePort, 30080 }},
		{name: "policies Local", in: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, local
			s.Spec.InternalTrafficPolicy = of(corev1.ServiceInternalTrafficPolicyLocal)
		}, want: func(s *model.Service) { s.Type, s.ExternalLocal, s.InternalLocal = model.NodePort, true, true }},
		{name: "no internal policy is Cluster", in: func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = nil }},
		{name: "external policy without anything external",
			in: func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = local }},
		{name: "external policy with external addresses",
			in: func(s *corev1.Service) {
				s.Spec.ExternalTrafficPolicy, s.Spec.ExternalIPs = local, []string{"192.0.2.1"}
			},
			want: func(s *model.Service) { s.ExternalLocal, s.ExternalIPs = true, addrs("192.0.2.1") }},
		{name: "health check port of a LoadBalancer with policy Local", in: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, local, 31000
		}, want: func(s *model.Service) {
			s.Type, s.ExternalLocal, s.HealthCheckNodePort = model.LoadBalancer, true, 31000
		}},
		{name: "no health check with policy Cluster", in: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
		}, want: func(s *model.Service) { s.Type = model.LoadBalancer }},
		{name: "no health check of a NodePort", in: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeNodePort, local, 31000
		}, want: func(s *model.Service) { s.Type, s.ExternalLocal = model.NodePort, true }},
		{name: "affinity with its default", in: func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		}, want: func(s *model.Service) { s.AffinityTimeout = 3 * time.Hour }},
		{name: "affinity with a timeout",
			in:   func(s *corev1.Service) { clientIP(s, 60) },
			want: func(s *model.Service) { s.AffinityTimeout = time.Minute }},
		{name: "affinity with a timeout beyond a day",
			in:       func(s *corev1.Service) { clientIP(s, 86401) },
			want:     func(s *model.Service) { s.AffinityTimeout = 3 * time.Hour },
			problems: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not between 1 and 86400; 10800 is used"}},
		{name: "affinity with a negative timeout",
			in:       func(s *corev1.Service) { clientIP(s, -1) },
			want:     func(s *model.Service) { s.AffinityTimeout = 3 * time.Hour },
			problems: []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: -1 is not between 1 and 86400; 10800 is used"}},
		{name: "unknown words", in: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.SessionAffinity, s.Spec.ExternalTrafficPolicy = "Cluster", "Client", "local"
			s.Spec.InternalTrafficPolicy = of(corev1.ServiceInternalTrafficPolicy("node"))
		}, problems: []string{
			`spec.type: "Cluster": must be ClusterIP, NodePort, LoadBalancer or ExternalName; taken for ClusterIP`,
			`spec.sessionAffinity: "Client": must be None or ClientIP; taken for None`,
			`spec.internalTrafficPolicy: "node": must be Cluster or Local; taken for Cluster`,
			`spec.externalTrafficPolicy: "local": must be Cluster or Local; taken for Cluster`,
		}},
	})
}

func clientIP(s *corev1.Service, seconds int32) {
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
}

func TestExternalAndLoadBalancerAddresses(t *testing.T) {
	ingress := func(list ...corev1.LoadBalancerIngress) []corev1.LoadBalancerIngress { return list }
	balanced := func(ranges []string, ips ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = ranges
			for _, ip := range ips {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
			}
		}
	}
	want := func(ranges []netip.Prefix, ips ...string) func(*model.Service) {
		return func(s *model.Service) { s.SourceRanges, s.LoadBalancerIPs = ranges, addrs(ips...) }
	}
	runServices(t, []serviceCase{
		{name: "external addresses, one blank, one twice",
			in:   func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"192.0.2.1", "", " ", "fd00::9", "192.0.2.1"} },
			want: func(s *model.Service) { s.ExternalIPs = addrs("192.0.2.1", "fd00::9") }},
		{name: "external address that is none",
			in:       func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"example.com", "192.0.2.1"} },
			want:     func(s *model.Service) { s.ExternalIPs = addrs("192.0.2.1") },
			problems: []string{`spec.externalIPs[0]: "example.com" is not an IP address`}},
		{name: "ingress by mode", in: func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = ingress(
				corev1.LoadBalancerIngress{IP: "192.0.2.1"},
				corev1.LoadBalancerIngress{IP: "192.0.2.2", IPMode: of(corev1.LoadBalancerIPModeVIP)},
				corev1.LoadBalancerIngress{IP: "192.0.2.3", IPMode: of(corev1.LoadBalancerIPModeProxy)},
				corev1.LoadBalancerIngress{Hostname: "lb.example.com"},
				corev1.LoadBalancerIngress{IP: "192.0.2.4", IPMode: of(corev1.LoadBalancerIPMode("Other"))},
				corev1.LoadBalancerIngress{IP: "192.0.2"},
			)
		}, want: want(nil, "192.0.2.1", "192.0.2.2"), problems: []string{
			`status.loadBalancer.ingress[4].ipMode: "Other": must be VIP or Proxy`,
			`status.loadBalancer.ingress[5].ip: "192.0.2" is not an IP address`,
		}},
		{name: "source ranges: spaces, host bits, leading zeros, blank, twice",
			in:   balanced([]string{" 10.0.0.0/8 ", "192.0.2.77/24", "010.000.000.000/8", "", "fd00::/8"}, "192.0.2.1"),
			want: want(prefixes("10.0.0.0/8", "192.0.2.0/24", "fd00::/8"), "192.0.2.1")},
		{name: "IPv4-mapped source range is IPv4", in: balanced([]string{"::ffff:10.0.0.0/104"}, "192.0.2.1"),
			want: want(prefixes("10.0.0.0/8"), "192.0.2.1")},
		{name: "ranges of one family leave the other open, as with kube-proxy",
			in:   balanced([]string{"fd00::/8"}, "192.0.2.1", "fd00::1"),
			want: want(prefixes("fd00::/8"), "192.0.2.1", "fd00::1")},
		{name: "an unreadable range closes what no other protects",
			in:   balanced([]string{"10.0.0.0/33"}, "192.0.2.1", "fd00::1"),
			want: want(nil), problems: []string{
				`spec.loadBalancerSourceRanges[0]: "10.0.0.0/33" is not an address range in CIDR notation`,
				`status.loadBalancer.ingress: 192.0.2.1 withheld, as no readable source range of its family protects it`,
				`status.loadBalancer.ingress: fd00::1 withheld, as no readable source range of its family protects it`,
			}},
		{name: "an unreadable range beside a readable one",
			in:   balanced([]string{"10.0.0.0", "10.0.0.0/8"}, "192.0.2.1", "fd00::1"),
			want: want(prefixes("10.0.0.0/8"), "192.0.2.1"), problems: []string{
				`spec.loadBalancerSourceRanges[0]: "10.0.0.0" is not an address range in CIDR notation`,
				`status.loadBalancer.ingress: fd00::1 withheld, as no readable source range of its family protects it`,
			}},
	})
}

func TestServicePorts(t *testing.T) {
	ports := func(list ...corev1.ServicePort) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Ports = list }
	}
	want := func(list ...model.ServicePort) func(*model.Service) {
		return func(s *model.Service) { s.Ports = list }
	}
	runServices(t, []serviceCase{
		{name: "none", in: ports(), want: want()},
		{name: "one number in three protocols",
			in: ports(corev1.ServicePort{Name: "a", Port: 53, Protocol: "UDP"}, corev1.ServicePort{Name: "b", Port: 53},
				corev1.ServicePort{Name: "c", Port: 53, Protocol: "SCTP"}),
			want: want(model.ServicePort{Name: "a", Protocol: model.UDP, Port: 53},
				model.ServicePort{Name: "b", Protocol: model.TCP, Port: 53}, model.ServicePort{Name: "c", Protocol: model.SCTP, Port: 53})},
		{name: "one name in two protocols",
			in:   ports(corev1.ServicePort{Name: "dns", Port: 53, Protocol: "UDP"}, corev1.ServicePort{Name: "dns", Port: 53}),
			want: want(model.ServicePort{Name: "dns", Protocol: model.UDP, Port: 53}, model.ServicePort{Name: "dns", Protocol: model.TCP, Port: 53})},
		{name: "what is bad goes, the rest stays",
			in: ports(
				corev1.ServicePort{Name: "a", Port: 0},
				corev1.ServicePort{Name: "b", Port: 65536},
				corev1.ServicePort{Name: "c", Port: 80, Protocol: "tcp"},
				corev1.ServicePort{Name: "Under_score", Port: 81},
				corev1.ServicePort{Name: "ok", Port: 82, NodePort: 30000},
				corev1.ServicePort{Name: "ok", Port: 83},
				corev1.ServicePort{Name: "d", Port: 82},
				corev1.ServicePort{Name: "e", Port: 84, NodePort: -1},
				corev1.ServicePort{Name: "f", Port: 85, NodePort: 30000},
			),
			want: want(model.ServicePort{Name: "ok", Protocol: model.TCP, Port: 82, NodePort: 30000},
				model.ServicePort{Name: "e", Protocol: model.TCP, Port: 84},
				model.ServicePort{Name: "f", Protocol: model.TCP, Port: 85}),
			problems: []string{
				`spec.ports[0].port: 0 is not between 1 and 65535`,
				`spec.ports[1].port: 65536 is not between 1 and 65535`,
				`spec.ports[2].protocol: "tcp": must be TCP, UDP or SCTP`,
				`spec.ports[3].name: "Under_score" is not a DNS label of up to 63 characters`,
				`spec.ports[5]: name "ok" or number 83 is taken by an earlier TCP port`,
				`spec.ports[6]: name "d" or number 82 is taken by an earlier TCP port`,
				`spec.ports[7].nodePort: -1 is not between 0 and 65535`,
				`spec.ports[8].nodePort: 30000 is taken by an earlier TCP port`,
			}},
	})
}

func TestNamesThatNoAPIServerWouldTake(t *testing.T) {
	long := strings.Repeat("a", 64)
	runServices(t, []serviceCase{
		{name: "long name", none: true, in: func(s *corev1.Service) { s.Name = long },
			problems: []string{`metadata.name: "` + long + `" is not a DNS label of up to 63 characters`}},
		{name: "long namespace name", none: true, in: func(s *corev1.Service) { s.Namespace = long },
			problems: []string{`metadata.namespace: "` + long + `" is not a DNS label of up to 63 characters`}},
		{name: "no name", none: true, in: func(s *corev1.Service) { s.Name = "" },
			problems: []string{`metadata.name: "" is not a DNS label of up to 63 characters`}},
		{name: "name with escapes", none: true, in: func(s *corev1.Service) { s.Name = "a\x1b[2J/../b" },
			problems: []string{`metadata.name: "a\x1b[2J/../b" is not a DNS label of up to 63 characters`}},
		{name: "huge name is cut", none: true, in: func(s *corev1.Service) { s.Name = strings.Repeat("x", 1<<20) },
			problems: []string{`metadata.name: "` + strings.Repeat("x", 80) + `" and 1048496 bytes more is not a DNS label of up to 63 characters`}},
		{name: "long uid", in: func(s *corev1.Service) {
			s.UID = "uid-" + "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
		},
			want:     func(s *model.Service) { s.UID = "" },
			problems: []string{"metadata.uid: longer than 128 characters"}},
	})
}

func TestProblemsOfOneObjectAreBounded(t *testing.T) {
	_, problems := Service(apiService(func(s *corev1.Service) { s.Spec.ExternalIPs = slices.Repeat([]string{"x"}, 1000) }))
	if len(problems) != maxProblems+1 || problems[maxProblems].Message != "and 990 more problems" {
		t.Errorf("%d problems, the last: %v", len(problems), problems[len(problems)-1])
	}
}

func apiSlice(edit func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-x.1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: of("http"), Port: of(int32(8080)), Protocol: of(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.1"}}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func modelSlice(edit func(*model.EndpointSlice)) *model.EndpointSlice {
	s := &model.EndpointSlice{
		Name: model.Name{Namespace: "shop", Name: "web-x.1"}, Service: model.Name{Namespace: "shop", Name: "web"},
		Family:    model.IPv4,
		Ports:     []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.1.0.1"), Ready: true, Serving: true}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func TestSlice(t *testing.T) {
	at := time.Date(2026, 5, 1, 2, 3, 4, 5e6, time.UTC)
	label := func(key, value string) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Labels[key] = value }
	}
	endpoints := func(list ...discoveryv1.Endpoint) func(*discoveryv1.EndpointSlice) {
		return func(s *discoveryv1.EndpointSlice) { s.Endpoints = list }
	}
	want := func(list ...model.Endpoint) func(*model.EndpointSlice) {
		return func(s *model.EndpointSlice) { s.Endpoints = list }
	}
	ready := func(addr string) model.Endpoint {
		return model.Endpoint{Addr: netip.MustParseAddr(addr), Ready: true, Serving: true}
	}
	tests := []struct {
		name     string
		in       func(*discoveryv1.EndpointSlice)
		want     func(*model.EndpointSlice)
		none     bool
		problems []string
	}{
		{name: "plain"},
		{name: "of no Service", none: true, in: func(s *discoveryv1.EndpointSlice) { s.Labels = nil }},
		{name: "of a Service without name", none: true, in: label(discoveryv1.LabelServiceName, "")},
		{name: "of a headless Service", none: true, in: label(corev1.IsHeadlessService, "")},
		{name: "with the name of another proxy", in: label(LabelProxyName, "x")},
		{name: "FQDN", none: true, in: func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }},
		{name: "of a Service with an impossible name", none: true, in: label(discoveryv1.LabelServiceName, "a/b"),
			problems: []string{`metadata.labels[kubernetes.io/service-name]: "a/b" is not a Service's name`}},
		{name: "no address type", none: true, in: func(s *discoveryv1.EndpointSlice) { s.AddressType = "" },
			problems: []string{`addressType: "": must be IPv4, IPv6 or FQDN`}},
		{name: "impossible name", none: true, in: func(s *discoveryv1.EndpointSlice) { s.Name = "-" },
			problems: []string{`metadata.name: "-" is not a DNS subdomain of up to 253 characters`}},
		{name: "IPv6", in: func(s *discoveryv1.EndpointSlice) {
			s.AddressType, s.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"fd00::1"}
		}, want: func(s *model.EndpointSlice) {
			s.Family, s.Endpoints[0].Addr = model.IPv6, netip.MustParseAddr("fd00::1")
		}},
		{name: "only the first address counts",
			in: endpoints(discoveryv1.Endpoint{Addresses: []string{"10.1.0.1", "10.1.0.2", "junk"}}), want: want(ready("10.1.0.1"))},
		{name: "conditions", in: endpoints(
			discoveryv1.Endpoint{Addresses: []string{"10.1.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: of(false)}},
			discoveryv1.Endpoint{Addresses: []string{"10.1.0.2"}, Conditions: discoveryv1.EndpointConditions{Serving: of(false)}},
			discoveryv1.Endpoint{Addresses: []string{"10.1.0.3"}, Conditions: discoveryv1.EndpointConditions{
				Ready: of(false), Serving: of(true), Terminating: of(true)}},
		), want: want(
			model.Endpoint{Addr: netip.MustParseAddr("10.1.0.1"), Serving: true},
			model.Endpoint{Addr: netip.MustParseAddr("10.1.0.2"), Ready: true},
			model.Endpoint{Addr: netip.MustParseAddr("10.1.0.3"), Serving: true, Terminating: true},
		)},
		{name: "node, hints and pod", in: endpoints(discoveryv1.Endpoint{
			Addresses: []string{"10.1.0.1"}, NodeName: of("n1.example"), Zone: of("ignored"),
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "web-0"},
			Hints: &discoveryv1.EndpointHints{
				ForZones: []discoveryv1.ForZone{{Name: "eu-1a"}, {Name: "eu_1B"}, {Name: "eu-1a"}},
				ForNodes: []discoveryv1.ForNode{{Name: "n1.example"}},
			},
		}), want: want(model.Endpoint{
			Addr: netip.MustParseAddr("10.1.0.1"), Ready: true, Serving: true, Node: "n1.example", Target: "web-0",
			ForZones: []string{"eu-1a", "eu_1B"}, ForNodes: []string{"n1.example"},
		})},
		{name: "a target that is no pod",
			in:   endpoints(discoveryv1.Endpoint{Addresses: []string{"10.1.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "VM", Name: "v"}}),
			want: want(ready("10.1.0.1"))},
		{name: "the same address twice is kept",
			in: endpoints(discoveryv1.Endpoint{Addresses: []string{"10.1.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "a"}},
				discoveryv1.Endpoint{Addresses: []string{"10.1.0.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "b"}}),
			want: want(model.Endpoint{Addr: netip.MustParseAddr("10.1.0.1"), Ready: true, Serving: true, Target: "a"},
				model.Endpoint{Addr: netip.MustParseAddr("10.1.0.1"), Ready: true, Serving: true, Target: "b"})},
		{name: "bad endpoints go, good ones stay", in: endpoints(
			discoveryv1.Endpoint{},
			discoveryv1.Endpoint{Addresses: []string{"10.1.0.x"}},
			discoveryv1.Endpoint{Addresses: []string{"fd00::1"}},
			discoveryv1.Endpoint{Addresses: []string{"10.1.0.1"}, NodeName: of("N 1"),
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "\n"},
				Hints: &discoveryv1.EndpointHints{
					ForZones: []discoveryv1.ForZone{{Name: "-"}}, ForNodes: []discoveryv1.ForNode{{Name: ""}}}},
		), want: want(ready("10.1.0.1")), problems: []string{
			`endpoints[0].addresses: empty`,
			`endpoints[1].addresses[0]: "10.1.0.x" is not an IP address`,
			`endpoints[2].addresses[0]: fd00::1 is not of addressType IPv4`,
			`endpoints[3].nodeName: "N 1" is not a node's name`,
			`endpoints[3].targetRef.name: "\n" is not a pod's name`,
			`endpoints[3].hints.forZones[0].name: "-" is not a zone's name`,
			`endpoints[3].hints.forNodes[0].name: "" is not a node's name`,
		}},
		{name: "ports", in: func(s *discoveryv1.EndpointSlice) {
			s.Ports = []discoveryv1.EndpointPort{
				{Name: of("all"), Protocol: of(corev1.ProtocolTCP)},
				{Name: of("zero"), Port: of(int32(0))},
				{Port: of(int32(1))},
				{Name: of(""), Port: of(int32(65535))},
				{Name: of("dns"), Port: of(int32(53)), Protocol: of(corev1.ProtocolUDP)},
				{Name: of("dns"), Port: of(int32(54)), Protocol: of(corev1.ProtocolUDP)},
				{Name: of("big"), Port: of(int32(65536))},
				{Name: of("x"), Port: of(int32(1)), Protocol: of(corev1.Protocol("ICMP"))},
				{Name: of("x y"), Port: of(int32(1))},
			}
		}, want: func(s *model.EndpointSlice) {
			s.Ports = []model.EndpointPort{{Protocol: model.TCP, Port: 65535}, {Name: "dns", Protocol: model.UDP, Port: 53}}
		}, problems: []string{
			`ports[5].name: "dns" is taken by an earlier UDP port`,
			`ports[6].port: 65536 is not between 1 and 65535`,
			`ports[7].protocol: "ICMP": must be TCP, UDP or SCTP`,
			`ports[8].name: "x y" is not a DNS label of up to 63 characters`,
		}},
		{name: "trigger", in: func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-05-01T02:03:04.005Z"}
		}, want: func(s *model.EndpointSlice) { s.Trigger = at }},
		{name: "unreadable trigger", in: func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "now"}
		}, problems: []string{`metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]: "now" is not a time of RFC 3339`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := modelSlice(tt.want)
			if tt.none {
				want = nil
			}
			got, problems := Slice(apiSlice(tt.in))
			if diff := cmp.Diff(want, got, options); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNode(t *testing.T) {
	in := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "eu-1a"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64", "x"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n1"},
			{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeInternalIP, Address: "fd00::2"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeExternalIP, Address: "bad"},
		}},
	}
	want := &model.Node{
		Name: "n1", Zone: "eu-1a", Addresses: addrs("192.0.2.1", "fd00::2", "198.51.100.1"),
		PodCIDRs: prefixes("10.244.1.0/24", "fd00:1::/64"),
	}
	got, problems := Node(in)
	if diff := cmp.Diff(want, got, options); diff != "" {
		t.Error(diff)
	}
	wantProblems := []string{
		`status.addresses[5].address: "bad" is not an IP address`,
		`spec.podCIDRs: "x" is not an address range in CIDR notation`,
	}
	if diff := cmp.Diff(wantProblems, messages(problems)); diff != "" {
		t.Error(diff)
	}

	in.Spec.PodCIDRs = nil
	if got, _ := Node(in); !slices.Equal(got.PodCIDRs, prefixes("10.244.1.0/24")) {
		t.Errorf("without podCIDRs: %v", got.PodCIDRs)
	}
	if got, problems := Node(&corev1.Node{}); got != nil || len(problems) != 1 {
		t.Errorf("without a name: %v, %v", got, problems)
	}
	in.Labels[corev1.LabelTopologyZone] = "a b"
	if got, problems := Node(in); got.Zone != "" || len(problems) == 0 {
		t.Errorf("bad zone: %q, %v", got.Zone, problems)
	}
}

func TestNodeDrains(t *testing.T) {
	tests := []struct {
		name string
		in   corev1.Node
		want bool
	}{
		{"in service", corev1.Node{}, false},
		{"being deleted", corev1.Node{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: of(metav1.Now())}}, true},
		{"chosen by the autoscaler", corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: taintToBeDeleted}}}}, true},
		{"cordoned", corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true,
			Taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable}}}}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Name = "n1"
			if got, _ := Node(&tt.in); got.Draining != tt.want {
				t.Errorf("draining %v", got.Draining)
			}
		})
	}
}

func TestDNSNames(t *testing.T) {
	tests := []struct {
		in               string
		label, subdomain bool
	}{
		{"a", true, true}, {"a-b9", true, true}, {"0", true, true}, {"a.b", false, true},
		{"", false, false}, {"-a", false, false}, {"a-", false, false}, {"A", false, false}, {"a_b", false, false},
		{".a", false, false}, {"a.", false, false}, {"a..b", false, false}, {"a-.b", false, false}, {"a.-b", false, false},
		{"ä", false, false}, {"a b", false, false}, {"a--b", true, true},
		{strings.Repeat("a", 63), true, true}, {strings.Repeat("a", 64), false, true},
		{strings.Repeat("a", 253), false, true}, {strings.Repeat("a", 254), false, false},
	}
	for _, tt := range tests {
		if isLabel(tt.in) != tt.label || isSubdomain(tt.in) != tt.subdomain {
			t.Errorf("%q: label %v, subdomain %v", tt.in, isLabel(tt.in), isSubdomain(tt.in))
		}
	}
}

func TestServiceCIDR(t *testing.T) {
	for _, tt := range []struct {
		name, object string
		cidrs        []string
		want         []netip.Prefix
		problems     []string
	}{
		{"dual stack", "kubernetes", []string{"10.96.0.0/16", "fd00::/112"}, prefixes("10.96.0.0/16", "fd00::/112"), nil},
		{"bits of the host", "kubernetes", []string{"10.96.3.4/16"}, prefixes("10.96.0.0/16"), nil},
		{"empty", "kubernetes", nil, nil, nil},
		{"what cannot be used is left out", "more.example", []string{"nonsense", "0.0.0.0/0", "::/0", "10.97.0.0/16"}, prefixes("10.97.0.0/16"), []string{
			`spec.cidrs[0]: "nonsense" is not an address range in CIDR notation`,
			"spec.cidrs[1]: 0.0.0.0/0 is every address, and all that are no Service's would be dropped",
			"spec.cidrs[2]: ::/0 is every address, and all that are no Service's would be dropped",
		}},
		{"name", "No Name", []string{"10.97.0.0/16"}, nil, []string{`metadata.name: "No Name" is not a DNS subdomain of up to 253 characters`}},
	} {
		got, problems := ServiceCIDR(&networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: tt.object}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: tt.cidrs}})
		if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", tt.name, diff)
		}
		if got == nil {
			got = &model.ServiceCIDR{Name: model.Name{Name: tt.object}}
		}
		if diff := cmp.Diff(&model.ServiceCIDR{Name: model.Name{Name: tt.object}, CIDRs: tt.want}, got, options); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
