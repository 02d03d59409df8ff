// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"slices"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

const (
	internalLocal = `{spec: {internalTrafficPolicy: Local}}`
	externalLocal = `{spec: {externalTrafficPolicy: Local}}`
	bothLocal     = `{spec: {internalTrafficPolicy: Local, externalTrafficPolicy: Local}}`
)

// clusterIPRules: what reaches a ClusterIP.
func clusterIPRules() []Rule {
	return []Rule{{
		Name:     "ClusterIP, policy Cluster: any endpoint, and a pod is seen as itself",
		Services: web("", both...),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "ClusterIP from no pod (node, outside): source NAT, so that replies come back through here",
		Services: web("", both...),
		Asks:     []Ask{{From: Host, To: clusterIP, Want: allSNAT}, {From: Outside, To: clusterIP, Want: allSNAT}},
	}, {
		Name:      "ClusterIP where pods cannot be told from others: no source NAT",
		Services:  web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.DetectLocal = plan.DetectLocal{} },
		Asks:      everyone(all, clusterIP),
	}, {
		Name:      "ClusterIP with masqueradeAll: source NAT for pods too",
		Services:  web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.MasqueradeAll = true },
		Asks:      everyone(allSNAT, clusterIP),
	}, {
		Name:      "masqueradeAll is about ClusterIPs: a short-circuited pod keeps its address elsewhere",
		Services:  web(externalLocal, both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.MasqueradeAll = true },
		Asks:      external(Pod, all),
	}, {
		Name:     "hairpin: source NAT for the one endpoint that is the client itself",
		Services: web("", both...),
		Asks:     []Ask{{From: "10.244.1.5", To: clusterIP, Want: nearSNAT + ", " + far}},
	}, {
		Name:     "hairpin through an external address that a short-circuited pod uses",
		Services: web(externalLocal, both...),
		Asks:     external("10.244.1.5", nearSNAT+", "+far),
	}, {
		Name:     "hairpin needs a local endpoint: the same address elsewhere is not this client",
		Services: web("", "10.244.1.5 there"),
		Asks:     []Ask{{From: "10.244.1.5", To: clusterIP, Want: near}},
	}, {
		Name:     "ClusterIP, internal policy Local: local endpoints only, for every client",
		Services: web(internalLocal, both...),
		Asks: []Ask{
			{From: Pod, To: clusterIP, Want: near},
			{From: Host, To: clusterIP, Want: nearSNAT},
			{From: Outside, To: clusterIP, Want: nearSNAT},
		},
	}, {
		Name:     "ClusterIP, internal policy Local, endpoints only elsewhere: dropped, not refused",
		Services: web(internalLocal, "10.244.2.5 there"),
		Asks:     everyone("drop", clusterIP),
	}, {
		Name:     "the external policy does not bind a ClusterIP",
		Services: web(externalLocal, "10.244.2.5 there"),
		Asks:     []Ask{{From: Pod, To: clusterIP, Want: far}, {From: Outside, To: clusterIP, Want: farSNAT}},
	}}
}

// unknownPortRules: what no frontend claims.
func unknownPortRules() []Rule {
	return []Rule{{
		Name:     "a port that the ClusterIP does not have is refused",
		Services: web("", both...),
		Asks:     everyone("reject", "10.96.0.10:81", "10.96.0.10:80/UDP"),
	}, {
		Name:      "a port that the ClusterIP does not have is left alone if so configured (mode iptables)",
		Services:  web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.RefuseUnknownPorts = false },
		Asks:      everyone("pass", "10.96.0.10:81", "10.96.7.7:80"),
	}, {
		Name:     "an address of the Service range that nobody has: dropped",
		Services: web("", both...),
		Asks:     everyone("drop", "10.96.7.7:80", "[fd00:10:96::7]:80"),
	}, {
		Name:     "trap: an external address within the Service range is no ClusterIP: its unknown ports are dropped",
		Services: web(`{spec: {externalIPs: [10.96.0.77]}}`, both...),
		Asks:     []Ask{{From: Pod, To: "10.96.0.77:80", Want: allSNAT}, {From: Pod, To: "10.96.0.77:81", Want: "drop"}},
	}, {
		Name:      "Service ranges may change: outside of them an address is nobody's business",
		Services:  web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.ServiceCIDRs = prefixes("10.97.0.0/16") },
		Asks: []Ask{
			{From: Pod, To: "10.96.7.7:80", Want: "pass"},
			{From: Pod, To: "10.97.7.7:80", Want: "drop"},
			{From: Pod, To: clusterIP, Want: all},
		},
	}, {
		Name:     "what is no frontend passes",
		Services: web("", both...),
		Asks:     everyone("pass", "10.244.1.5:8080", "1.1.1.1:443", "172.18.0.2:22"),
	}}
}

