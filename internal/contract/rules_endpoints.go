// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"slices"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// endpointRules: the conditions of endpoints.
func endpointRules() []Rule {
	return []Rule{{
		Name:     "an endpoint that is not ready gets nothing while another is",
		Services: web("", "10.244.1.5 here unready", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: far}},
	}, {
		Name:     "a terminating endpoint gets nothing new while another is ready",
		Services: web("", "10.244.1.5 here terminating", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: far}},
	}, {
		Name:     "nothing is ready: terminating endpoints that still serve step in",
		Services: web("", "10.244.1.5 here terminating", "10.244.2.5 there terminating", "10.244.2.6 there dying"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "policy Local steps back to terminating endpoints on its own, whatever is ready elsewhere",
		Services: web(bothLocal, "10.244.1.5 here terminating", "10.244.2.5 there"),
		Asks: []Ask{
			{From: Outside, To: loadBalancer, Want: near},
			{From: Pod, To: clusterIP, Want: near},
			{From: Pod, To: loadBalancer, Want: far},
		},
	}, {
		Name:     "policy Local prefers what is ready here to what terminates here",
		Services: web(externalLocal, "10.244.1.5 here", "10.244.1.6 here terminating"),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: near}},
	}, {
		Name: "conditions that nobody set: ready, serving, not terminating",
		Services: []Service{{Slices: []string{`
endpoints: [{addresses: [10.244.1.5]}, {addresses: [10.244.1.6], conditions: {ready: false}}]`}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name: "publishNotReadyAddresses: the controller says ready, and that is all that counts",
		Services: []Service{{
			YAML: `{spec: {publishNotReadyAddresses: true}}`,
			Slices: []string{`
endpoints:
- {addresses: [10.244.1.5], conditions: {ready: true, serving: false, terminating: true}}
- {addresses: [10.244.1.6], conditions: {ready: false, serving: true}}`},
		}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: near}},
	}}
}

// trapRules: endpoints that are not what they seem.
func trapRules() []Rule {
	return []Rule{{
		Name:     "trap: an endpoint without a node is local nowhere",
		Services: web(bothLocal, "10.244.1.5"),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: "drop"}, {From: Pod, To: loadBalancer, Want: near}},
	}, {
		Name:     "trap: a node that does not know its name has no local endpoints",
		Services: web(bothLocal, "10.244.1.5"),
		Configure: func(c *plan.Config, n *model.Node) {
			c.NodeName, n.Name = "", ""
		},
		Asks: []Ask{{From: Outside, To: loadBalancer, Want: "drop"}},
	}, {
		Name: "trap: one address in two slices, once terminating: it counts as the other says",
		Services: []Service{{Slices: []string{
			`{metadata: {name: web-a}, endpoints: [{addresses: [10.244.1.5], conditions: {ready: true}}, {addresses: [10.244.1.6], conditions: {ready: true}}]}`,
			`{metadata: {name: web-b}, endpoints: [{addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}]}`,
		}}, {
			YAML: `{metadata: {name: other}, spec: {clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11], externalIPs: null, ports: [{name: http, port: 80}]}, status: null}`,
			Slices: []string{
				`{metadata: {name: other-a, labels: {kubernetes.io/service-name: other}}, endpoints: [{addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}]}`,
				`{metadata: {name: other-b, labels: {kubernetes.io/service-name: other}}, endpoints: [{addresses: [10.244.1.5], conditions: {ready: true}}, {addresses: [10.244.1.6], conditions: {ready: true}}]}`,
			},
		}},
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: "10.244.1.5:8080, 10.244.1.6:8080"},
			{From: Pod, To: "10.96.0.11:80", Want: "10.244.1.5:8080, 10.244.1.6:8080"},
		},
	}, {
		Name: "trap: one address twice in a slice, for the old pod and the new one",
		Services: []Service{{Slices: []string{`
endpoints:
- {addresses: [10.244.1.5], targetRef: {kind: Pod, name: old}, conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.244.1.5], targetRef: {kind: Pod, name: new}, conditions: {ready: true}}`}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: near}},
	}}
}

