// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A case is a sequence with a story. Every difference that the random
// sequences found stays here; the others are traps of kube-proxy's code that
// are worth a name.
type testCase struct {
	name  string
	story string
	// steps are YAML; see parseStep.
	steps []string
	// want is what clients of node-a's view must meet at the end: parts of the
	// text that describes it, in any order. A port that is gone has none.
	want []string
}

func TestCases(t *testing.T) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			steps := parse(t, tc.steps)
			if diff := newMatch(asKubeProxy()).play(steps); diff != "" {
				t.Fatalf("%s\n%s", tc.story, diff)
			}
			m := newMatch(asKubeProxy())
			for _, s := range steps {
				m.take(s)
			}
			got := describe(m.theirs.view("node-a"))
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("%s\nkube-proxy does not do this: %q\nbut\n%s", tc.story, want, got)
				}
			}
			if len(tc.want) == 0 && got != "" {
				t.Errorf("%s\nnothing was to be left, but\n%s", tc.story, got)
			}
		})
	}
}

func parse(t *testing.T, texts []string) []step {
	t.Helper()
	var steps []step
	for _, text := range texts {
		s, err := parseStep(text)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, s)
	}
	return steps
}

// describe tells a view in lines, one for each frontend, health check and port
// with draining backends.
func describe(v view) string {
	var lines []string
	for id, options := range v.ports {
		for _, f := range options[0].frontends {
			line := fmt.Sprintf("%v %v internal=%s external=%s", f.kind, f.key, f.internal, f.external)
			if f.affinity > 0 {
				line += fmt.Sprintf(" affinity=%v", f.affinity)
			}
			if f.ranges != "" {
				line += fmt.Sprintf(" ranges=%s", f.ranges)
			}
			lines = append(lines, line)
		}
		lines = append(lines, fmt.Sprintf("flows %v %s", id, options[0].flows()))
	}
	for id, h := range v.health {
		lines = append(lines, fmt.Sprintf("health %v %v port=%d ready=%d", id.service, id.family, h[0].port, h[0].localReady))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestPrintedStepsCanBeReadAgain, or a failure could not become a case.
func TestPrintedStepsCanBeReadAgain(t *testing.T) {
	for seed := range uint64(20) {
		for _, s := range invent(seeded(seed), sequenceSteps) {
			text := printSteps([]step{s})
			again, err := parseStep(text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(text, printSteps([]step{again})); diff != "" {
				t.Fatal(diff)
			}
		}
	}
}

// The pieces of the cases: a Service "web" and a slice of it, both open at the
// end for more fields.
const (
	cluster4 = "{type: ClusterIP, ipFamilies: [IPv4], clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{protocol: TCP, port: 80}]"
	balancer = "{type: LoadBalancer, ipFamilies: [IPv4], clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{protocol: TCP, port: 80, nodePort: 30080}]"
	ready    = "conditions: {ready: true, serving: true, terminating: false}"
	leaving  = "conditions: {ready: false, serving: true, terminating: true}"
	unready  = "conditions: {ready: false, serving: false, terminating: false}"
)

func web(spec string) string { return webWith("", spec, "") }

func webWith(meta, spec, ingress string) string {
	return fmt.Sprintf("kind: Service\nmetadata: {namespace: a, name: web%s}\nspec: %s}\nstatus: {loadBalancer: {ingress: [%s]}}\n",
		meta, spec, ingress)
}

// endpoints is a slice of Service web with port 8080; each endpoint is the
// inside of a YAML object.
func endpoints(name string, list ...string) string {
	return endpointsWith(name, "", "[{name: \"\", protocol: TCP, port: 8080}]", list...)
}

func endpointsWith(name, labels, ports string, list ...string) string {
	return fmt.Sprintf("kind: EndpointSlice\nmetadata: {namespace: a, name: %s, labels: {kubernetes.io/service-name: web%s}}\n"+
		"addressType: IPv4\nports: %s\nendpoints: [{%s}]\n", name, labels, ports, strings.Join(list, "}, {"))
}

func endpoint(addr, node, rest string) string {
	return fmt.Sprintf("addresses: [%s], nodeName: %s, %s", addr, node, rest)
}

func together(docs ...string) string { return strings.Join(docs, "---\n") }

func zone(node, zone string) string {
	return fmt.Sprintf("kind: Node\nmetadata: {name: %s, labels: {topology.kubernetes.io/zone: %s}}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.11}]}\n", node, zone)
}

var cases = []testCase{
	{
		name: "a slice carries another proxy's name",
		story: "Found by seed 6 on the first day: package object, and the watch as well, left out slices with the label " +
			"service-proxy-name. kube-proxy looks for it on Services only. The controller copies a Service's labels to its slices, " +
			"and takes them away later than the Service: with the filter, a Service that came back to us had no endpoints until then.",
		steps: []string{together(web(cluster4), endpointsWith("s", ", service.kubernetes.io/service-proxy-name: other",
			"[{name: \"\", protocol: TCP, port: 8080}]", endpoint("10.244.0.1", "node-b", ready)))},
		want: []string{"ClusterIP 10.96.0.1:80/TCP internal=10.244.0.1:8080 external=10.244.0.1:8080"},
	},
	{
		name:  "a Service is given to another proxy and comes back",
		story: "The watch's selector turns the label into a deletion (features §2.1).",
		steps: []string{
			together(web(cluster4), endpoints("s", endpoint("10.244.0.1", "node-b", ready))),
			webWith(", labels: {service.kubernetes.io/service-proxy-name: \"\"}", cluster4, ""),
		},
	},
	{
		name:  "a slice becomes headless",
		story: "The Service stays and has no endpoints any more.",
		steps: []string{
			together(web(cluster4), endpoints("s", endpoint("10.244.0.1", "node-b", ready))),
			endpointsWith("s", ", service.kubernetes.io/headless: \"\"", "[{name: \"\", protocol: TCP, port: 8080}]", endpoint("10.244.0.1", "node-b", ready)),
		},
		want: []string{"ClusterIP 10.96.0.1:80/TCP internal=reject external=reject"},
	},
	{
		name:  "from ExternalName and back",
		story: "An ExternalName keeps its ClusterIP in old objects; it is not proxied all the same (ShouldSkipService).",
		steps: []string{
			together(web(cluster4), endpoints("s", endpoint("10.244.0.1", "node-b", ready))),
			web(strings.Replace(cluster4, "type: ClusterIP", "type: ExternalName, externalName: x.example.com", 1)),
		},
	},
	{
		name:  "only ranges of the other family",
		story: "Source ranges are filtered by family, and none left is no firewall at all (newBaseServiceInfo).",
		steps: []string{webWith("", balancer+", loadBalancerSourceRanges: [\"2001:db8::/32\"]", "{ip: 198.51.100.1}")},
		want:  []string{"LoadBalancer 198.51.100.1:80/TCP internal=reject external=reject\n"},
	},
	{
		name:  "ranges with blanks and host bits",
		story: "Validation lets blanks pass; leading zeros are decimal.",
		steps: []string{webWith("", balancer+", loadBalancerSourceRanges: [\" 10.1.2.3/8\\t\", \"172.016.0.0/12\"]", "{ip: 198.51.100.1}")},
		want:  []string{"LoadBalancer 198.51.100.1:80/TCP internal=reject external=reject ranges=10.0.0.0/8 172.16.0.0/12"},
	},
	{
		name:  "one range is everything",
		story: "A /0 opens, whatever else is in the list.",
		steps: []string{webWith("", balancer+", loadBalancerSourceRanges: [10.0.0.0/8, 0.0.0.0/0]", "{ip: 198.51.100.1}")},
		want:  []string{"LoadBalancer 198.51.100.1:80/TCP internal=reject external=reject\n"},
	},
	{
		name:  "a range holds this node",
		story: "Then the VIPs may be sources too, for packets of the node that loop back (allowFromNode). NodePorts are never filtered.",
		steps: []string{together(zone("node-a", "zone-1"),
			webWith("", balancer+", loadBalancerSourceRanges: [192.0.2.0/24]", "{ip: 198.51.100.1}"))},
		want: []string{
			"LoadBalancer 198.51.100.1:80/TCP internal=reject external=reject ranges=192.0.2.0/24 198.51.100.1/32",
			"NodePort 0.0.0.0:30080/TCP internal=reject external=reject",
		},
	},
	{
		name:  "an address is ExternalIP and VIP at once",
		story: "The firewall of the VIP applies to it.",
		steps: []string{webWith("", balancer+", externalIPs: [198.51.100.1], loadBalancerSourceRanges: [10.0.0.0/8]", "{ip: 198.51.100.1}")},
		want:  []string{"LoadBalancer 198.51.100.1:80/TCP internal=reject external=reject ranges=10.0.0.0/8"},
	},
	{
		name:  "ingress in all modes",
		story: "Only VIPs are served; Proxy and hostnames are for the real load balancer.",
		steps: []string{webWith("", balancer, "{ip: 198.51.100.1, ipMode: Proxy}, {hostname: lb.example.com}, {ip: 198.51.100.2, ipMode: VIP}")},
		want:  []string{"LoadBalancer 198.51.100.2:80/TCP internal=reject external=reject\n"},
	},
	{
		name: "policy Local with endpoints elsewhere",
		story: "From outside: dropped. Pods and the node itself are short-circuited to all endpoints, for internal policy Local too. " +
			"The ClusterIP follows the internal policy.",
		steps: []string{together(webWith("", balancer+", externalTrafficPolicy: Local, internalTrafficPolicy: Local, healthCheckNodePort: 32000", "{ip: 198.51.100.1}"),
			endpoints("s", endpoint("10.244.1.1", "node-b", ready)))},
		want: []string{
			"ClusterIP 10.96.0.1:80/TCP internal=drop external=drop",
			"LoadBalancer 198.51.100.1:80/TCP internal=10.244.1.1:8080 external=drop",
			"health a/web IPv4 port=32000 ready=0",
		},
	},
	{
		name:  "the policies fall back to terminating endpoints each on its own",
		story: "A ready endpoint elsewhere serves policy Cluster, while the local one that is leaving still serves policy Local; the health check fails already.",
		steps: []string{together(web(balancer+", externalTrafficPolicy: Local, healthCheckNodePort: 32000"),
			endpoints("s", endpoint("10.244.0.1", "node-a", leaving), endpoint("10.244.1.1", "node-b", ready)))},
		want: []string{
			"NodePort 0.0.0.0:30080/TCP internal=10.244.1.1:8080 external=10.244.0.1:8080+local+terminating",
			"health a/web IPv4 port=32000 ready=0",
		},
	},
	{
		name:  "an endpoint is in two slices while it moves",
		story: "What is not terminating counts, wherever it stands (addEndpoints).",
		steps: []string{together(web(cluster4),
			endpoints("s1", endpoint("10.244.0.1", "node-b", ready)), endpoints("s2", endpoint("10.244.0.1", "node-b", leaving)))},
		want: []string{"internal=10.244.0.1:8080 external"},
	},
	{
		name:  "an address is reused while its old pod is leaving",
		story: "Twice in one slice: the new pod counts, before or after the old one.",
		steps: []string{together(web(cluster4), endpoints("s",
			endpoint("10.244.0.1", "node-a", ready), endpoint("10.244.0.1", "node-a", leaving),
			endpoint("10.244.0.2", "node-a", leaving), endpoint("10.244.0.2", "node-a", ready)))},
		want: []string{"internal=10.244.0.1:8080+local 10.244.0.2:8080+local external"},
	},
	{
		name:  "hints are for all ready endpoints or for none",
		story: "One that is not ready may lack them (topologyModeFromHints).",
		steps: []string{together(zone("node-a", "zone-1"), web(cluster4), endpoints("s",
			endpoint("10.244.0.1", "node-b", ready+", hints: {forZones: [{name: zone-1}]}"),
			endpoint("10.244.0.2", "node-b", ready+", hints: {forZones: [{name: zone-2}]}"),
			endpoint("10.244.0.3", "node-b", unready)))},
		want: []string{"internal=10.244.0.1:8080 external"},
	},
	{
		name:  "a node's hints come before a zone's",
		story: "And the zone's count where no endpoint is meant for this node.",
		steps: []string{together(zone("node-a", "zone-1"), web(cluster4), endpoints("s",
			endpoint("10.244.0.1", "node-b", ready+", hints: {forZones: [{name: zone-1}], forNodes: [{name: node-b}]}"),
			endpoint("10.244.0.2", "node-b", ready+", hints: {forZones: [{name: zone-1}], forNodes: [{name: node-a}]}")))},
		want: []string{"internal=10.244.0.2:8080 external"},
	},
	{
		name:  "the node's zone changes",
		story: "Every Service is planned anew, though none of them changed.",
		steps: []string{
			together(zone("node-a", "zone-1"), web(cluster4), endpoints("s",
				endpoint("10.244.0.1", "node-b", ready+", hints: {forZones: [{name: zone-1}]}"),
				endpoint("10.244.0.2", "node-b", ready+", hints: {forZones: [{name: zone-2}]}"))),
			zone("node-a", "zone-2"),
		},
		want: []string{"internal=10.244.0.2:8080 external"},
	},
	{
		name:  "a family without ClusterIP has no frontend at all",
		story: "An IPv6 ExternalIP of an IPv4 Service is not served (serviceToServiceMap).",
		steps: []string{web(cluster4 + ", externalIPs: [\"2001:db8::1\"]")},
		want:  []string{"ClusterIP 10.96.0.1:80/TCP internal=reject external=reject\nflows a/web/TCP/IPv4"},
	},
	{
		name:  "dual stack, IPv6 first",
		story: "Families are paired with addresses by position.",
		steps: []string{web("{type: ClusterIP, ipFamilies: [IPv6, IPv4], clusterIP: \"fd00:96::1\", clusterIPs: [\"fd00:96::1\", 10.96.0.1], ports: [{protocol: UDP, port: 53}]")},
		want:  []string{"ClusterIP 10.96.0.1:53/UDP", "ClusterIP [fd00:96::1]:53/UDP"},
	},
	{
		name:  "an object from before dual stack",
		story: "Without ipFamilies, the ClusterIP says which family it is (GetClusterIPByFamily).",
		steps: []string{web("{type: ClusterIP, clusterIP: \"fd00:96::1\", ports: [{protocol: TCP, port: 80}]")},
		want:  []string{"ClusterIP [fd00:96::1]:80/TCP"},
	},
	{
		name:  "a NodePort is left on a Service of type ClusterIP",
		story: "The API server clears it; kube-proxy serves what stands there.",
		steps: []string{web(strings.Replace(balancer, "LoadBalancer", "ClusterIP", 1))},
		want:  []string{"NodePort 0.0.0.0:30080/TCP"},
	},
	{
		name:  "named ports differ between slices",
		story: "The Service's port is found by name and protocol; each slice has its own number, and an unnamed or unnumbered port is nobody's.",
		steps: []string{together(web(strings.Replace(cluster4, "{protocol", "{name: http, protocol", 1)),
			endpointsWith("s1", "", "[{name: http, protocol: TCP, port: 8080}, {protocol: TCP, port: 1}]", endpoint("10.244.0.1", "node-b", ready)),
			endpointsWith("s2", "", "[{name: http, protocol: TCP, port: 9090}, {name: x, protocol: TCP}]", endpoint("10.244.0.1", "node-b", ready)),
			endpointsWith("s3", "", "[{name: http, protocol: UDP, port: 9091}]", endpoint("10.244.0.1", "node-b", ready)))},
		want: []string{"internal=10.244.0.1:8080 10.244.0.1:9090 external"},
	},
	{
		name:  "the health check counts addresses",
		story: "Over all ports of the slices, those that the Service does not have included (LocalReadyEndpoints).",
		steps: []string{together(web(balancer+", externalTrafficPolicy: Local, healthCheckNodePort: 32000"),
			endpointsWith("s", "", "[{name: a, protocol: TCP, port: 1}, {name: b, protocol: TCP, port: 2}]",
				endpoint("10.244.0.1", "node-a", ready), endpoint("10.244.0.2", "node-a", ready), endpoint("10.244.0.3", "node-b", ready)))},
		want: []string{"health a/web IPv4 port=32000 ready=2"},
	},
	{
		name:  "an endpoint that keeps its flows",
		story: "One that is not ready takes no new flow and loses none, except over UDP, where it has to serve (conntrack/cleanup.go).",
		steps: []string{together(
			web(strings.Replace(cluster4, "{protocol: TCP, port: 80}", "{name: t, protocol: TCP, port: 80}, {name: u, protocol: UDP, port: 80}", 1)),
			endpointsWith("s", "", "[{name: t, protocol: TCP, port: 1}, {name: u, protocol: UDP, port: 2}]",
				endpoint("10.244.0.1", "node-a", ready), endpoint("10.244.0.2", "node-a", unready), endpoint("10.244.0.3", "node-a", leaving)))},
		want: []string{
			"flows a/web:t/TCP/IPv4 10.244.0.1:1 10.244.0.2:1 10.244.0.3:1",
			"flows a/web:u/UDP/IPv4 10.244.0.1:2 10.244.0.3:2",
		},
	},
	{
		name:  "leading zeros and mapped addresses",
		story: "Objects from before these were refused are read as kube-proxy reads them (ParseIPSloppy).",
		steps: []string{together(web(cluster4+", externalIPs: [203.0.113.007, \"::ffff:203.0.113.8\"]"),
			endpoints("s", endpoint("010.244.000.001", "node-b", ready)))},
		want: []string{
			"ExternalIP 203.0.113.7:80/TCP internal=10.244.0.1:8080 external=10.244.0.1:8080",
			"ExternalIP 203.0.113.8:80/TCP internal=10.244.0.1:8080 external=10.244.0.1:8080",
		},
	},
	{
		name:  "one VIP for two Services",
		story: "Different ports of an address may belong to different Services.",
		steps: []string{together(
			webWith("", balancer, "{ip: 198.51.100.1}"),
			"kind: Service\nmetadata: {namespace: a, name: dns}\nspec: {type: LoadBalancer, ipFamilies: [IPv4], clusterIP: 10.96.0.2, "+
				"clusterIPs: [10.96.0.2], ports: [{protocol: UDP, port: 80}]}\nstatus: {loadBalancer: {ingress: [{ip: 198.51.100.1}]}}\n")},
		want: []string{"LoadBalancer 198.51.100.1:80/TCP", "LoadBalancer 198.51.100.1:80/UDP"},
	},
}