// externalRules: LoadBalancer, ExternalIP and NodePort.
func externalRules() []Rule {
	return []Rule{{
		Name:     "external frontends, policy Cluster: any endpoint, always source NAT, even for a local one",
		Services: web("", both...),
		Asks:     slices.Concat(external(Pod, allSNAT), external(Host, allSNAT), external(Outside, allSNAT)),
	}, {
		Name:     "external policy Local from outside: local endpoints, and the client's address is kept",
		Services: web(externalLocal, both...),
		Asks:     external(Outside, near),
	}, {
		Name:     "external policy Local from outside, endpoints only elsewhere: dropped",
		Services: web(externalLocal, "10.244.2.5 there"),
		Asks:     external(Outside, "drop"),
	}, {
		Name:     "external policy Local does not bind a pod: any endpoint, no source NAT",
		Services: web(externalLocal, both...),
		Asks:     external(Pod, all),
	}, {
		Name:     "external policy Local does not bind a pod, even with endpoints only elsewhere",
		Services: web(externalLocal, "10.244.2.5 there"),
		Asks:     external(Pod, far),
	}, {
		Name:     "external policy Local does not bind the node: any endpoint, with source NAT",
		Services: web(externalLocal, both...),
		Asks:     external(Host, allSNAT),
	}, {
		Name:     "external policy Local does not bind the node, even with endpoints only elsewhere",
		Services: web(externalLocal, "10.244.2.5 there"),
		Asks:     external(Host, farSNAT),
	}, {
		Name:     "the internal policy does not bind external frontends",
		Services: web(internalLocal, "10.244.2.5 there"),
		Asks:     slices.Concat(external(Pod, farSNAT), external(Host, farSNAT), external(Outside, farSNAT)),
	}, {
		Name:     "both policies Local: the short-circuit ignores both",
		Services: web(bothLocal, "10.244.2.5 there"),
		Asks: slices.Concat(external(Pod, far), external(Host, farSNAT), external(Outside, "drop"),
			everyone("drop", clusterIP)),
	}, {
		Name:      "no short-circuit for pods that cannot be told from others",
		Services:  web(externalLocal, both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.DetectLocal = plan.DetectLocal{} },
		Asks:      slices.Concat(external(Pod, near), external(Host, allSNAT)),
	}}
}