// topologyRules: hints.
func topologyRules() []Rule {
	noZone := func(_ *plan.Config, n *model.Node) { n.Zone = "" }
	return []Rule{{
		Name:     "zone hints: only the endpoints for this zone",
		Services: web("", "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name:     "zone hints: an endpoint may serve several zones",
		Services: web("", "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2 zone=z1"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "zone hints, all or nothing: one ready endpoint without hints switches them off",
		Services: web("", "10.244.1.5 here zone=z1", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "zone hints: an endpoint that is not ready needs none",
		Services: web("", "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2", "10.244.2.6 there unready", "10.244.2.7 there terminating"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name:     "zone hints: none for this zone, so all endpoints",
		Services: web("", "10.244.1.5 here zone=z2", "10.244.2.5 there zone=z3"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:      "zone hints: a node without a zone takes all endpoints",
		Services:  web("", "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2"),
		Configure: noZone,
		Asks:      []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "zone hints: an endpoint for this zone that is not ready is no reason to use them",
		Services: web("", "10.244.1.5 here zone=z1 unready", "10.244.2.5 there zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: far}},
	}}
}

// nodeHintRules: hints for nodes, and what no hints bind.
func nodeHintRules() []Rule {
	return []Rule{{
		Name:     "node hints: only the endpoints for this node",
		Services: web("", "10.244.1.5 here node=here zone=z1", "10.244.2.5 there node=there zone=z1"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name:     "node hints: none for this node, so the zone decides",
		Services: web("", "10.244.1.5 here node=there zone=z1", "10.244.2.5 there node=there zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name:     "node hints, all or nothing: one ready endpoint without them, so the zone decides",
		Services: web("", "10.244.1.5 here node=here zone=z1", "10.244.2.5 there zone=z1", "10.244.2.6 there zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "node hints for nobody here and no zones: all endpoints",
		Services: web("", "10.244.1.5 here node=there", "10.244.2.5 there node=there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "hints do not bind policy Local",
		Services: web(bothLocal, "10.244.1.5 here zone=z2", "10.244.2.5 there zone=z1"),
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: near},
			{From: Outside, To: loadBalancer, Want: near},
			{From: Pod, To: loadBalancer, Want: far},
		},
	}, {
		Name:     "hints do not bind terminating endpoints that step in",
		Services: web("", "10.244.1.5 here terminating zone=z1", "10.244.2.5 there terminating zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "hints bind external frontends with policy Cluster as well",
		Services: web("", "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2"),
		Asks:     external(Outside, nearSNAT),
	}, {
		Name: "an endpoint's own zone is no hint",
		Services: []Service{{Slices: []string{
			`endpoints: [{addresses: [10.244.1.5], zone: z1}, {addresses: [10.244.2.5], zone: z2}]`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: all}},
	}}
}

// sliceRules: what of an EndpointSlice counts.
func sliceRules() []Rule {
	return []Rule{{
		Name:     "a Service without a selector: its slices are written by hand",
		Services: []Service{{Slices: []string{`endpoints: [{addresses: [10.244.1.5]}]`}}},
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name: "several slices: their endpoints together",
		Services: []Service{{Slices: []string{
			`{metadata: {name: web-a}, endpoints: [{addresses: [10.244.1.5]}]}`,
			`{metadata: {name: web-b}, endpoints: [{addresses: [10.244.2.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name: "a named target port may be another number in each slice",
		Services: []Service{{Slices: []string{
			`{metadata: {name: web-a}, endpoints: [{addresses: [10.244.1.5]}]}`,
			`{metadata: {name: web-b}, ports: [{name: http, protocol: TCP, port: 9090}], endpoints: [{addresses: [10.244.2.5]}, {addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "10.244.1.5:8080, 10.244.1.5:9090, 10.244.2.5:9090"}},
	}, {
		Name: "the number comes from the slice, not from targetPort",
		Services: []Service{{
			YAML:   `{spec: {ports: [{name: http, port: 80, targetPort: 1234}]}}`,
			Slices: []string{`endpoints: [{addresses: [10.244.1.5]}]`},
		}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: near}},
	}, {
		Name: "trap: only the first address of an endpoint counts",
		Services: []Service{{Slices: []string{
			`endpoints: [{addresses: [10.244.1.5, 10.244.1.6]}]`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: near}},
	}}
}

// ignoredSliceRules: what of an EndpointSlice does not count.
func ignoredSliceRules() []Rule {
	return []Rule{{
		Name: "trap: a port without a name does not count",
		Services: []Service{{Slices: []string{
			`{ports: [{protocol: TCP, port: 8080}], endpoints: [{addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}, {
		Name: "trap: a port without a number, or with 0, does not count",
		Services: []Service{{Slices: []string{
			`{metadata: {name: web-a}, ports: [{name: http, protocol: TCP}], endpoints: [{addresses: [10.244.1.5]}]}`,
			`{metadata: {name: web-b}, ports: [{name: http, protocol: TCP, port: 0}], endpoints: [{addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}, {
		Name: "a port of another name or protocol does not count",
		Services: []Service{{Slices: []string{
			`{ports: [{name: https, protocol: TCP, port: 8443}, {name: http, protocol: UDP, port: 8080}], endpoints: [{addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}, {
		Name: "trap: a slice without the Service's name does not count",
		Services: []Service{{Slices: []string{
			`{metadata: {labels: null}, endpoints: [{addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}, {
		Name: "trap: a slice of host names does not count",
		Services: []Service{{Slices: []string{
			`{addressType: FQDN, endpoints: [{addresses: [web.example]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}, {
		Name: "a slice of a headless Service does not count",
		Services: []Service{{Slices: []string{
			`{metadata: {labels: {service.kubernetes.io/headless: ""}}, endpoints: [{addresses: [10.244.1.5]}]}`,
		}}},
		Asks: []Ask{{From: Pod, To: clusterIP, Want: "reject"}},
	}}
}

// familyRules: IPv6 and dual stack.
func familyRules() []Rule {
	dual := []string{"10.244.1.5 here", "fd00:10:244:2::5 there"}
	dualAsks := []Ask{
		{From: Pod, To: clusterIP, Want: near},
		{From: Pod6, To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:2::5]:8080"},
		{From: Outside6, To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:2::5]:8080 snat"},
		{From: Outside6, To: "[fd00:172:18::2]:30080", Want: "[fd00:10:244:2::5]:8080 snat"},
		{From: Outside, To: nodePort, Want: nearSNAT},
	}
	return []Rule{{
		Name:     "dual stack, IPv4 first",
		Services: web(`{spec: {clusterIPs: [10.96.0.10, "fd00:10:96::10"], ipFamilies: [IPv4, IPv6]}}`, dual...),
		Asks:     dualAsks,
	}, {
		Name:     "dual stack, IPv6 first",
		Services: web(`{spec: {clusterIP: "fd00:10:96::10", clusterIPs: ["fd00:10:96::10", 10.96.0.10], ipFamilies: [IPv6, IPv4]}}`, dual...),
		Asks:     dualAsks,
	}, {
		Name:     "dual stack with endpoints in one family: the other one refuses",
		Services: web(`{spec: {clusterIPs: [10.96.0.10, "fd00:10:96::10"], ipFamilies: [IPv4, IPv6]}}`, "10.244.1.5 here"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: near}, {From: Pod6, To: "[fd00:10:96::10]:80", Want: "reject"}},
	}, {
		Name: "single stack: no frontend of the other family, not even a NodePort",
		Services: web(`{spec: {externalIPs: ["2001:db8::80"]}, status: {loadBalancer: {ingress: [{ip: "2001:db8::10"}]}}}`,
			"10.244.1.5 here", "fd00:10:244:2::5 there"),
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: near},
			{From: Pod6, To: "[2001:db8::80]:80", Want: "pass"},
			{From: Pod6, To: "[2001:db8::10]:80", Want: "pass"},
			{From: Pod6, To: "[fd00:172:18::2]:30080", Want: "pass"},
		},
	}, {
		Name: "single stack IPv6: hairpin, policies and source ranges as for IPv4",
		Services: web(`
spec:
  clusterIP: fd00:10:96::10
  clusterIPs: ["fd00:10:96::10"]
  ipFamilies: [IPv6]
  externalIPs: null
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: ["2001:db8:ffff::/48"]
status: {loadBalancer: {ingress: [{ip: "2001:db8::10"}]}}`, "fd00:10:244:1::5 here", "fd00:10:244:2::5 there"),
		Asks: []Ask{
			{From: "fd00:10:244:1::5", To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:1::5]:8080 snat, [fd00:10:244:2::5]:8080"},
			{From: Outside6, To: "[2001:db8::10]:80", Want: "[fd00:10:244:1::5]:8080"},
			{From: Pod6, To: "[2001:db8::10]:80", Want: "drop"},
			{From: Host6, To: "[fd00:172:18::2]:30080", Want: "[fd00:10:244:1::5]:8080 snat, [fd00:10:244:2::5]:8080 snat"},
		},
	}, {
		Name:     "an object from before dual stack: clusterIP alone counts",
		Services: web(`{spec: {clusterIPs: null, ipFamilies: null}}`, both...),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "an IPv4 address in IPv6 clothes is the IPv4 address",
		Services: web("", both...),
		Asks:     []Ask{{From: "::ffff:10.244.1.9", To: "[::ffff:10.96.0.10]:80", Want: all}},
	}}
}

// serviceRules: types, ports and labels.
func serviceRules() []Rule {
	return []Rule{{
		Name:     "ExternalName: not proxied, even with a ClusterIP left over",
		Services: web(`{spec: {type: ExternalName, externalName: example.org}}`, both...),
		Asks:     []Ask{{From: Pod, To: externalIP, Want: "pass"}},
	}, {
		Name:     "headless: not proxied",
		Services: web(`{spec: {clusterIP: None, clusterIPs: [None]}}`, both...),
		Asks:     []Ask{{From: Pod, To: externalIP, Want: "pass"}},
	}, {
		Name:     "another proxy's: the label alone says so",
		Services: web(`{metadata: {labels: {service.kubernetes.io/service-proxy-name: ""}}}`, both...),
		Asks:     []Ask{{From: Pod, To: externalIP, Want: "pass"}},
	}, {
		Name: "one number for TCP and UDP: two ports",
		Services: []Service{{
			YAML: `{spec: {ports: [{name: dns-tcp, protocol: TCP, port: 53}, {name: dns, protocol: UDP, port: 53}]}}`,
			Slices: []string{
				`{ports: [{name: dns-tcp, protocol: TCP, port: 1053}, {name: dns, protocol: UDP, port: 2053}], endpoints: [{addresses: [10.244.1.5]}]}`,
			},
		}},
		Asks: []Ask{
			{From: Pod, To: "10.96.0.10:53", Want: "10.244.1.5:1053"},
			{From: Pod, To: "10.96.0.10:53/UDP", Want: "10.244.1.5:2053"},
			{From: Pod, To: "10.96.0.10:53/SCTP", Want: "reject"},
		},
	}, {
		Name: "several ports have several endpoints",
		Services: []Service{{
			YAML: `{spec: {ports: [{name: a, port: 81, nodePort: 30081}, {name: b, port: 82}]}}`,
			Slices: []string{
				`{metadata: {name: web-a}, ports: [{name: a, port: 8081}], endpoints: [{addresses: [10.244.1.5]}]}`,
				`{metadata: {name: web-b}, ports: [{name: b, port: 8082}], endpoints: [{addresses: [10.244.2.5]}]}`,
			},
		}},
		Asks: []Ask{
			{From: Pod, To: "10.96.0.10:81", Want: "10.244.1.5:8081"},
			{From: Pod, To: "10.96.0.10:82", Want: "10.244.2.5:8082"},
			{From: Pod, To: "172.18.0.2:30081", Want: "10.244.1.5:8081 snat"},
			{From: Outside, To: "198.51.100.10:82", Want: "10.244.2.5:8082 snat"},
		},
	}, {
		Name:     "a nameless port is one named \"\"",
		Services: web(`{spec: {ports: [{port: 80}]}}`, both...),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "SCTP",
		Services: web(`{spec: {ports: [{name: s, protocol: SCTP, port: 99}]}}`, both...),
		Asks:     []Ask{{From: Pod, To: "10.96.0.10:99/SCTP", Want: "10.244.1.5:8099, 10.244.2.5:8099"}},
	}}
}

// affinityRules: sessionAffinity ClientIP.
func affinityRules() []Rule {
	const sticky = `{spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}}}`
	const stickyLocal = `{spec: {sessionAffinity: ClientIP, externalTrafficPolicy: Local}}`
	return []Rule{{
		Name:     "session affinity: a client without a pin may get any endpoint",
		Services: web(sticky, both...),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "session affinity: a pinned client gets its endpoint, through every frontend",
		Services: web(sticky, both...),
		Asks: slices.Concat(
			[]Ask{{From: Pod, To: clusterIP, Pinned: far, Want: far}},
			func() []Ask {
				asks := external(Outside, farSNAT)
				for i := range asks {
					asks[i].Pinned = far
				}
				return asks
			}(),
		),
	}, {
		Name:     "session affinity: an endpoint that is gone, or may not be used, is no reason to wait",
		Services: web(sticky, "10.244.1.5 here", "10.244.2.5 there terminating"),
		Asks: []Ask{
			{From: Pod, To: clusterIP, Pinned: "10.244.9.9:8080", Want: near},
			{From: Pod, To: clusterIP, Pinned: far, Want: near},
		},
	}, {
		Name:     "session affinity: the traffic policy comes first",
		Services: web(stickyLocal, both...),
		Asks: []Ask{
			{From: Outside, To: loadBalancer, Pinned: far, Want: near},
			{From: Pod, To: loadBalancer, Pinned: far, Want: far},
		},
	}, {
		Name:     "session affinity: topology comes first",
		Services: web(sticky, "10.244.1.5 here zone=z1", "10.244.2.5 there zone=z2"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Pinned: far, Want: near}},
	}, {
		Name:     "no session affinity: a pin from before does not count",
		Services: web("", both...),
		Asks:     []Ask{{From: Pod, To: clusterIP, Pinned: far, Want: all}},
	}, {
		Name:     "session affinity holds for UDP",
		Services: web(`{spec: {sessionAffinity: ClientIP, ports: [{name: d, protocol: UDP, port: 53}]}}`, both...),
		Asks:     []Ask{{From: Pod, To: "10.96.0.10:53/UDP", Pinned: "10.244.2.5:8053", Want: "10.244.2.5:8053"}},
	}}
}

// flowRules: flows that exist already.
func flowRules() []Rule {
	const udp = `{spec: {ports: [{name: dns, protocol: UDP, port: 53}]}}`
	const dns, dnsNear, dnsFar = "10.96.0.10:53/UDP", "10.244.1.5:8053", "10.244.2.5:8053"
	return []Rule{{
		Name:     "trap: an established flow is not judged again by source ranges",
		Services: web(`{spec: {loadBalancerSourceRanges: ["192.0.2.0/24"]}}`, both...),
		Asks: []Ask{
			{From: Outside, To: loadBalancer, Flow: far, Want: far},
			{From: Outside, To: loadBalancer, Want: "drop"},
		},
	}, {
		Name:     "trap: an established flow is not judged again by policy",
		Services: web(bothLocal, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Flow: far, Want: far}},
	}, {
		Name:     "a TCP flow goes on while its endpoint terminates, unready and out of the set",
		Services: web("", "10.244.1.5 here dying", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Flow: near, Want: near}, {From: Pod, To: clusterIP, Want: far}},
	}, {
		Name:     "a TCP flow to an endpoint that left the Service goes on",
		Services: web("", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Flow: near, Want: near}},
	}, {
		Name:     "a TCP flow outlives its Service",
		Services: nil,
		Asks:     []Ask{{From: Pod, To: externalIP, Flow: near, Want: near}},
	}, {
		Name:     "a UDP flow to an endpoint that left the Service gets another",
		Services: web(udp, "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: dns, Flow: dnsNear, Want: dnsFar}},
	}, {
		Name:     "a UDP flow to an endpoint that does not serve gets another",
		Services: web(udp, "10.244.1.5 here dying", "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: dns, Flow: dnsNear, Want: dnsFar}},
	}, {
		Name:     "a UDP flow stays with an endpoint that serves, whatever policy, topology and its end say",
		Services: web(`{spec: {internalTrafficPolicy: Local, ports: [{name: dns, protocol: UDP, port: 53}]}}`, "10.244.1.5 here", "10.244.2.5 there terminating"),
		Asks:     []Ask{{From: Pod, To: dns, Flow: dnsFar, Want: dnsFar}, {From: Pod, To: dns, Want: dnsNear}},
	}, {
		Name:     "a UDP flow without any endpoint left is refused",
		Services: web(udp),
		Asks:     []Ask{{From: Pod, To: dns, Flow: dnsNear, Want: "reject"}},
	}}
}

// scopeRules: who is a pod.
func scopeRules() []Rule {
	const remotePod = "10.244.2.9"
	return []Rule{{
		Name:     "detect-local ClusterCIDR: pods of every node",
		Services: web(externalLocal, both...),
		Asks: []Ask{
			{From: Pod, To: loadBalancer, Want: all},
			{From: remotePod, To: loadBalancer, Want: all},
			{From: remotePod, To: clusterIP, Want: all},
			{From: Outside, To: loadBalancer, Want: near},
		},
	}, {
		Name:      "trap: a node's address within ClusterCIDR is taken for a pod's",
		Services:  web(externalLocal, both...),
		Configure: detect(plan.DetectLocal{Mode: plan.DetectClusterCIDR, ClusterCIDRs: prefixes("172.18.0.0/16")}),
		Asks:      []Ask{{From: Host, To: loadBalancer, Want: all}, {From: Host, To: clusterIP, Want: all}},
	}, {
		Name:      "detect-local ClusterCIDR without one of the family: nobody is a pod, and ClusterIPs get no source NAT",
		Services:  web(externalLocal, both...),
		Configure: detect(plan.DetectLocal{Mode: plan.DetectClusterCIDR, ClusterCIDRs: prefixes("fd00:10:244::/56")}),
		Asks:      []Ask{{From: Pod, To: loadBalancer, Want: near}, {From: Outside, To: clusterIP, Want: all}},
	}, {
		Name:      "detect-local NodeCIDR: pods of this node",
		Services:  web(externalLocal, both...),
		Configure: detect(plan.DetectLocal{Mode: plan.DetectNodeCIDR}),
		Asks: []Ask{
			{From: Pod, To: loadBalancer, Want: all},
			{From: remotePod, To: loadBalancer, Want: near},
			{From: remotePod, To: clusterIP, Want: allSNAT},
		},
	}, {
		Name:     "detect-local NodeCIDR on a node without one: nobody is a pod",
		Services: web(externalLocal, both...),
		Configure: func(c *plan.Config, n *model.Node) {
			c.DetectLocal = plan.DetectLocal{Mode: plan.DetectNodeCIDR}
			n.PodCIDRs = nil
		},
		Asks: []Ask{{From: Pod, To: loadBalancer, Want: near}, {From: Pod, To: clusterIP, Want: all}},
	}}
}

// deviceScopeRules: who is a pod, by the device its packets come in.
func deviceScopeRules() []Rule {
	return []Rule{{
		Name:      "detect-local BridgeInterface: whatever comes in there",
		Services:  web(externalLocal, both...),
		Configure: detect(plan.DetectLocal{Mode: plan.DetectBridgeInterface, BridgeInterface: "cni0"}),
		Asks: []Ask{
			{From: Outside, Device: "cni0", To: loadBalancer, Want: all},
			{From: Pod, Device: "eth0", To: loadBalancer, Want: near},
			{From: Pod, Device: "cni01", To: clusterIP, Want: allSNAT},
			{From: Host, To: clusterIP, Want: allSNAT},
		},
	}, {
		Name:      "detect-local InterfaceNamePrefix: whatever comes in through such devices",
		Services:  web(externalLocal, both...),
		Configure: detect(plan.DetectLocal{Mode: plan.DetectInterfaceNamePrefix, InterfaceNamePrefix: "veth"}),
		Asks: []Ask{
			{From: Outside, Device: "veth42", To: loadBalancer, Want: all},
			{From: Pod, Device: "eth0", To: loadBalancer, Want: near},
			{From: Host, To: loadBalancer, Want: allSNAT},
		},
	}}
}

func detect(d plan.DetectLocal) func(*plan.Config, *model.Node) {
	return func(c *plan.Config, _ *model.Node) { c.DetectLocal = d }
}
