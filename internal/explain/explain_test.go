// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/manifest"
)

// The node on which everything is asked, and its clients.
var (
	host    = netip.MustParseAddr("172.18.0.2")
	second  = netip.MustParseAddr("172.19.0.2") // does not serve NodePorts
	pod     = netip.MustParseAddr("10.244.1.9")
	outside = netip.MustParseAddr("203.0.113.7")
)

// question is a row: objects, who asks for what, and what must come of it.
type question struct {
	name string
	// yaml are the objects; the Node is added.
	yaml string
	from netip.Addr
	to   string // "tcp 10.96.0.10:80", or "svc shop/web"
	// change what the kernel says; may be nil.
	change func(*explain.Input)
	// config changes the agent's configuration; may be nil.
	config func(*plan.Config)

	verdict string
	reason  explain.Reason
	// says must be in the findings or in the reasons of the backends.
	says []string
}

const (
	service = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  selector: {app: web}
  ports: [{name: http, port: 80, protocol: TCP, targetPort: 8080, nodePort: 30080}]
  type: NodePort
`
	slice = `
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
`
	ready = `- {addresses: [10.244.1.5], nodeName: here, targetRef: {kind: Pod, name: web-1}}
`
	far = `- {addresses: [10.244.2.6], nodeName: there, targetRef: {kind: Pod, name: web-2}}
`
	loadBalancer = `status: {loadBalancer: {ingress: [{ip: 198.51.100.10}]}}
`
)

func questions() []question {
	lb := strings.Replace(service, "type: NodePort", "type: LoadBalancer", 1)
	with := func(lines ...string) string { // below spec
		return strings.Replace(lb, "spec:\n", "spec:\n  "+strings.Join(lines, "\n  ")+"\n", 1)
	}
	local := with("externalTrafficPolicy: Local")
	other := strings.NewReplacer("name: web,", "name: xtra,", "10.96.0.10", "10.96.0.11", "nodePort: 30080", "nodePort: 30081").Replace(service)
	return []question{
		{name: "it works", yaml: service + slice + ready + far, from: pod, to: "tcp 10.96.0.10:80", verdict: "translate", reason: explain.Translated, says: []string{"2 of 2 endpoints"}},

		{name: "no endpoint: nobody made a slice", yaml: strings.Replace(service, "  selector: {app: web}\n", "", 1), from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.NoEndpoints, says: []string{"no selector"}},
		{name: "no endpoint: the selector may match nothing", yaml: service, from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.NoEndpoints, says: []string{"most likely selector app=web matches no pod"}},
		{name: "no endpoint: the selector matches nothing", yaml: service + podDoc("db-1", "db", "True", ""), from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.SelectorMatches0, says: []string{"selector app=web matches no pod"}},
		{name: "no endpoint: pods without slices", yaml: service + podDoc("web-1", "web", "True", ""), from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.NoEndpoints, says: []string{"matches 1 pods, but no EndpointSlice"}},
		{
			name: "no endpoint: not ready",
			yaml: service + slice + "- {addresses: [10.244.1.5], nodeName: here, conditions: {ready: false, serving: false}, targetRef: {kind: Pod, name: web-1}}\n" + podDoc("web-1", "web", "False", "ContainersNotReady"),
			from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.NotReady, says: []string{"1 of 1 endpoints are not ready", "web-1 (ContainersNotReady)"},
		},
		{name: "no endpoint: wrong port name", yaml: service + strings.Replace(slice, "name: http", "name: web", 1) + ready, from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.WrongPortName, says: []string{`named "http"/TCP`, `web-x has "web"/TCP 8080`}},
		{name: "no endpoint: terminating, no longer serving", yaml: service + slice + "- {addresses: [10.244.1.5], conditions: {ready: false, serving: false, terminating: true}}\n", from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.NotServing},
		{name: "no endpoint: slices labelled headless", yaml: service + strings.Replace(slice, "labels: {", `labels: {service.kubernetes.io/headless: "", `, 1) + ready, from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.SlicesOfHeadless},
		{
			name: "no endpoint: only the other family",
			yaml: service + strings.Replace(slice, "IPv4", "IPv6", 1) + "- {addresses: ['fd00::5']}\n",
			from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.WrongFamily,
		},
		{name: "no endpoint: its address is another Service's", yaml: service + slice + "- {addresses: [10.96.0.11]}\n---" + strings.Replace(strings.Replace(other, "port: 80,", "port: 8080,", 1), "app: web", "app: xtra", 1), from: pod, to: "tcp 10.96.0.10:80", verdict: "reject", reason: explain.EndpointsRefused, says: []string{"10.96.0.11:8080/TCP is a frontend of Service shop/xtra"}},

		{name: "Local, and none here: from outside", yaml: local + loadBalancer + slice + far, from: outside, to: "tcp 198.51.100.10:80", verdict: "drop", reason: explain.NoLocalEndpoints, says: []string{"the external traffic policy is Local", "on node there, and the policy is Local"}},
		{name: "Local, and none here: from a pod all may be chosen", yaml: local + loadBalancer + slice + far, from: pod, to: "tcp 198.51.100.10:80", verdict: "translate", reason: explain.Translated},
		{name: "internal Local, and none here", yaml: with("internalTrafficPolicy: Local") + slice + far, from: pod, to: "tcp 10.96.0.10:80", verdict: "drop", reason: explain.NoLocalEndpoints, says: []string{"the internal traffic policy is Local"}},
		{name: "source range", yaml: with("loadBalancerSourceRanges: [192.0.2.0/24]") + loadBalancer + slice + ready, from: outside, to: "tcp 198.51.100.10:80", verdict: "drop", reason: explain.SourceRange, says: []string{"203.0.113.7", "192.0.2.0/24"}},
		{name: "source range that nobody can read", yaml: with("loadBalancerSourceRanges: [nonsense]") + loadBalancer + slice + ready, from: outside, to: "tcp 198.51.100.10:80", verdict: "pass", reason: explain.UnreadableRanges, says: []string{"withheld"}},
		{name: "ipMode Proxy", yaml: lb + strings.Replace(loadBalancer, "{ip: 198.51.100.10}", "{ip: 198.51.100.10, ipMode: Proxy}", 1) + slice + ready, from: pod, to: "tcp 198.51.100.10:80", verdict: "pass", reason: explain.IPModeProxy},
		{name: "another proxy's label", yaml: strings.Replace(service, "namespace: shop}", "namespace: shop, labels: {service.kubernetes.io/service-proxy-name: theirs}}", 1) + slice + ready, from: pod, to: "tcp 10.96.0.10:80", verdict: "pass", reason: explain.OtherProxy, says: []string{"theirs"}},
		{name: "headless, by name", yaml: strings.NewReplacer("clusterIP: 10.96.0.10", "clusterIP: None", "clusterIPs: [10.96.0.10]", "clusterIPs: [None]", "type: NodePort", "type: ClusterIP", ", nodePort: 30080", "").Replace(service) + slice + ready, from: pod, to: "svc shop/web", verdict: "pass", reason: explain.Headless},
		{name: "ExternalName, by name", yaml: "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: ExternalName, externalName: example.org}\n", from: pod, to: "svc shop/web", verdict: "pass", reason: explain.ExternalName, says: []string{"example.org"}},
		{
			name: "an address that two Services ask for",
			yaml: strings.Replace(service, "spec:\n", "spec:\n  externalIPs: [192.0.2.80]\n", 1) + slice + ready + "---" + strings.Replace(other, "spec:\n", "spec:\n  externalIPs: [192.0.2.80]\n", 1),
			from: pod, to: "svc shop/xtra tcp 192.0.2.80:80", verdict: "translate", reason: explain.AddressConflict, says: []string{"shop/xtra asks for 192.0.2.80:80, but it belongs to shop/web"},
		},
		{name: "an external IP that is an endpoint yields", yaml: strings.Replace(service, "spec:\n", "spec:\n  externalIPs: [10.244.1.5]\n", 1) + strings.Replace(slice, "8080", "80", 1) + ready, from: pod, to: "tcp 10.244.1.5:80", verdict: "pass", reason: explain.AddressIsEndpoint},
		{name: "an external IP that strict mode refuses", yaml: strings.Replace(service, "spec:\n", "spec:\n  externalIPs: [192.0.2.80]\n", 1) + slice + ready, from: pod, to: "tcp 192.0.2.80:80", config: func(c *plan.Config) { c.Strict.Enabled = true }, verdict: "pass", reason: explain.AddressRefused},
		{name: "wrong port", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.10:8080", verdict: "reject", reason: explain.UnknownPort, says: []string{"80/TCP (http)", "refused"}},
		{name: "wrong protocol", yaml: service + slice + ready, from: pod, to: "udp 10.96.0.10:80", verdict: "reject", reason: explain.UnknownPort, says: []string{"no port 80/UDP", "80/TCP (http)"}},
		{name: "only terminating ones", yaml: service + slice + "- {addresses: [10.244.1.5], conditions: {ready: false, serving: true, terminating: true}}\n", from: pod, to: "tcp 10.96.0.10:80", verdict: "translate", reason: explain.Translated, says: []string{"only terminating endpoints are left"}},
		{
			name: "affinity pins to one", yaml: strings.Replace(service, "spec:\n", "spec:\n  sessionAffinity: ClientIP\n", 1) + slice + ready + far, from: pod, to: "tcp 10.96.0.10:80",
			change:  func(in *explain.Input) { in.Kernel.Sockets.Pinned = netip.MustParseAddrPort("10.244.2.6:8080") },
			verdict: "translate", reason: explain.Translated, says: []string{"session affinity pins the client to 10.244.2.6:8080", "pins the client to another"},
		},
		{
			name: "ClusterIP from outside, closed", yaml: service + slice + ready, from: outside, to: "tcp 10.96.0.10:80",
			change:  func(in *explain.Input) { in.Kernel.Packet.ClosedClusterIPs = true },
			verdict: "drop", reason: explain.ClusterIPOutside,
		},
		{name: "ClusterIP from outside", yaml: service + slice + ready, from: outside, to: "tcp 10.96.0.10:80", verdict: "translate", reason: explain.Translated},
		{
			name: "from outside without a packet path", yaml: service + slice + ready, from: outside, to: "tcp 172.18.0.2:30080",
			change:  func(in *explain.Input) { in.Kernel.Packet.Off = "it is switched off on this node" },
			verdict: "pass", reason: explain.NoPacketPath,
		},
		{name: "NodePort on an address that does not serve it", yaml: service + slice + ready, from: outside, to: "tcp 172.19.0.2:30080", verdict: "pass", reason: explain.NodePortAddress, says: []string{"172.19.0.2 does not serve NodePorts", "these do: 172.18.0.2"}},
		{name: "NodePort of another node", yaml: service + slice + ready, from: outside, to: "tcp 172.18.0.3:30080", verdict: "pass", reason: explain.NodePortAddress, says: []string{"no address of this node"}},
		{name: "NodePort", yaml: service + slice + far, from: outside, to: "tcp 172.18.0.2:30080", verdict: "translate", reason: explain.Translated, says: []string{"SourceNAT: the backend sees an address of this node"}},
		{name: "NodePort, to a pod of this node", yaml: service + slice + ready, from: outside, to: "tcp 172.18.0.2:30080", verdict: "translate", reason: explain.Translated, says: []string{"no source NAT to backends of this node"}},
		{
			name: "hooks that are gone", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.10:80",
			change: func(in *explain.Input) {
				in.Kernel.Sockets.Broken = "beeline_connect4: its cgroup is gone"
				in.Kernel.Packet.Off = "it is switched off on this node"
			},
			verdict: "pass", reason: explain.SocketsNotServed,
		},
		{
			name: "topology hints", from: pod, to: "tcp 10.96.0.10:80",
			yaml:    service + slice + "- {addresses: [10.244.1.5], hints: {forZones: [{name: z1}]}}\n- {addresses: [10.244.2.6], hints: {forZones: [{name: z2}]}}\n",
			verdict: "translate", reason: explain.Translated, says: []string{"topology hints give it to zone z2, and this node is in z1", "keep some ready endpoints away"},
		},
		{
			name: "a pod whose sockets are left alone", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.10:80",
			change:  func(in *explain.Input) { in.Kernel.Sockets.LeftAlone = "it has opted out" },
			verdict: "translate", reason: explain.Translated, says: []string{"SocketsOptedOut: the packet path serves this client", "it has opted out"},
		},
		{
			name: "a pod whose sockets are left alone, without a packet path", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.10:80",
			change: func(in *explain.Input) {
				in.Kernel.Sockets.LeftAlone, in.Kernel.Packet.Off = "it has opted out", "it is switched off on this node"
			},
			verdict: "pass", reason: explain.NoPacketPath, says: []string{"sockets are left alone, so it needs the packet path"},
		},
		{name: "an address of the Service range that no Service has", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.99:80", change: serviceRange, verdict: "drop", reason: explain.UnassignedAddress, says: []string{"10.96.0.0/16", "no Service has it: dropped"}},
		{name: "a port that the Service does not have, in the Service range", yaml: service + slice + ready, from: pod, to: "tcp 10.96.0.10:81", change: serviceRange, verdict: "reject", reason: explain.UnknownPort},
		{
			name: "another proxy's Service, in the Service range", from: outside, to: "tcp 10.96.0.10:80", change: serviceRange,
			yaml:    strings.Replace(service, "namespace: shop}", "namespace: shop, labels: {service.kubernetes.io/service-proxy-name: theirs}}", 1) + slice + ready,
			verdict: "drop", reason: explain.OtherProxy, says: []string{"UnassignedAddress"},
		},
		{name: "nobody's", yaml: service + slice + ready, from: pod, to: "tcp 192.0.2.200:80", verdict: "pass", reason: explain.NotAService},
		{
			name: "something in front", yaml: service + slice + ready, from: outside, to: "tcp 172.18.0.2:30080",
			change:  func(in *explain.Input) { in.Front = []explain.Finding{{explain.InFront, "kube-proxy's rules", ""}} },
			verdict: "translate", reason: explain.Translated, says: []string{"kube-proxy's rules"},
		},
		{
			name: "an agent that is behind", yaml: service + slice + ready + far, from: pod, to: "tcp 10.96.0.10:80",
			change: func(in *explain.Input) {
				p := &in.Kernel.View.Services[0].Ports[0]
				p.Backends, p.Cluster.Members = nil, nil
			},
			verdict: "reject", reason: explain.NotInKernel,
		},
		{
			name: "without objects", yaml: service, from: pod, to: "tcp 10.96.0.10:80",
			change:  func(in *explain.Input) { in.Facts = nil },
			verdict: "reject", reason: explain.NoEndpoints, says: []string{"no endpoint of shop/web:http/TCP/IPv4 is usable"},
		},
	}
}

func serviceRange(in *explain.Input) {
	in.Kernel.Packet.ServiceRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
}

func podDoc(name, app, ready, why string) string {
	return `---
apiVersion: v1
kind: Pod
metadata: {name: ` + name + `, namespace: shop, labels: {app: ` + app + `}}
status: {conditions: [{type: Ready, status: "` + ready + `", reason: "` + why + `"}]}
`
}

func TestTheQuestionsUsersAsk(t *testing.T) {
	for _, q := range questions() {
		t.Run(q.name, func(t *testing.T) {
			in := q.input(t)
			if q.change != nil {
				q.change(&in)
			}
			a := explain.Explain(in)
			if a.Verdict != q.verdict || a.Reason != q.reason {
				t.Errorf("%s, %s; want %s, %s\n%+v", a.Verdict, a.Reason, q.verdict, q.reason, a.Findings)
			}
			text := said(a)
			for _, want := range q.says {
				if !strings.Contains(text, want) {
					t.Errorf("nothing says %q:\n%s", want, text)
				}
			}
			if len(a.Findings) == 0 {
				t.Error("no reason at all")
			}
		})
	}
}

// said is everything that an answer says in words.
func said(a explain.Answer) string {
	var b strings.Builder
	for _, f := range a.Findings {
		b.WriteString(string(f.Reason) + ": " + f.Message + "\n")
	}
	for _, e := range a.Backends {
		b.WriteString(e.Address + ": " + e.Why + "\n")
		if e.SourceNAT {
			b.WriteString("sees an address of this node\n")
		}
	}
	for _, p := range a.Paths {
		b.WriteString(strings.Join(p.Steps, "\n") + "\n")
	}
	return b.String() + strings.Join(a.Unknown, "\n")
}

// input plans the objects as the agent does, and puts the plans in the kernel's
// place.
func (q question) input(t *testing.T) explain.Input {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "objects.yaml"), []byte(q.yaml), 0o600))
	store := snapshot.New(time.Now)
	src := manifest.New(manifest.Config{Dir: dir, NodeName: "here", Store: store, Log: slog.New(slog.DiscardHandler)})
	check(t, src.Load())
	config := plan.Config{
		NodeName: "here", AllowExternalIPs: true, RefuseUnknownPorts: true,
		DetectLocal:       plan.DetectLocal{Mode: plan.DetectClusterCIDR, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}},
		NodePortAddresses: plan.NodePortAddresses{Ranges: []netip.Prefix{netip.PrefixFrom(host, 32)}},
	}
	if q.config != nil {
		q.config(&config)
	}
	node := model.Node{Name: "here", Zone: "z1", Addresses: []netip.Addr{host, second}}
	planner := plan.New(config)
	planner.SetNode(node)
	for _, name := range store.Take().Services {
		s, endpointSlices := store.Service(name)
		planner.Update(name, s, endpointSlices)
	}
	in := explain.Input{}
	in.Question.Client = explain.Client{Addr: q.from, Text: q.from.String(), ElsewhereSockets: q.from == outside}
	in.Kernel.View = oracle.View{Config: config, Node: node, Local: node.Addresses, Services: slices.Collect(planner.Services())}
	in.Kernel.Packet = explain.Packet{Device: "eth0", Direction: "ingress", NotRun: "this is a test of pure values"}
	q.target(t, &in.Question)
	query := explain.Query{Service: in.Question.Service, Address: in.Question.Target.Addr()}
	if owner := explain.Owner(in); in.Question.Service.Name == "" {
		query.Service = owner
	}
	stated, err := manifest.Stated(dir, query.Wants)
	check(t, err)
	in.Facts = &explain.Facts{From: "the test", Node: "here", Zone: "z1", Stated: stated, Problems: planner.Problems(), PlanKnown: true}
	return in
}

func (q question) target(t *testing.T, into *explain.Question) {
	t.Helper()
	words := strings.Fields(q.to)
	if words[0] == "svc" {
		namespace, name, _ := strings.Cut(words[1], "/")
		into.Service = model.Name{Namespace: namespace, Name: name}
		if words = words[2:]; len(words) == 0 {
			return
		}
	}
	protocol, err := model.ParseProtocol(strings.ToUpper(words[0]))
	check(t, err)
	into.Protocol, into.Target = protocol, netip.MustParseAddrPort(words[1])
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
