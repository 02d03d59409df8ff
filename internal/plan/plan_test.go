// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/model"
)

// The world of these tests: node "here" in zone z1.
var (
	webName    = model.Name{Namespace: "ns", Name: "web"}
	testConfig = Config{NodeName: "here", AllowExternalIPs: true}
	testNode   = model.Node{Name: "here", Zone: "z1", Addresses: addrs("172.18.0.2", "fd00:18::2")}
)

// webService has a ClusterIP and one port.
func webService(change func(*model.Service)) *model.Service {
	s := &model.Service{
		Name:       webName,
		ClusterIPs: addrs("10.96.0.1"),
		Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
	}
	if change != nil {
		change(s)
	}
	return s
}

// slice makes a slice of port http 8080.
func slice(name string, endpoints ...model.Endpoint) model.EndpointSlice {
	s := model.EndpointSlice{
		Name: model.Name{Namespace: "ns", Name: name}, Service: webName, Family: model.IPv4,
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}, Endpoints: endpoints,
	}
	if len(endpoints) > 0 {
		s.Family = model.FamilyOf(endpoints[0].Addr)
	}
	return s
}

func ready(addr, node string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Ready: true, Serving: true, Node: node}
}

func terminating(addr, node string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Serving: true, Terminating: true, Node: node}
}

func unready(addr, node string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Node: node}
}

// text writes a plan as lines: each port with its frontends, then its backends,
// each with the sets it is in.
func text(s Service) string {
	var b strings.Builder
	for _, p := range s.Ports {
		fmt.Fprintf(&b, "%s/%v/%v\n", p.ID.Port, p.ID.Protocol, p.ID.Family)
		for _, f := range p.Frontends {
			fmt.Fprintf(&b, "  %v %v%s\n", f.Kind, f.FrontendKey, frontendText(f))
		}
		for i, e := range p.Backends {
			fmt.Fprintf(&b, "  -> %v %v%s%s%s\n", e.Addr, e.State, word(e.Local, " here"), in(p.Cluster, i, " cluster"), in(p.Local, i, " local"))
		}
		if p.Local.Empty == Drop {
			b.WriteString("  -> local drops\n")
		}
	}
	for _, a := range s.Addresses {
		fmt.Fprintf(&b, "address %v\n", a)
	}
	for _, h := range s.Health {
		fmt.Fprintf(&b, "health %v port %d: %d\n", h.Family, h.Port, h.LocalReady)
	}
	return b.String()
}

func frontendText(f Frontend) string {
	text := word(f.InternalLocal, " internal-local") + word(f.ExternalLocal, " external-local")
	if f.AffinityTimeout > 0 {
		text += " affinity " + f.AffinityTimeout.String()
	}
	if len(f.SourceRanges) > 0 {
		text += fmt.Sprintf(" from %v", f.SourceRanges)
	}
	return text
}

func word(is bool, text string) string {
	if is {
		return text
	}
	return ""
}

func in(s Set, i int, text string) string {
	for _, m := range s.Members {
		if m == i {
			return text
		}
	}
	return ""
}

func trim(text string) string { return strings.TrimLeft(text, "\n") }