// externalAddressRules: which external addresses there are.
func externalAddressRules() []Rule {
	return []Rule{{
		Name:     "a ClusterIP Service with external IPs follows the external policy there",
		Services: web(`{spec: {type: ClusterIP, externalTrafficPolicy: Local, ports: [{name: http, port: 80}]}, status: null}`, both...),
		Asks:     []Ask{{From: Outside, To: externalIP, Want: near}, {From: Pod, To: externalIP, Want: all}},
	}, {
		Name:      "external IPs can be switched off",
		Services:  web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.AllowExternalIPs = false },
		Asks:      []Ask{{From: Outside, To: externalIP, Want: "pass"}, {From: Outside, To: loadBalancer, Want: allSNAT}},
		Problems:  []plan.Reason{plan.AddressNotAllowed},
	}, {
		Name:     "a port that an external address does not have is left alone",
		Services: web("", both...),
		Asks:     everyone("pass", "198.51.100.10:81", "192.0.2.80:81"),
	}, {
		Name:     "ipMode Proxy: traffic goes out to the load balancer",
		Services: web(`{status: {loadBalancer: {ingress: [{ip: 198.51.100.10, ipMode: Proxy}]}}}`, both...),
		Asks:     []Ask{{From: Pod, To: loadBalancer, Want: "pass"}, {From: Pod, To: clusterIP, Want: all}},
	}, {
		Name:     "ipMode VIP is the default, written out",
		Services: web(`{status: {loadBalancer: {ingress: [{ip: 198.51.100.10, ipMode: VIP}]}}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}, {
		Name:     "a load balancer with a hostname only has no address to serve",
		Services: web(`{status: {loadBalancer: {ingress: [{hostname: lb.example}]}}}`, both...),
		Asks:     []Ask{{From: Pod, To: loadBalancer, Want: "pass"}},
	}, {
		Name:     "spec.loadBalancerIP is a wish, not an address",
		Services: web(`{spec: {loadBalancerIP: 198.51.100.99}}`, both...),
		Asks:     []Ask{{From: Pod, To: "198.51.100.99:80", Want: "pass"}},
	}, {
		Name:     "load-balancer addresses are served whatever the type says",
		Services: web(`{spec: {type: NodePort}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}}
}

// sourceRangeRules: spec.loadBalancerSourceRanges.
func sourceRangeRules() []Rule {
	const office = `{spec: {loadBalancerSourceRanges: ["203.0.113.0/24"]}}`
	return []Rule{{
		Name:     "source ranges: a client in one of them passes",
		Services: web(office, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}, {
		Name:     "source ranges: others are dropped, pods and the node too",
		Services: web(office, both...),
		Asks: []Ask{
			{From: "203.0.114.7", To: loadBalancer, Want: "drop"},
			{From: Pod, To: loadBalancer, Want: "drop"},
			{From: Host, To: loadBalancer, Want: "drop"},
		},
	}, {
		Name:     "source ranges come before anything else: dropped, even where nothing would answer",
		Services: web(office),
		Asks:     []Ask{{From: Pod, To: loadBalancer, Want: "drop"}, {From: Outside, To: loadBalancer, Want: "reject"}},
	}, {
		Name:     "source ranges do not bind NodePort, ExternalIP and ClusterIP",
		Services: web(office, both...),
		Asks: []Ask{
			{From: "203.0.114.7", To: nodePort, Want: allSNAT},
			{From: "203.0.114.7", To: externalIP, Want: allSNAT},
			{From: "203.0.114.7", To: clusterIP, Want: allSNAT},
		},
	}, {
		Name:     "source ranges bind an address that is both ExternalIP and the load balancer's",
		Services: web(`{spec: {externalIPs: [198.51.100.10], loadBalancerSourceRanges: ["203.0.113.0/24"]}}`, both...),
		Asks:     []Ask{{From: Pod, To: loadBalancer, Want: "drop"}},
	}, {
		Name:     "source ranges that hold this node: its packets may have the address itself as source",
		Services: web(`{spec: {loadBalancerSourceRanges: ["172.18.0.0/16"]}}`, both...),
		Asks: []Ask{
			{From: "198.51.100.10", To: loadBalancer, Want: allSNAT},
			{From: Host, To: loadBalancer, Want: allSNAT},
			{From: Outside, To: loadBalancer, Want: "drop"},
		},
	}, {
		Name:     "source ranges that do not hold this node: nor may the address itself",
		Services: web(office, both...),
		Asks:     []Ask{{From: "198.51.100.10", To: loadBalancer, Want: "drop"}},
	}, {
		Name:      "source ranges and --bind-address: it is the node's address that counts",
		Services:  web(`{spec: {loadBalancerSourceRanges: ["172.19.0.0/16"]}}`, both...),
		Configure: func(c *plan.Config, _ *model.Node) { c.BindAddress = addr("172.19.0.9") },
		Asks:      []Ask{{From: "198.51.100.10", To: loadBalancer, Want: allSNAT}},
	}, {
		Name:     "trap: source ranges of the other family only leave the address open",
		Services: web(`{spec: {loadBalancerSourceRanges: ["2001:db8::/32"]}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}, {
		Name:     "trap: a /0 among the source ranges lets everyone in",
		Services: web(`{spec: {loadBalancerSourceRanges: ["10.0.0.0/8", "0.0.0.0/0"]}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}},
	}, {
		Name:     "trap: spaces around a source range do not count",
		Services: web(`{spec: {loadBalancerSourceRanges: [" 203.0.113.0/24 "]}}`, both...),
		Asks:     []Ask{{From: Outside, To: loadBalancer, Want: allSNAT}, {From: Pod, To: loadBalancer, Want: "drop"}},
	}}
}

// nodePortRules: on which addresses NodePorts are served.
func nodePortRules() []Rule {
	const second = "192.168.7.2"
	secondPort := second + ":30080"
	// with gives the node a second address and sets nodePortAddresses.
	with := func(values []string) func(*plan.Config, *model.Node) {
		return func(c *plan.Config, n *model.Node) {
			parsed, err := plan.ParseNodePortAddresses(values)
			if err != nil {
				panic(err)
			}
			c.NodePortAddresses = parsed
			n.Addresses = append(n.Addresses, addr(second))
		}
	}
	only := func(open []string) []Ask {
		var asks []Ask
		for _, to := range []string{nodePort, secondPort, "127.0.0.1:30080"} {
			want := "pass"
			if slices.Contains(open, to) {
				want = allSNAT
			}
			asks = append(asks, Ask{From: Host, To: to, Want: want})
		}
		return asks
	}
	var rules []Rule
	for _, r := range []struct {
		name   string
		values []string
		open   []string
	}{
		{"NodePort: without nodePortAddresses on every address of the node, loopback apart", nil, []string{nodePort, secondPort}},
		{"nodePortAddresses all", []string{"all"}, []string{nodePort, secondPort}},
		{"nodePortAddresses primary: the node's first address", []string{"primary"}, []string{nodePort}},
		{"nodePortAddresses localhost: mode nftables serves none at all", []string{"localhost"}, nil},
		{"nodePortAddresses with a range", []string{"192.168.0.0/16"}, []string{secondPort}},
		{"nodePortAddresses: keywords and ranges together", []string{"primary", "192.168.0.0/16"}, []string{nodePort, secondPort}},
		{"trap: nodePortAddresses of one family only do not close the other", []string{"fd00::/8"}, []string{nodePort, secondPort}},
	} {
		rules = append(rules, Rule{Name: r.name, Services: web("", both...), Configure: with(r.values), Asks: only(r.open)})
	}
	return append(rules, []Rule{{
		Name:     "trap: primary does not close a family in which the node has no address",
		Services: web("", both...),
		Configure: func(c *plan.Config, n *model.Node) {
			c.NodePortAddresses.Primary = true
			n.Addresses = slices.Delete(slices.Clone(n.Addresses), 0, 1)
		},
		Asks: []Ask{{From: Outside, To: nodePort, Want: allSNAT}},
	}, {
		Name:     "NodePort on IPv4 loopback if so configured (mode iptables, localhostNodePorts)",
		Services: web("", both...),
		Configure: func(c *plan.Config, _ *model.Node) {
			c.NodePortAddresses.IPv4Loopback = true
		},
		Asks: []Ask{{From: "127.0.0.1", To: "127.0.0.1:30080", Want: allSNAT}, {From: "::1", To: "[::1]:30080", Want: "pass"}},
	}}...)
}

// nodePortNumberRules: which NodePorts there are.
func nodePortNumberRules() []Rule {
	return []Rule{{
		Name:     "a NodePort of another node is that node's to serve",
		Services: web("", both...),
		Asks:     everyone("pass", "172.18.0.3:30080"),
	}, {
		Name:     "NodePort and port are different numbers",
		Services: web("", both...),
		Asks:     everyone("pass", "172.18.0.2:80"),
	}, {
		Name:     "a Service without an allocated NodePort (allocateLoadBalancerNodePorts) serves the rest",
		Services: web(`{spec: {allocateLoadBalancerNodePorts: false, ports: [{name: http, port: 80}]}}`, both...),
		Asks:     []Ask{{From: Outside, To: nodePort, Want: "pass"}, {From: Outside, To: loadBalancer, Want: allSNAT}},
	}}
}

// emptyRules: nothing to send to.
func emptyRules() []Rule {
	everywhere := []string{clusterIP, loadBalancer, externalIP, nodePort}
	return []Rule{{
		Name:     "no endpoints: every frontend refuses at once",
		Services: web(""),
		Asks:     everyone("reject", everywhere...),
	}, {
		Name:     "no endpoints and policies Local: refused, not dropped",
		Services: web(bothLocal),
		Asks:     everyone("reject", everywhere...),
	}, {
		Name:     "no endpoint of use, though some exist: refused",
		Services: web("", "10.244.1.5 here unready", "10.244.2.5 there dying"),
		Asks:     everyone("reject", everywhere...),
	}, {
		Name:     "no endpoint of use and policies Local: refused",
		Services: web(bothLocal, "10.244.1.5 here unready", "10.244.2.5 there dying"),
		Asks:     everyone("reject", everywhere...),
	}, {
		Name:     "no endpoints: UDP and SCTP are refused alike",
		Services: web(`{spec: {ports: [{name: u, protocol: UDP, port: 53}, {name: s, protocol: SCTP, port: 99}]}}`),
		Asks:     everyone("reject", "10.96.0.10:53/UDP", "10.96.0.10:99/SCTP"),
	}, {
		Name:     "a terminating endpoint elsewhere is use enough: policy Local drops",
		Services: web(bothLocal, "10.244.2.5 there terminating"),
		Asks:     slices.Concat(everyone("drop", clusterIP), external(Outside, "drop"), external(Pod, far)),
	}}
}
