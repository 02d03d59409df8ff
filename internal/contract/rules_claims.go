// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"net/netip"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

const (
	// older and younger are Services besides shop/web, which has no date and is
	// the oldest.
	older = `
metadata: {name: older, uid: 2c5f, creationTimestamp: "2026-01-01T00:00:00Z"}
spec: {type: ClusterIP, clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], externalIPs: [192.0.2.99], ports: [{name: http, port: 80}]}
status: null`
	younger = `
metadata: {name: younger, uid: 3d60, creationTimestamp: "2026-01-02T00:00:00Z"}
spec: {type: ClusterIP, clusterIP: 10.96.0.12, clusterIPs: [10.96.0.12], externalIPs: [192.0.2.99], ports: [{name: http, port: 80}]}
status: null`
)

// claimRules: two Services with one address. What kube-proxy does then depends
// on the order of a map.
func claimRules() []Rule {
	return []Rule{{
		Name: "two Services with one address and port: the older one has it, whatever comes first",
		Services: []Service{
			{YAML: younger, Endpoints: []string{"10.244.2.5 there"}},
			{YAML: older, Endpoints: []string{"10.244.1.5 here"}},
		},
		Asks: []Ask{
			{From: Outside, To: "192.0.2.99:80", Want: nearSNAT},
			{From: Pod, To: "10.96.0.12:80", Want: far},
		},
		Problems: []plan.Reason{plan.FrontendConflict},
	}, {
		Name: "two Services of one age: the name decides",
		Services: []Service{
			{YAML: strings.NewReplacer("younger", "zebra", "01-02", "01-01").Replace(younger), Endpoints: []string{"10.244.1.5 here"}},
			{YAML: older, Endpoints: []string{"10.244.2.5 there"}},
		},
		Asks:     []Ask{{From: Outside, To: "192.0.2.99:80", Want: farSNAT}},
		Problems: []plan.Reason{plan.FrontendConflict},
	}, {
		Name: "two Services with one address and different ports: both",
		Services: []Service{
			{YAML: older, Endpoints: []string{"10.244.1.5 here"}},
			{YAML: `{metadata: {name: other}, spec: {clusterIP: 10.96.0.13, clusterIPs: [10.96.0.13], externalIPs: [192.0.2.99], ports: [{name: alt, port: 81}]}, status: null}`,
				Endpoints: []string{"10.244.2.5 there"}},
		},
		Asks: []Ask{
			{From: Outside, To: "192.0.2.99:80", Want: nearSNAT},
			{From: Outside, To: "192.0.2.99:81", Want: "10.244.2.5:8081 snat"},
		},
	}, {
		Name: "a ClusterIP beats an older Service that claims it from outside",
		Services: []Service{
			{YAML: `{metadata: {name: thief}, spec: {clusterIP: 10.96.0.14, clusterIPs: [10.96.0.14], externalIPs: [10.96.0.11], ports: [{name: http, port: 80}]}, status: null}`,
				Endpoints: []string{"10.244.2.5 there"}},
			{YAML: older, Endpoints: []string{"10.244.1.5 here"}},
		},
		Asks:     []Ask{{From: Pod, To: "10.96.0.11:80", Want: near}},
		Problems: []plan.Reason{plan.FrontendConflict},
	}, {
		Name:     "a node's address may be an external IP",
		Services: web(`{spec: {externalIPs: [172.18.0.2]}}`, both...),
		Asks:     []Ask{{From: Outside, To: "172.18.0.2:80", Want: allSNAT}},
	}, {
		Name: "an external IP comes before a NodePort on the same address",
		Services: []Service{
			{Endpoints: []string{"10.244.1.5 here"}},
			{YAML: `{metadata: {name: other}, spec: {clusterIP: 10.96.0.13, clusterIPs: [10.96.0.13], externalIPs: [172.18.0.2], ports: [{name: http, port: 30080}]}, status: null}`,
				Endpoints: []string{"10.244.2.5 there"}},
		},
		Asks: []Ask{{From: Outside, To: nodePort, Want: "10.244.2.5:38080 snat"}},
	}, {
		Name:     "one address twice within a Service: no conflict",
		Services: web(`{spec: {externalIPs: [198.51.100.10]}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}}
}

// refusedRules: addresses that nobody may have.
func refusedRules() []Rule {
	var refused []Rule
	for _, a := range []string{"127.0.0.1", "169.254.169.254", "169.254.1.1", "224.0.0.5", "0.0.0.0", "255.255.255.255"} {
		refused = append(refused, Rule{
			Name:     "endpoint " + a + ": refused, and the others work",
			Services: web("", a+" here", "10.244.1.5 here"),
			Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
			Problems: []plan.Reason{plan.BackendRefused},
		}, Rule{
			Name:     "external addresses " + a + ": refused, and the others work",
			Services: web(`{spec: {externalIPs: ["`+a+`", 192.0.2.80]}, status: {loadBalancer: {ingress: [{ip: "`+a+`"}]}}}`, both...),
			Asks: []Ask{
				{From: Outside, To: externalIP, Want: allSNAT},
				{From: Outside, To: a + ":80", Want: "pass"},
			},
			Problems: []plan.Reason{plan.AddressRefused, plan.AddressRefused},
		})
	}
	for _, a := range []string{"::1", "fe80::1", "ff02::1", "::", "fd00:ec2::254"} {
		refused = append(refused, Rule{
			Name: "endpoint " + a + ": refused, and the others work",
			Services: []Service{{
				YAML: `{spec: {clusterIP: "fd00:10:96::10", clusterIPs: ["fd00:10:96::10"], ipFamilies: [IPv6]}}`,
				Slices: []string{
					`{addressType: IPv6, endpoints: [{addresses: ["` + a + `"]}, {addresses: ["fd00:10:244:1::5"]}]}`,
				},
			}},
			Asks:     []Ask{{From: Pod6, To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:1::5]:8080"}},
			Problems: []plan.Reason{plan.BackendRefused},
		})
	}
	return append(refused, []Rule{{
		Name:     "only endpoints that are refused: as none",
		Services: web(bothLocal, "127.0.0.1 here"),
		Asks:     everyone("reject", clusterIP, loadBalancer),
		Problems: []plan.Reason{plan.BackendRefused},
	}, {
		Name:     "a ClusterIP that nobody may have: refused, and the other frontends work",
		Services: web(`{spec: {clusterIP: 169.254.169.254, clusterIPs: [169.254.169.254]}}`, both...),
		Asks: []Ask{
			{From: Pod, To: "169.254.169.254:80", Want: "pass"},
			{From: Outside, To: loadBalancer, Want: allSNAT},
		},
		Problems: []plan.Reason{plan.AddressRefused},
	}}...)
}

// strictRules: addresses that the operator keeps.
func strictRules() []Rule {
	strict := func(c *plan.Config, _ *model.Node) {
		c.Strict = plan.Strict{
			Enabled:       true,
			ExternalIPs:   prefixes("192.0.2.0/24", "172.18.0.0/16"),
			LoadBalancers: prefixes("203.0.113.0/24"),
			Protected:     []netip.Addr{addr("192.0.2.1")},
		}
	}
	return []Rule{{
		Name:      "strict: addresses outside of the allowed ranges are refused, each kind by its own",
		Services:  web("", both...),
		Configure: strict,
		Asks: []Ask{
			{From: Outside, To: externalIP, Want: allSNAT},
			{From: Outside, To: loadBalancer, Want: "pass"},
			{From: Outside, To: nodePort, Want: allSNAT},
			{From: Pod, To: clusterIP, Want: all},
		},
		Problems: []plan.Reason{plan.AddressNotAllowed},
	}, {
		Name:      "strict: addresses of nodes and API servers are nobody's, even in an allowed range",
		Services:  web(`{spec: {externalIPs: [172.18.0.2, 192.0.2.1]}, status: null}`, both...),
		Configure: strict,
		Asks:      everyone("pass", "172.18.0.2:80", "192.0.2.1:80"),
		Problems:  []plan.Reason{plan.AddressProtected, plan.AddressProtected},
	}, {
		Name:     "addresses that are left to others are no frontends, on any port (pains A47)",
		Services: web(`{spec: {externalIPs: [192.0.2.1, 192.0.2.2]}, status: null}`, both...),
		Configure: func(c *plan.Config, _ *model.Node) {
			c.Leave = []netip.Prefix{netip.MustParsePrefix("10.96.0.10/32"), netip.MustParsePrefix("192.0.2.1/32")}
		},
		Asks: append(everyone("pass", "10.96.0.10:80", "10.96.0.10:81", "192.0.2.1:80"),
			Ask{From: Pod, To: "192.0.2.2:80", Want: allSNAT}),
	}}
}

// loopRules: endpoints that are frontends.
func loopRules() []Rule {
	return []Rule{{
		Name:     "a Service that is its own endpoint: refused",
		Services: []Service{{Slices: []string{`{ports: [{name: http, port: 80}], endpoints: [{addresses: [10.96.0.10]}, {addresses: [10.244.1.5]}]}`}}},
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: "10.244.1.5:80"}},
		Problems: []plan.Reason{plan.BackendIsFrontend},
	}, {
		Name: "two Services that are each other's endpoints: refused",
		Services: []Service{
			{YAML: `{metadata: {name: a}, spec: {clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], externalIPs: null, ports: [{name: http, port: 80}]}, status: null}`,
				Slices: []string{`{metadata: {labels: {kubernetes.io/service-name: a}}, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.96.0.12]}]}`}},
			{YAML: `{metadata: {name: b}, spec: {clusterIP: 10.96.0.12, clusterIPs: [10.96.0.12], externalIPs: null, ports: [{name: http, port: 80}]}, status: null}`,
				Slices: []string{`{metadata: {labels: {kubernetes.io/service-name: b}}, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.96.0.11]}]}`}},
		},
		Asks:     []Ask{{From: Pod, To: "10.96.0.11:80", Want: "reject"}, {From: Pod, To: "10.96.0.12:80", Want: "reject"}},
		Problems: []plan.Reason{plan.BackendIsFrontend, plan.BackendIsFrontend},
	}, {
		Name: "an endpoint at a Service's address but another port is no loop",
		Services: []Service{{Slices: []string{
			`{ports: [{name: http, port: 8080}], endpoints: [{addresses: [192.0.2.80]}]}`}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "192.0.2.80:8080"}},
	}}
}

// hostileRules: ExternalIPs at the endpoints of others. kube-proxy lets such a
// Service have what is sent there directly; neither there nor here does it touch
// what goes through the victim's Service.
func hostileRules() []Rule {
	thief := func(ip, port string) Service {
		return Service{YAML: `{metadata: {name: thief}, spec: {clusterIP: 10.96.0.66, clusterIPs: [10.96.0.66], externalIPs: [` + ip + `],
			ports: [{name: http, port: ` + port + `}]}, status: null}`, Endpoints: []string{"10.244.2.5 there"}}
	}
	return []Rule{{
		Name:     "an ExternalIP at another Service's endpoint takes nothing away from it, and yields",
		Services: []Service{{Endpoints: []string{"10.244.1.5 here"}}, thief("10.244.1.5", "8080")},
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: near},
			{From: Pod, To: "10.244.1.5:8080", Want: "pass"},
			{From: Pod, To: "10.96.0.66:8080", Want: "10.244.2.5:16080"},
		},
		Problems: []plan.Reason{plan.FrontendIsBackend},
	}, {
		Name:     "an ExternalIP at a pod's address and another port is as with kube-proxy",
		Services: []Service{{Endpoints: []string{"10.244.1.5 here"}}, thief("10.244.1.5", "81")},
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: near},
			{From: Pod, To: "10.244.1.5:81", Want: "10.244.2.5:8081 snat"},
		},
	}, {
		Name:     "an endpoint that nobody can use makes no ExternalIP yield",
		Services: []Service{{Endpoints: []string{"10.244.1.5 here unready", "10.244.1.6 here"}}, thief("10.244.1.5", "8080")},
		Asks:     []Ask{{From: Pod, To: "10.244.1.5:8080", Want: "10.244.2.5:16080 snat"}},
	}}
}

// hostNetworkRules: endpoints at the addresses of nodes.
func hostNetworkRules() []Rule {
	return []Rule{{
		Name: "pods in the host network behind the nodes' own addresses: those are reached directly, the rest is balanced",
		Services: []Service{{
			YAML: `{spec: {externalIPs: [172.18.0.2, 172.18.0.3]}}`,
			Slices: []string{
				`{ports: [{name: http, port: 80}], endpoints: [{addresses: [172.18.0.2], nodeName: here}, {addresses: [172.18.0.3], nodeName: there}]}`,
			},
		}},
		Asks: []Ask{
			{From: Outside, To: "172.18.0.2:80", Want: "pass"},
			{From: Outside, To: "172.18.0.3:80", Want: "pass"},
			{From: Outside, To: loadBalancer, Want: "172.18.0.2:80, 172.18.0.3:80 snat"},
			{From: Pod, To: clusterIP, Want: "172.18.0.2:80, 172.18.0.3:80"},
		},
		Problems: []plan.Reason{plan.FrontendIsBackend, plan.FrontendIsBackend},
	}, {
		Name: "a pod in the host network behind a NodePort of the same number: here it is reached directly",
		Services: []Service{{Slices: []string{
			`{ports: [{name: http, port: 30080}], endpoints: [{addresses: [172.18.0.2], nodeName: here}, {addresses: [172.18.0.3], nodeName: there}]}`,
		}}},
		Asks: []Ask{
			{From: Outside, To: nodePort, Want: "pass"},
			{From: Pod, To: clusterIP, Want: "172.18.0.2:30080, 172.18.0.3:30080"},
		},
		Problems: []plan.Reason{plan.FrontendIsBackend},
	}, {
		Name: "an endpoint that is another Service's NodePort on this node: refused",
		Services: []Service{
			{Endpoints: both},
			{YAML: older, Slices: []string{
				`{metadata: {labels: {kubernetes.io/service-name: older}}, ports: [{name: http, port: 30080}], endpoints: [{addresses: [172.18.0.2]}, {addresses: [172.18.0.3]}]}`}},
		},
		Asks:     []Ask{{From: Pod, To: "10.96.0.11:80", Want: "172.18.0.3:30080"}},
		Problems: []plan.Reason{plan.BackendIsFrontend},
	}, {
		Name: "an endpoint at an address of this node that serves no NodePorts is no loop",
		Services: []Service{
			{Endpoints: both},
			{YAML: older, Slices: []string{
				`{metadata: {labels: {kubernetes.io/service-name: older}}, ports: [{name: http, port: 30080}], endpoints: [{addresses: [192.168.7.2]}]}`}},
		},
		Configure: func(c *plan.Config, n *model.Node) {
			c.NodePortAddresses.Primary = true
			n.Addresses = append(n.Addresses, addr("192.168.7.2"))
		},
		Asks: []Ask{{From: Pod, To: "10.96.0.11:80", Want: "192.168.7.2:30080"}},
	}}
}
