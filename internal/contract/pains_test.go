// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"fmt"
	"strings"
	"testing"
)

// Tests here have the names of what hurts users most. Each states its rule a
// second time, as arithmetic over all combinations, beside the table's examples.

// A13: who asks from inside the cluster reaches an external address whatever the
// external policy says, and each policy binds its own kind of address only.
func TestA13ExternalPolicyLocalFromInside(t *testing.T) {
	for places, endpoints := range map[string][]string{"here and there": both, "here": both[:1], "there": both[1:]} {
		for _, external := range []string{"Cluster", "Local"} {
			for _, internal := range []string{"Cluster", "Local"} {
				rule := Rule{
					Name:     fmt.Sprintf("external %s, internal %s, endpoints %s", external, internal, places),
					Services: web(fmt.Sprintf("{spec: {externalTrafficPolicy: %s, internalTrafficPolicy: %s}}", external, internal), endpoints...),
				}
				for _, from := range clients {
					for _, to := range []string{clusterIP, loadBalancer, externalIP, nodePort} {
						local, snat := internal == "Local", from != Pod
						if to != clusterIP {
							local = external == "Local" && from == Outside
							snat = external == "Cluster" || from == Host
						}
						rule.Asks = append(rule.Asks, Ask{From: from, To: to, Want: expected(places, local, snat)})
					}
				}
				keeps(t, rule)
			}
		}
	}
}

// expected are the backends of a client that may have local ones only, or all.
func expected(places string, local, snat bool) string {
	var some []string
	if strings.Contains(places, Here+" ") || places == Here {
		some = append(some, near)
	}
	if strings.Contains(places, There) && !local {
		some = append(some, far)
	}
	if len(some) == 0 {
		return "drop"
	}
	if snat {
		for i := range some {
			some[i] += " snat"
		}
	}
	return strings.Join(some, ", ")
}

// A14: one endpoint, in each state: what is new comes while it serves, at the
// latest for want of a better one, and what is established goes on.
func TestA14TerminatingEndpoints(t *testing.T) {
	const ask, udp = "10.96.0.10:80", "10.96.0.10:80/UDP"
	ports := `{spec: {externalTrafficPolicy: %s, ports: [{name: t, port: 80, nodePort: 30080}, {name: u, protocol: UDP, port: 80}]}}`
	for _, c := range []struct {
		state, new, oldUDP string
	}{
		{"", near, near},
		{" terminating", near, near},
		{" dying", "reject", "reject"},
		{" unready", "reject", "reject"},
	} {
		for _, policy := range []string{"Cluster", "Local"} {
			fromOutside := c.new
			if policy == "Cluster" && c.new == near {
				fromOutside = nearSNAT
			}
			const flow = "10.244.1.5:8080"
			rule := Rule{
				Name:     "one endpoint:" + c.state + ", " + policy,
				Services: web(fmt.Sprintf(ports, policy), "10.244.1.5 here"+c.state),
				Asks: append(external(Outside, fromOutside),
					Ask{From: Pod, To: ask, Want: c.new},
					Ask{From: Pod, To: udp, Want: c.new},
					Ask{From: Pod, To: ask, Flow: flow, Want: near},
					Ask{From: Pod, To: udp, Flow: flow, Want: c.oldUDP}),
			}
			keeps(t, rule)
			// With a ready one elsewhere nothing new comes, except for the policy
			// Local, which knows no elsewhere.
			rule.Name += ", another is ready there"
			rule.Services[0].Endpoints = append(rule.Services[0].Endpoints, "10.244.2.5 there")
			inside, outside, old := far, farSNAT, near
			if c.state == "" {
				inside, outside = all, allSNAT
			}
			if policy == "Local" {
				outside = c.new
				if c.new == "reject" {
					outside = "drop"
				}
			}
			if c.oldUDP == "reject" {
				old = far
			}
			rule.Asks = append(external(Outside, outside),
				Ask{From: Pod, To: ask, Want: inside},
				Ask{From: Pod, To: ask, Flow: flow, Want: near},
				Ask{From: Pod, To: udp, Flow: flow, Want: old})
			keeps(t, rule)
		}
	}
	keeps(t, Rule{
		Name:     "a pod that left the Service and lives: old connections stay, new ones go elsewhere",
		Services: web("", "10.244.2.5 there"),
		Asks: []Ask{
			{From: Pod, To: clusterIP, Flow: "10.244.1.5:8080", Want: near},
			{From: Pod, To: clusterIP, Want: far},
		},
	})
}

