// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/beeline-net/beeline/internal/plan"
)

// listed is a difference from kube-proxy that is meant. The generator does not
// make these situations, or the comparison knows them; here each is shown to be
// what it is said to be.
type listed struct {
	name string
	// reason says why we differ.
	reason string
	steps  []string
	// theirs and ours are parts of the description of what clients of node-a
	// meet; each must be in one and not in the other.
	theirs, ours []string
	// problem is what an operator is told about it; empty if nothing is.
	problem plan.Reason
}

func TestListedDifferences(t *testing.T) {
	for _, l := range listedDifferences {
		t.Run(l.name, func(t *testing.T) {
			m := newMatch(asKubeProxy())
			m.theirs.literal = true
			for _, s := range parse(t, l.steps) {
				m.take(s)
			}
			theirs, ours := describe(m.theirs.view("node-a")), describe(m.ours.view("node-a"))
			for _, part := range l.theirs {
				if !strings.Contains(theirs, part) || strings.Contains(ours, part) {
					t.Errorf("%s\nkube-proxy alone is to have %q, but\n%s\nand Beeline\n%s", l.reason, part, theirs, ours)
				}
			}
			for _, part := range l.ours {
				if !strings.Contains(ours, part) || strings.Contains(theirs, part) {
					t.Errorf("%s\nBeeline alone is to have %q, but\n%s\nand kube-proxy\n%s", l.reason, part, ours, theirs)
				}
			}
			told := slices.ContainsFunc(m.ours.nodes["node-a"].planner.Problems(), func(p plan.Problem) bool { return p.Reason == l.problem })
			if told != (l.problem != "") {
				t.Errorf("told %v: %v", l.problem, m.ours.nodes["node-a"].planner.Problems())
			}
		})
	}
}

const other = "kind: Service\nmetadata: {namespace: a, name: other, creationTimestamp: \"2026-01-01T00:00:00Z\"}\nspec: {type: ClusterIP, ipFamilies: [IPv4], " +
	"clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2], externalIPs: [203.0.113.1], ports: [{protocol: TCP, port: 80}]}\nstatus: {}\n"

var listedDifferences = []listed{
	{
		name: "several Services ask for a frontend",
		reason: "kube-proxy walks its Services in the order of a Go map and lets the last one win, another one after every sync. " +
			"With us it is always the ClusterIP, then the older Service, then the one whose name sorts first.",
		steps: []string{together(other, webWith(", creationTimestamp: \"2026-02-01T00:00:00Z\"", cluster4+", externalIPs: [203.0.113.1]", ""),
			endpoints("s", endpoint("10.244.0.1", "node-b", ready)))},
		theirs:  []string{"ExternalIP 203.0.113.1:80/TCP internal=10.244.0.1:8080 external=10.244.0.1:8080"},
		problem: plan.FrontendConflict,
	},
	{
		name: "a slice changes hands",
		reason: "kube-proxy finds a slice by the Service that its label names now, so the one it named before keeps the endpoints " +
			"until kube-proxy restarts, even when the slice is deleted. With us they go with the slice.",
		steps: []string{
			together(web(cluster4), endpoints("s", endpoint("10.244.0.1", "node-b", ready))),
			strings.Replace(endpoints("s", endpoint("10.244.0.1", "node-b", ready)), "service-name: web", "service-name: gone", 1),
			"delete: EndpointSlice a/s",
		},
		theirs: []string{"ClusterIP 10.96.0.1:80/TCP internal=10.244.0.1:8080"},
		ours:   []string{"ClusterIP 10.96.0.1:80/TCP internal=reject"},
	},
	{
		name: "an unreadable source range",
		reason: "kube-proxy ignores it, and with none left the VIP is open to all. What was meant to be closed stays closed: " +
			"the VIP is withheld and the Service reported by its source. The API server refuses such a range; a folder of YAML has none.",
		steps:  []string{webWith("", balancer+", loadBalancerSourceRanges: [10.0.0.1]", "{ip: 198.51.100.1}")},
		theirs: []string{"LoadBalancer 198.51.100.1:80/TCP"},
	},
	{
		name: "endpoints that nobody may have",
		reason: "Loopback, link-local (the metadata service), multicast and the unspecified address: kube-proxy trusts the API server " +
			"to refuse them. A folder of YAML has no API server in front, and each is a way into the node.",
		steps: []string{together(web(cluster4), endpoints("s",
			endpoint("127.0.0.1", "node-b", ready), endpoint("169.254.169.254", "node-b", ready), endpoint("224.0.0.1", "node-b", ready),
			endpoint("0.0.0.0", "node-b", ready), endpoint("10.244.0.1", "node-b", ready)))},
		theirs:  []string{"internal=0.0.0.0:8080 10.244.0.1:8080 127.0.0.1:8080 169.254.169.254:8080 224.0.0.1:8080 external"},
		ours:    []string{"internal=10.244.0.1:8080 external"},
		problem: plan.BackendRefused,
	},
	{
		name:    "frontends that nobody may have",
		reason:  "As with endpoints: a Service must not take over a node's loopback or the metadata address.",
		steps:   []string{webWith("", balancer+", externalIPs: [127.0.0.1]", "{ip: 169.254.169.254}")},
		theirs:  []string{"ExternalIP 127.0.0.1:80/TCP", "LoadBalancer 169.254.169.254:80/TCP"},
		problem: plan.AddressRefused,
	},
	{
		name: "an endpoint is a frontend of another Service",
		reason: "netfilter translates a connection once, so what kube-proxy sends there goes to an address that nobody has. " +
			"A socket and then a packet could translate twice, and for ever if two Services point to each other.",
		steps: []string{together(web(cluster4), other, endpointsWith("s", "", "[{name: \"\", protocol: TCP, port: 80}]",
			endpoint("10.96.0.2", "node-b", ready), endpoint("10.244.0.1", "node-b", ready)))},
		theirs:  []string{"internal=10.244.0.1:80 10.96.0.2:80 external"},
		ours:    []string{"internal=10.244.0.1:80 external"},
		problem: plan.BackendIsFrontend,
	},
	{
		name: "an ExternalIP is an endpoint of another Service",
		reason: "kube-proxy translates what is sent there directly, and what goes through the other Service not a second time. With us the " +
			"ExternalIP yields: as a frontend it would take the endpoint away from a Service that has nothing to do with it.",
		steps: []string{together(web(cluster4), other, endpointsWith("s", "", "[{name: \"\", protocol: TCP, port: 80}]",
			endpoint("203.0.113.1", "node-b", ready)))},
		theirs:  []string{"ExternalIP 203.0.113.1:80/TCP"},
		problem: plan.FrontendIsBackend,
	},
	{
		name: "an endpoint is an external frontend of its own Service",
		reason: "Pods in the host network behind their node's address and the same port. The frontend yields, and clients reach the " +
			"endpoint directly, which is where kube-proxy would have sent them or to one like it.",
		steps: []string{together(zone("node-a", "zone-1"), web(cluster4+", externalIPs: [192.0.2.11]"),
			endpointsWith("s", "", "[{name: \"\", protocol: TCP, port: 80}]", endpoint("192.0.2.11", "node-a", ready)))},
		theirs:  []string{"ExternalIP 192.0.2.11:80/TCP internal=192.0.2.11:80+local external=192.0.2.11:80+local"},
		problem: plan.FrontendIsBackend,
	},
	{
		name: "the policy of a Service whose external addresses are all invalid",
		reason: "kube-proxy asks whether spec.externalIPs has entries at all before it honours policy Local for type ClusterIP; we ask " +
			"whether one of them is an address. It takes a NodePort left on such a Service to see it. The API server refuses both.",
		steps: []string{together(web(strings.Replace(balancer, "LoadBalancer", "ClusterIP", 1)+", externalIPs: [\"\"], externalTrafficPolicy: Local"),
			endpoints("s", endpoint("10.244.1.1", "node-b", ready)))},
		theirs: []string{"NodePort 0.0.0.0:30080/TCP internal=10.244.1.1:8080 external=drop"},
		ours:   []string{"NodePort 0.0.0.0:30080/TCP internal=10.244.1.1:8080 external=10.244.1.1:8080"},
	},
}