func TestPlanOfOneService(t *testing.T) {
	tests := []struct {
		name    string
		config  func(*Config)
		service *model.Service
		slices  []model.EndpointSlice
		want    string
		// problems holds "Reason: message".
		problems []string
	}{{
		name:    "ClusterIP",
		service: webService(nil),
		slices:  []model.EndpointSlice{slice("a", ready("10.244.2.5", "there"), ready("10.244.1.5", "here"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.2.5:8080 active cluster
`,
	}, {
		name: "all kinds, with the policies that count for each, and both sets",
		service: webService(func(s *model.Service) {
			s.Type, s.ExternalLocal, s.AffinityTimeout = model.LoadBalancer, true, time.Hour
			s.ExternalIPs, s.LoadBalancerIPs = addrs("192.0.2.1"), addrs("198.51.100.1")
			s.Ports[0].NodePort = 30080
		}),
		slices: []model.EndpointSlice{slice("a", ready("10.244.1.5", "here"), ready("10.244.2.5", "there"))},
		want: `
http/TCP/IPv4
  NodePort 0.0.0.0:30080/TCP external-local affinity 1h0m0s
  ClusterIP 10.96.0.1:80/TCP affinity 1h0m0s
  ExternalIP 192.0.2.1:80/TCP external-local affinity 1h0m0s
  LoadBalancer 198.51.100.1:80/TCP external-local affinity 1h0m0s
  -> 10.244.1.5:8080 active here cluster local
  -> 10.244.2.5:8080 active cluster
`,
	}, {
		name:    "internal policy Local alone: no cluster set, for nobody may use it",
		service: webService(func(s *model.Service) { s.InternalLocal = true }),
		slices:  []model.EndpointSlice{slice("a", ready("10.244.1.5", "here"), ready("10.244.2.5", "there"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP internal-local external-local
  -> 10.244.1.5:8080 active here local
  -> 10.244.2.5:8080 draining
`,
	}, {
		name:    "external policy Local without anything external: no local set",
		service: webService(func(s *model.Service) { s.ExternalLocal = true }),
		slices:  []model.EndpointSlice{slice("a", ready("10.244.1.5", "here"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
`,
	}, {
		name:    "endpoints only elsewhere: the local set drops",
		service: webService(func(s *model.Service) { s.InternalLocal, s.Ports[0].NodePort = true, 30080 }),
		slices:  []model.EndpointSlice{slice("a", ready("10.244.2.5", "there"))},
		want: `
http/TCP/IPv4
  NodePort 0.0.0.0:30080/TCP
  ClusterIP 10.96.0.1:80/TCP internal-local external-local
  -> 10.244.2.5:8080 active cluster
  -> local drops
`,
	}, {
		name:    "no endpoints: the frontend stays, and refuses",
		service: webService(func(s *model.Service) { s.InternalLocal = true }),
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP internal-local external-local
`,
	}, {
		name:    "who is in no set keeps its flows",
		service: webService(nil),
		slices: []model.EndpointSlice{slice("a",
			ready("10.244.1.5", "here"), terminating("10.244.1.6", "here"), unready("10.244.1.7", "here"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.1.6:8080 draining here
  -> 10.244.1.7:8080 draining here
`,
	}, {
		name:    "UDP flows to who does not serve are not kept",
		service: webService(func(s *model.Service) { s.Ports[0].Protocol = model.UDP }),
		slices: []model.EndpointSlice{func() model.EndpointSlice {
			s := slice("a", ready("10.244.1.5", "here"), terminating("10.244.1.6", "here"), unready("10.244.1.7", "here"))
			s.Ports[0].Protocol = model.UDP
			return s
		}()},
		want: `
http/UDP/IPv4
  ClusterIP 10.96.0.1:80/UDP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.1.6:8080 draining here
`,
	}, {
		name:    "nothing ready: terminating endpoints",
		service: webService(nil),
		slices:  []model.EndpointSlice{slice("a", terminating("10.244.1.6", "here"), unready("10.244.1.7", "here"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.6:8080 terminating here cluster
  -> 10.244.1.7:8080 draining here
`,
	}, {
		name:    "the same address in two slices: not terminating wins, whatever the order",
		service: webService(nil),
		slices: []model.EndpointSlice{
			slice("c", terminating("10.244.1.5", "here")),
			slice("b", ready("10.244.1.5", "here")),
			slice("a", terminating("10.244.1.5", "here"), ready("10.244.1.6", "here")),
		},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.1.6:8080 active here cluster
`,
	}, {
		name: "dual stack: IPv4 first, whatever the Service says first; slices of the other family apart",
		service: webService(func(s *model.Service) {
			s.ClusterIPs = addrs("fd00::1", "10.96.0.1")
			s.ExternalIPs = addrs("2001:db8::1", "192.0.2.1")
			s.Ports[0].NodePort = 30080
		}),
		slices: []model.EndpointSlice{slice("a", ready("fd00:1::5", "here")), slice("b", ready("10.244.1.5", "here"))},
		want: `
http/TCP/IPv4
  NodePort 0.0.0.0:30080/TCP
  ClusterIP 10.96.0.1:80/TCP
  ExternalIP 192.0.2.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
http/TCP/IPv6
  NodePort [::]:30080/TCP
  ExternalIP [2001:db8::1]:80/TCP
  ClusterIP [fd00::1]:80/TCP
  -> [fd00:1::5]:8080 active here cluster
`,
	}, {
		name: "source ranges: by family, with the address itself where this node may pass; NodePorts have none",
		service: webService(func(s *model.Service) {
			s.ClusterIPs = addrs("10.96.0.1", "fd00::1")
			s.LoadBalancerIPs = addrs("198.51.100.1", "2001:db8::1")
			s.Ports[0].NodePort = 30080
			for _, p := range []string{"172.18.0.7/16", "10.0.0.0/8", "172.18.0.0/16", "2001:db8:f::/48"} {
				s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(p))
			}
		}),
		want: `
http/TCP/IPv4
  NodePort 0.0.0.0:30080/TCP
  ClusterIP 10.96.0.1:80/TCP
  LoadBalancer 198.51.100.1:80/TCP from [10.0.0.0/8 172.18.0.0/16 198.51.100.1/32]
http/TCP/IPv6
  NodePort [::]:30080/TCP
  LoadBalancer [2001:db8::1]:80/TCP from [2001:db8:f::/48]
  ClusterIP [fd00::1]:80/TCP
`,
	}, {
		name: "source ranges with a /0 are none",
		service: webService(func(s *model.Service) {
			s.LoadBalancerIPs = addrs("198.51.100.1")
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("0.0.0.0/0")}
		}),
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  LoadBalancer 198.51.100.1:80/TCP
`,
	}, {
		name: "an address of the load balancer that is an ExternalIP, too, is planned once",
		service: webService(func(s *model.Service) {
			s.LoadBalancerIPs, s.ExternalIPs = addrs("198.51.100.1"), addrs("198.51.100.1")
		}),
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  LoadBalancer 198.51.100.1:80/TCP
`,
	}, {
		name:   "unknown ports: the ClusterIPs as such",
		config: func(c *Config) { c.RefuseUnknownPorts = true },
		service: webService(func(s *model.Service) {
			s.ClusterIPs, s.ExternalIPs = addrs("10.96.0.1", "fd00::1"), addrs("192.0.2.1")
		}),
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  ExternalIP 192.0.2.1:80/TCP
http/TCP/IPv6
  ClusterIP [fd00::1]:80/TCP
address 10.96.0.1
address fd00::1
`,
	}, {
		name: "ports of one name or one number: the last of one name and protocol, the first of one number",
		service: webService(func(s *model.Service) {
			s.Ports = []model.ServicePort{
				{Name: "a", Protocol: model.TCP, Port: 80}, {Name: "a", Protocol: model.TCP, Port: 81},
				{Name: "a", Protocol: model.UDP, Port: 81}, {Name: "b", Protocol: model.TCP, Port: 81}, {Name: "c", Protocol: model.TCP},
			}
		}),
		want: `
a/TCP/IPv4
  ClusterIP 10.96.0.1:81/TCP
a/UDP/IPv4
  ClusterIP 10.96.0.1:81/UDP
`,
		problems: []string{
			`FrontendConflict: ClusterIP 10.96.0.1:81/TCP belongs to port "a" of the same Service`,
			`InvalidPort: port "a"/TCP is there twice, the last one counts`,
			`InvalidPort: port "c" has number 0`,
		},
	}, {
		name: "addresses that cannot be: refused one by one",
		service: webService(func(s *model.Service) {
			s.ExternalIPs = append(addrs("::ffff:127.0.0.1", "fe80::1%eth0", "192.0.2.1"), netip.Addr{})
		}),
		slices: []model.EndpointSlice{slice("a", ready("169.254.169.254", "here"), ready("fd00:1::5", "here"), ready("10.244.1.5", "here"))},
		want: `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  ExternalIP 192.0.2.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
`,
		problems: []string{
			"AddressRefused: ExternalIP 127.0.0.1 is a loopback address",
			"AddressRefused: ExternalIP invalid IP is not an address",
			"BackendRefused: endpoint 169.254.169.254 is a link-local address",
			"BackendRefused: endpoint fd00:1::5 is not IPv4 as its slice says",
		},
	}, {
		name:    "no ClusterIP: nothing",
		service: webService(func(s *model.Service) { s.ClusterIPs = nil }),
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			config := testConfig
			if test.config != nil {
				test.config(&config)
			}
			got, reported := Compile(config, testNode, test.service, test.slices)
			if diff := cmp.Diff(trim(test.want), text(got)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			var problems []string
			for _, problem := range reported {
				problems = append(problems, string(problem.Reason)+": "+problem.Message)
			}
			if diff := cmp.Diff(test.problems, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHealthCheckCountsAddressesOfReadyLocalEndpoints(t *testing.T) {
	service := webService(func(s *model.Service) {
		s.Type, s.ExternalLocal, s.HealthCheckNodePort = model.LoadBalancer, true, 32000
		s.ClusterIPs = addrs("10.96.0.1", "fd00::1")
	})
	metrics := slice("b", ready("10.244.1.5", "here"), ready("10.244.1.8", "here"))
	metrics.Ports = []model.EndpointPort{
		{Name: "metrics", Protocol: model.TCP, Port: 9100}, {Name: "unused", Protocol: model.TCP, Port: 9101},
	}
	noPorts := slice("c", ready("10.244.1.9", "here"))
	noPorts.Ports = nil
	p := New(testConfig)
	p.SetNode(testNode)
	p.Update(webName, service, []model.EndpointSlice{
		slice("a", ready("10.244.1.5", "here"), ready("10.244.1.6", "here"), ready("10.244.2.5", "there"),
			terminating("10.244.1.7", "here"), unready("10.244.1.4", "here"), ready("127.0.0.1", "here")),
		metrics, noPorts,
	})
	got, _ := p.Service(webName)
	want := []HealthCheck{{model.IPv4, 32000, 3}, {model.IPv6, 32000, 0}}
	if diff := cmp.Diff(want, got.Health); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsOfOneServiceAreBounded(t *testing.T) {
	var endpoints []model.Endpoint
	for i := range 1000 {
		endpoints = append(endpoints, ready(addr4(0x7f000000, i).String(), "here"))
	}
	_, problems := Compile(testConfig, testNode, webService(nil), []model.EndpointSlice{slice("a", endpoints...)})
	if n := len(problems); n != maxProblems+1 || !strings.HasSuffix(problems[n-1].Message, "(and 979 more problems)") {
		t.Errorf("%d problems, the last: %s", n, problems[n-1].Message)
	}
}

func TestLoserTakesOverWhenTheWinnerGoes(t *testing.T) {
	named := func(name, clusterIP string, created int64) *model.Service {
		return webService(func(s *model.Service) {
			s.Name.Name, s.ClusterIPs, s.ExternalIPs = name, addrs(clusterIP), addrs("192.0.2.1")
			s.Created = time.Unix(created, 0)
		})
	}
	old, young := named("old", "10.96.0.1", 1), named("young", "10.96.0.2", 2)
	has := func(p *Planner, name model.Name) bool {
		s, _ := p.Service(name)
		return strings.Contains(text(s), "192.0.2.1:80")
	}
	p := New(testConfig)
	if got := changedNames(p.Update(young.Name, young, nil)); got != "young" || !has(p, young.Name) {
		t.Fatalf("alone: %s changed", got)
	}
	if got := changedNames(p.Update(old.Name, old, nil)); got != "old young" || !has(p, old.Name) || has(p, young.Name) {
		t.Fatalf("with the older one: %s changed", got)
	}
	want := []Problem{{young.Name, FrontendConflict, "ExternalIP 192.0.2.1:80/TCP belongs to Service ns/old"}}
	if diff := cmp.Diff(want, p.Problems()); diff != "" {
		t.Fatal(diff)
	}
	if got := changedNames(p.Update(old.Name, nil, nil)); got != "old young" || !has(p, young.Name) {
		t.Fatalf("without the older one: %s changed", got)
	}
	if got := p.Problems(); len(got) != 0 {
		t.Fatal(got)
	}
}

func TestFrontendThatYieldsSetsOthersFree(t *testing.T) {
	shared := ready("172.18.0.3", "there")
	user := webService(func(s *model.Service) { s.Name.Name = "user" })
	front := webService(func(s *model.Service) {
		s.Type, s.ClusterIPs, s.LoadBalancerIPs, s.Ports[0].Port = model.LoadBalancer, addrs("10.96.0.2"), addrs("172.18.0.3"), 8080
	})
	p := New(testConfig)
	p.Update(front.Name, front, nil)
	p.Update(user.Name, user, []model.EndpointSlice{slice("u", shared)})
	want := []Problem{{user.Name, BackendIsFrontend, "endpoint 172.18.0.3:8080/TCP is a frontend of Service ns/web"}}
	if diff := cmp.Diff(want, p.Problems()); diff != "" {
		t.Fatal(diff)
	}
	// The endpoint turns out to be that Service's own, too.
	changed := p.Update(front.Name, front, []model.EndpointSlice{slice("w", shared)})
	if got := changedNames(changed); got != "user web" || len(changed[0].Ports[0].Cluster.Members) != 1 {
		t.Fatalf("%q changed:\n%s", got, text(changed[0]))
	}
	want = []Problem{{front.Name, FrontendIsBackend, "LoadBalancer 172.18.0.3:8080/TCP is an endpoint of the Service itself and reached directly"}}
	if diff := cmp.Diff(want, p.Problems()); diff != "" {
		t.Fatal(diff)
	}
}

// Whoever writes an ExternalIP at the endpoints of others, takes none away.
func TestExternalIPYieldsToEndpointsAsTheyComeAndGo(t *testing.T) {
	victim := webService(func(s *model.Service) { s.Name.Name = "victim" })
	another := webService(func(s *model.Service) { s.Name.Name, s.ClusterIPs = "another", addrs("10.96.0.3") })
	thief := webService(func(s *model.Service) {
		s.Name.Name, s.ClusterIPs, s.ExternalIPs, s.Ports[0].Port = "thief", addrs("10.96.0.2"), addrs("10.244.1.5"), 8080
	})
	endpoints := []model.EndpointSlice{slice("v", ready("10.244.1.5", "here"))}
	p := New(testConfig)
	for _, step := range []struct {
		name    string
		update  func() []Service
		changed string
		problem string
	}{
		{"the ExternalIP is there first", func() []Service { return p.Update(thief.Name, thief, nil) }, "thief", ""},
		{"the endpoint comes", func() []Service { return p.Update(victim.Name, victim, endpoints) }, "thief victim", "victim"},
		{"so does another user of it", func() []Service { return p.Update(another.Name, another, endpoints) }, "another", "another"},
		{"one user goes", func() []Service { return p.Update(another.Name, nil, nil) }, "another", "victim"},
		{"the endpoint goes", func() []Service { return p.Update(victim.Name, victim, nil) }, "thief victim", ""},
	} {
		if got := changedNames(step.update()); got != step.changed {
			t.Errorf("%s: %q changed, want %q", step.name, got, step.changed)
		}
		var want []Problem
		if step.problem != "" {
			want = []Problem{{thief.Name, FrontendIsBackend, "ExternalIP 10.244.1.5:8080/TCP is an endpoint of Service ns/" + step.problem}}
		}
		if diff := cmp.Diff(want, p.Problems(), byValue); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", step.name, diff)
		}
		if s, ok := p.Service(victim.Name); ok && p.services[victim.Name].slices != nil && len(s.Ports[0].Cluster.Members) != 1 {
			t.Errorf("%s: the victim has lost its endpoint", step.name)
		}
	}
}

func changedNames(changed []Service) string {
	var names []string
	for _, s := range changed {
		names = append(names, s.Name.Name)
	}
	return strings.Join(names, " ")
}

func TestNodeChangesWhatIsLocalAndNear(t *testing.T) {
	p := New(Config{})
	hinted := []model.Endpoint{ready("10.244.1.5", "one"), ready("10.244.2.5", "two")}
	hinted[0].ForZones, hinted[1].ForZones = []string{"z1"}, []string{"z2"}
	p.Update(webName, webService(nil), []model.EndpointSlice{slice("a", hinted...)})
	for _, step := range []struct {
		node          model.Node
		changed, want string
	}{
		{model.Node{Name: "one"}, "web", `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.2.5:8080 active cluster
`},
		{model.Node{Name: "one", Draining: true, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}, "", `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 active here cluster
  -> 10.244.2.5:8080 active cluster
`},
		{model.Node{Name: "one", Zone: "z2"}, "web", `
http/TCP/IPv4
  ClusterIP 10.96.0.1:80/TCP
  -> 10.244.1.5:8080 draining here
  -> 10.244.2.5:8080 active cluster
`},
	} {
		if got := changedNames(p.SetNode(step.node)); got != step.changed {
			t.Errorf("%+v: %q changed", step.node, got)
		}
		s, _ := p.Service(webName)
		if diff := cmp.Diff(trim(step.want), text(s)); diff != "" {
			t.Errorf("%+v:\n%s", step.node, diff)
		}
	}
}

func TestNodeAddressesDecideWhoMayLoopBack(t *testing.T) {
	p := New(testConfig)
	service := webService(func(s *model.Service) {
		s.LoadBalancerIPs = addrs("198.51.100.1")
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("172.18.0.0/16")}
	})
	p.Update(webName, service, nil)
	if got := changedNames(p.SetNode(testNode)); got != "web" {
		t.Errorf("%q changed", got)
	}
}

func TestNodePortMatcher(t *testing.T) {
	tests := []struct {
		values []string
		match  string // those of the addresses below that match
	}{
		{nil, "172.18.0.2 192.168.7.2 fd00:18::2 2001:db8::2"},
		{[]string{"all"}, "172.18.0.2 192.168.7.2 fd00:18::2 2001:db8::2"},
		{[]string{"primary"}, "172.18.0.2 fd00:18::2"},
		{[]string{"localhost"}, ""},
		{[]string{"192.168.0.0/16"}, "192.168.7.2 fd00:18::2 2001:db8::2"},
		{[]string{"192.168.7.9/16", "2001:db8::/32"}, "192.168.7.2 2001:db8::2"},
		{[]string{"primary", "192.168.0.0/16"}, "172.18.0.2 192.168.7.2 fd00:18::2"},
		{[]string{"10.0.0.0/8", "::/0"}, "fd00:18::2 2001:db8::2"},
	}
	for _, test := range tests {
		parsed, err := ParseNodePortAddresses(test.values)
		if err != nil {
			t.Fatal(err)
		}
		m := Config{NodePortAddresses: parsed}.NodePortMatcher(testNode)
		var match []string
		for _, a := range addrs("172.18.0.2", "192.168.7.2", "fd00:18::2", "2001:db8::2", "127.0.0.1", "::1") {
			if m.Match(a) {
				match = append(match, a.String())
			}
		}
		if got := strings.Join(match, " "); got != test.match {
			t.Errorf("%v match %q, want %q", test.values, got, test.match)
		}
	}
	if m := (Config{}).NodePortMatcher(model.Node{}); !m.MatchAll(model.IPv4) || !m.MatchAll(model.IPv6) {
		t.Error("the zero configuration does not match all")
	}
	if m := (Config{NodePortAddresses: NodePortAddresses{Primary: true}}).NodePortMatcher(testNode); m.MatchAll(model.IPv4) {
		t.Error("primary matches all")
	}
	if _, err := ParseNodePortAddresses([]string{"secondary"}); err == nil || !strings.Contains(err.Error(), `"secondary"`) {
		t.Errorf("error %v does not name the value", err)
	}
}

func TestTargetsWithSeveralUsers(t *testing.T) {
	key := FrontendKey{netip.MustParseAddr("10.244.1.5"), 80, model.TCP}
	entries := []*entry{{}, {}, {}}
	for gone := range entries {
		index := newTargets()
		for _, e := range entries {
			index.add(key, e)
		}
		index.remove(key, entries[gone])
		var users []*entry
		index.users(key, func(e *entry) { users = append(users, e) })
		if len(users) != 2 || users[0] == users[1] || users[0] == entries[gone] || users[1] == entries[gone] {
			t.Errorf("without %d: %d users", gone, len(users))
		}
		for _, e := range users {
			index.remove(key, e)
		}
		if len(index.first)+len(index.more) != 0 {
			t.Errorf("without %d: something is left", gone)
		}
	}
}

// TestPlansAsSeesEveryField: a new field of Config is taken for one that plans
// depend on.
func TestPlansAsSeesEveryField(t *testing.T) {
	values := map[string]Config{
		"NodeName": {NodeName: "n"}, "BindAddress": {BindAddress: netip.MustParseAddr("192.0.2.1")},
		"AllowExternalIPs": {AllowExternalIPs: true}, "RefuseUnknownPorts": {RefuseUnknownPorts: true},
		"ServiceCIDRs":      {ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}},
		"NodePortAddresses": {NodePortAddresses: NodePortAddresses{Primary: true}},
		"MasqueradeAll":     {MasqueradeAll: true}, "DetectLocal": {DetectLocal: DetectLocal{Mode: DetectNodeCIDR}},
		"Strict": {Strict: Strict{Protected: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
		"Leave":  {Leave: []netip.Prefix{netip.MustParsePrefix("10.96.0.10/32")}},
	}
	packetsOnly := []string{"ServiceCIDRs", "MasqueradeAll", "DetectLocal"}
	for i := range reflect.TypeFor[Config]().NumField() {
		name := reflect.TypeFor[Config]().Field(i).Name
		c, ok := values[name]
		if !ok {
			t.Fatalf("give %s a value here", name)
		}
		if got, want := c.plansAs(Config{}), slices.Contains(packetsOnly, name); got != want {
			t.Errorf("%s: plans as before: %v", name, got)
		}
		p := New(Config{})
		if p.SetConfig(c); !reflect.DeepEqual(p.Config(), c) {
			t.Errorf("%s: %+v is in force", name, p.Config())
		}
	}
}