// A22: a Service without endpoints refuses, whoever asks, however, at every
// address, in both families.
func TestA22NoEndpoints(t *testing.T) {
	for _, policy := range []string{"Cluster", "Local"} {
		for _, endpoints := range [][]string{nil, {"10.244.1.5 here unready", "fd00:10:244:1::5 here unready"}} {
			rule := Rule{
				Name: fmt.Sprintf("policies %s, endpoints %q", policy, endpoints),
				Services: web(fmt.Sprintf(`{spec: {externalTrafficPolicy: %[1]s, internalTrafficPolicy: %[1]s,
					clusterIPs: [10.96.0.10, "fd00:10:96::10"], ipFamilies: [IPv4, IPv6], externalIPs: [192.0.2.80, "2001:db8::80"],
					ports: [{name: t, port: 80, nodePort: 30080}, {name: u, protocol: UDP, port: 80, nodePort: 30080}, {name: s, protocol: SCTP, port: 80, nodePort: 30080}]},
					status: {loadBalancer: {ingress: [{ip: 198.51.100.10}, {ip: "2001:db8:1::10"}]}}}`, policy), endpoints...),
			}
			for _, protocol := range []string{"", "/UDP", "/SCTP"} {
				for _, to := range []string{clusterIP, loadBalancer, externalIP, nodePort} {
					rule.Asks = append(rule.Asks, everyone("reject", to+protocol)...)
				}
				for _, from := range []string{Pod6, Host6, Outside6} {
					for _, to := range []string{"[fd00:10:96::10]:80", "[2001:db8:1::10]:80", "[2001:db8::80]:80", "[" + Host6 + "]:30080"} {
						rule.Asks = append(rule.Asks, Ask{From: from, To: to + protocol, Want: "reject"})
					}
				}
			}
			keeps(t, rule)
		}
	}
}

// A25: a pod that is its own Service's endpoint gets itself, and its reply comes
// back: it sees a node's address, the others see the pod's.
func TestA25Hairpin(t *testing.T) {
	const six = `{spec: {clusterIP: "fd00:10:96::10", clusterIPs: ["fd00:10:96::10"], ipFamilies: [IPv6], externalIPs: ["2001:db8::80"]}, status: null}`
	keeps(t, Rule{
		Name: "the only endpoint", Services: web("", both[0]),
		Asks: append(external("10.244.1.5", nearSNAT), Ask{From: "10.244.1.5", To: clusterIP, Want: nearSNAT}, Ask{From: Pod, To: clusterIP, Want: near}),
	})
	keeps(t, Rule{
		Name: "one of two", Services: web("", both...),
		Asks: []Ask{{From: "10.244.1.5", To: clusterIP, Want: nearSNAT + ", " + far}},
	})
	keeps(t, Rule{
		Name: "IPv6", Services: web(six, "fd00:10:244:1::5 here", "fd00:10:244:2::5 there"),
		Asks: []Ask{
			{From: "fd00:10:244:1::5", To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:1::5]:8080 snat, [fd00:10:244:2::5]:8080"},
			{From: Pod6, To: "[fd00:10:96::10]:80", Want: "[fd00:10:244:1::5]:8080, [fd00:10:244:2::5]:8080"},
		},
	})
}

// A33: loadBalancerSourceRanges bind the load balancer's address and nothing
// else, whoever asks; an address in ipMode Proxy is the load balancer's own.
func TestA33SourceRangesAndIPMode(t *testing.T) {
	for _, mode := range []string{"", "VIP", "Proxy"} {
		for ranges, open := range map[string][]string{
			"":                                  clients,
			`"203.0.113.0/24"`:                  {Outside},
			`"10.244.0.0/16"`:                   {Pod},
			`"10.244.0.0/16", "203.0.113.0/24"`: {Pod, Outside},
			`"192.0.2.0/24"`:                    nil,
		} {
			ipMode := ""
			if mode != "" {
				ipMode = ", ipMode: " + mode
			}
			rule := Rule{
				Name: fmt.Sprintf("ranges %s, ipMode %s", ranges, mode),
				Services: web(fmt.Sprintf("{spec: {loadBalancerSourceRanges: [%s]}, status: {loadBalancer: {ingress: [{ip: 198.51.100.10%s}]}}}", ranges, ipMode),
					both...),
			}
			for _, from := range clients {
				atCluster, atBalancer := allSNAT, "drop"
				if from == Pod {
					atCluster = all
				}
				for _, o := range open {
					if o == from {
						atBalancer = allSNAT
					}
				}
				if mode == "Proxy" {
					atBalancer = "pass"
				}
				rule.Asks = append(rule.Asks,
					Ask{From: from, To: clusterIP, Want: atCluster},
					Ask{From: from, To: loadBalancer, Want: atBalancer},
					Ask{From: from, To: externalIP, Want: allSNAT},
					Ask{From: from, To: nodePort, Want: allSNAT})
			}
			keeps(t, rule)
		}
	}
}