// TestReadyEndpointsKeepUDPFlows is one more listed difference: over UDP,
// kube-proxy deletes the flows of an endpoint that does not serve even while it
// sends new flows to it, because it is ready (publishNotReadyAddresses). With us
// what takes new flows keeps the ones it has.
func TestReadyEndpointsKeepUDPFlows(t *testing.T) {
	m := newMatch(asKubeProxy())
	for _, s := range parse(t, []string{together(web(strings.Replace(cluster4, "TCP", "UDP", 1)),
		endpointsWith("s", "", "[{name: \"\", protocol: UDP, port: 53}]",
			endpoint("10.244.0.1", "node-a", "conditions: {ready: true, serving: false, terminating: false}")))}) {
		m.take(s)
	}
	theirs, ours := m.theirs.view("node-a").ports, m.ours.view("node-a").ports
	for id := range ours {
		if got := theirs[id][0].kept; len(got) != 0 {
			t.Errorf("kube-proxy keeps flows to %v", got)
		}
		if got := ours[id][0].kept; !slices.Equal(got, []string{"10.244.0.1:53"}) {
			t.Errorf("Beeline keeps flows to %v", got)
		}
	}
}

// TestOpenChoiceIsMadeOnce is the last one: where the same address is in
// several slices and they say different things about it, kube-proxy takes what
// it comes by last in a Go map. With us the last slice by name decides, in
// whatever order the slices came.
func TestOpenChoiceIsMadeOnce(t *testing.T) {
	docs := []string{
		web(cluster4),
		endpoints("s1", endpoint("10.244.0.1", "node-b", ready)),
		endpoints("s2", endpoint("10.244.0.1", "node-b", unready)),
	}
	for range 2 {
		m := newMatch(asKubeProxy())
		for _, s := range parse(t, docs) {
			m.take(s)
		}
		for id, options := range m.theirs.view("node-a").ports {
			if len(options) != 2 {
				t.Errorf("kube-proxy leaves %d possibilities for %v", len(options), id)
			}
		}
		if got := describe(m.ours.view("node-a")); !strings.Contains(got, "internal=reject") {
			t.Errorf("slice s2 does not decide:\n%s", got)
		}
		slices.Reverse(docs)
	}
}
