// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/health"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

func external(ips ...string) func(*model.Service) {
	return func(s *model.Service) { s.ExternalIPs = addrs(ips...) }
}

// Each refusal is an Event once while it lasts, and a number in the metrics.
func TestRefusalsAreToldOnceWhileTheyLast(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here", AllowExternalIPs: true})
	expect := func(when string, events []string, refusals map[string]string) {
		t.Helper()
		w.pass()
		if diff := cmp.Diff(events, w.told(), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: Events (-want +got):\n%s", when, diff)
		}
		if diff := cmp.Diff(refusals, w.scrape("beeline_refusals"), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: metrics (-want +got):\n%s", when, diff)
		}
	}
	refused, conflict := `beeline_refusals{reason="AddressRefused"}`, `beeline_refusals{reason="FrontendConflict"}`
	lost := "ns/b FrontendConflict: ExternalIP 192.0.2.1:80/TCP belongs to Service ns/a"

	w.store.SetService(service("a", "10.0.0.1", external("192.0.2.1")))
	w.synced()
	expect("nothing to refuse", nil, nil)
	w.store.SetService(service("b", "10.0.0.2", external("192.0.2.1", "127.0.0.1")))
	expect("two refusals", []string{"ns/b AddressRefused: ExternalIP 127.0.0.1 is a loopback address", lost},
		map[string]string{refused: "1", conflict: "1"})
	w.store.SetSlice(slice("b", "10.1.0.1 here"))
	expect("an unrelated change", nil, map[string]string{refused: "1", conflict: "1"})
	w.store.SetService(service("b", "10.0.0.2", external("192.0.2.1")))
	expect("one is mended", nil, map[string]string{refused: "0", conflict: "1"})
	w.store.DeleteService(name("a"))
	expect("the winner goes", nil, map[string]string{refused: "0", conflict: "0"})
	w.store.SetService(service("a", "10.0.0.1", external("192.0.2.1")))
	expect("the winner comes back", []string{lost}, map[string]string{refused: "0", conflict: "1"})
	w.store.DeleteService(name("b"))
	expect("the loser goes", nil, map[string]string{refused: "0", conflict: "0"})
}

func TestPortsWithoutLocalEndpointsAreCounted(t *testing.T) {
	const metric = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
	w := newWorld(t, plan.Config{NodeName: "here"})
	expect := func(when string, internal, external string) {
		t.Helper()
		w.pass()
		want := map[string]string{
			metric + `{ip_family="IPv4",traffic_policy="internal"}`: internal,
			metric + `{ip_family="IPv4",traffic_policy="external"}`: external,
			metric + `{ip_family="IPv6",traffic_policy="internal"}`: "0",
			metric + `{ip_family="IPv6",traffic_policy="external"}`: "0",
		}
		if diff := cmp.Diff(want, w.scrape(metric)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	local := func(internal, external bool) func(*model.Service) {
		return func(s *model.Service) {
			s.Type, s.InternalLocal, s.ExternalLocal = model.NodePort, internal, external
			s.Ports[0].NodePort = 30080
			s.Ports = append(s.Ports, model.ServicePort{Name: "alt", Protocol: model.TCP, Port: 81, NodePort: 30081})
		}
	}
	both := func(endpoints ...string) model.EndpointSlice {
		s := slice("a", endpoints...)
		s.Ports = append(s.Ports, model.EndpointPort{Name: "alt", Protocol: model.TCP, Port: 8081})
		return s
	}
	w.store.SetService(service("a", "10.0.0.1", local(true, true)))
	w.synced()
	expect("no endpoint anywhere is another matter", "0", "0")
	w.store.SetSlice(both("10.1.0.1 there"))
	expect("endpoints elsewhere: each port counts", "2", "2")
	w.store.SetSlice(slice("a", "10.1.0.1 there"))
	expect("of one port", "1", "1")
	w.store.SetService(service("a", "10.0.0.1", local(false, true)))
	expect("policy Local outside only", "0", "1")
	w.store.SetSlice(both("10.1.0.1 there", "10.1.0.2 here"))
	expect("one is here", "0", "0")
	w.store.SetSlice(both("10.1.0.1 there"))
	expect("and gone", "0", "2")
	w.store.DeleteService(name("a"))
	expect("the Service goes", "0", "0")
}

func healthCheck(port uint16) func(*model.Service) {
	return func(s *model.Service) {
		s.Type, s.ExternalLocal, s.HealthCheckNodePort = model.LoadBalancer, true, port
		s.LoadBalancerIPs = addrs("203.0.113.1")
	}
}

func TestHealthCheckPortsFollowServices(t *testing.T) {
	config := plan.Config{NodeName: "here", NodePortAddresses: plan.NodePortAddresses{
		Ranges: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, IPv4Loopback: true}}
	w := newWorld(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.loop.report.nodePorts.Run(ctx) }()
	defer func() { cancel(); check(t, <-done) }()

	port := freePort(t)
	expect := func(when string, at string, code int, weight string) {
		t.Helper()
		w.pass()
		want := fmt.Sprint(code, " ", weight)
		var got string
		for deadline := time.Now().Add(5 * time.Second); got != want && time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
			got = ask(fmt.Sprintf("http://%s:%d/", at, port))
		}
		if got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	w.store.SetNode(model.Node{Name: "here", Addresses: addrs("127.0.0.1")})
	w.store.SetService(service("web", "10.0.0.1", healthCheck(port)))
	w.synced()
	expect("no endpoints", "127.0.0.1", 503, "0")
	w.store.SetSlice(slice("web", "10.1.0.1 here", "10.1.0.2 here", "10.1.0.3 there"))
	expect("two here", "127.0.0.1", 200, "2")
	w.store.SetNode(model.Node{Name: "here", Addresses: addrs("127.0.0.2")})
	expect("the node's address changes", "127.0.0.2", 200, "2")
	if got := ask(fmt.Sprintf("http://127.0.0.1:%d/", port)); got != "refused" {
		t.Errorf("at the old address: %s", got)
	}
	gone := slice("web", "10.1.0.1 here")
	gone.Endpoints[0].Ready, gone.Endpoints[0].Terminating = false, true
	w.store.SetSlice(gone)
	expect("the last one terminates: it serves, and is not counted", "127.0.0.2", 503, "0")
	w.store.DeleteService(name("web"))
	w.pass()
	for deadline := time.Now().Add(5 * time.Second); ask(fmt.Sprintf("http://127.0.0.2:%d/", port)) != "refused"; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the port of a Service that is gone stays open")
		}
	}
}

// ask returns status and weight, or "refused".
func ask(url string) string {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get(url)
	if err != nil {
		return "refused"
	}
	defer func() { _ = r.Body.Close() }()
	_, _ = io.Copy(io.Discard, r.Body)
	return fmt.Sprint(r.StatusCode, " ", r.Header.Get("X-Load-Balancing-Endpoint-Weight"))
}

func freePort(t *testing.T) uint16 {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// No API server lets two Services have one health check port, but a folder has
// none: the outcome must not depend on the order of a map.
func TestOneOfTwoServicesHasAHealthCheckPort(t *testing.T) {
	for range 20 {
		w := newWorld(t, plan.Config{NodeName: "here"})
		w.store.SetService(service("b", "10.0.0.2", healthCheck(32000)))
		w.store.SetService(service("a", "10.0.0.1", healthCheck(32000), func(s *model.Service) { s.LoadBalancerIPs = addrs("203.0.113.2") }))
		w.store.SetSlice(slice("a", "10.1.0.1 here"))
		w.synced()
		w.store.SetSlice(slice("b", "10.1.0.1 here", "10.1.0.2 here"))
		w.pass()
		want := map[health.NodePort]health.Target{{Family: model.IPv4, Port: 32000}: {Service: name("a"), LocalEndpoints: 1}}
		if diff := cmp.Diff(want, w.loop.report.healthTargets()); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff([]string{"ns/b FailedToStartServiceHealthcheck: health check port 32000 belongs to Service ns/a"}, w.told()); diff != "" {
			t.Fatal(diff)
		}
		w.store.DeleteService(name("a"))
		w.pass()
		if got := w.loop.report.healthTargets()[health.NodePort{Family: model.IPv4, Port: 32000}]; got.Service != name("b") {
			t.Fatalf("then %v has it", got)
		}
	}
}

func TestHealthPortThatCannotBeOpenedIsAnEvent(t *testing.T) {
	w := newWorld(t, plan.Config{})
	noHealthPort("here", source{event: w.event})(health.Target{Service: name("web")}, health.NodePort{Family: model.IPv4, Port: 32000},
		fmt.Errorf("listen for health checks: address in use"))
	want := []string{`ns/web FailedToStartServiceHealthcheck: node here failed to start healthcheck "ns/web" on port 32000: listen for health checks: address in use`}
	if diff := cmp.Diff(want, w.told()); diff != "" {
		t.Error(diff)
	}
}

// Health checks are answered where NodePorts are served.
func TestHealthAddresses(t *testing.T) {
	node := model.Node{Name: "here", Addresses: addrs("192.0.2.1", "198.51.100.1", "2001:db8::1")}
	for _, tt := range []struct {
		name string
		on   plan.NodePortAddresses
		want []netip.Addr
	}{
		{"all", plan.NodePortAddresses{}, addrs("0.0.0.0", "::")},
		{"primary", plan.NodePortAddresses{Primary: true}, addrs("192.0.2.1", "2001:db8::1")},
		{"a range of one family leaves the other as it is", plan.NodePortAddresses{Ranges: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}, addrs("198.51.100.1", "::")},
		{"a range without an address", plan.NodePortAddresses{Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, addrs("::")},
	} {
		p := plan.New(plan.Config{NodePortAddresses: tt.on})
		p.SetNode(node)
		if diff := cmp.Diff(tt.want, healthAddresses(p), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestNodeThatDrainsIsNotEligible(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here"})
	eligible := func() bool { return w.loop.report.readiness.Report().NodeEligible }
	w.pass()
	if eligible() {
		t.Error("before anything is known")
	}
	w.store.SetNode(model.Node{Name: "here"})
	w.synced()
	if !eligible() {
		t.Error("a node like any other is not eligible")
	}
	w.store.SetNode(model.Node{Name: "here", Draining: true})
	w.pass()
	if eligible() {
		t.Error("a node that drains is eligible")
	}
}

// What an alert looks at moves with what happens.
func TestMetricsMove(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here"})
	w.store.SetService(service("a", "10.0.0.1"))
	w.synced()
	w.store.SetSlice(slice("a", "10.1.0.1 here"))
	caused := slice("a", "10.1.0.1 here", "10.1.0.2 here")
	caused.Trigger = time.Now()
	w.store.SetSlice(caused)
	w.pass()
	w.store.SetNode(model.Node{Name: "here", Zone: "z"})
	w.pass()
	samples := w.scrape("")
	for sample, want := range map[string]string{
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`:         "3",
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}`:    "2",
		`kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"}`: "1",
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}`:      "1",
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"}`:      "0",
		"kubeproxy_sync_proxy_rules_service_changes_total":                            "1",
		"kubeproxy_sync_proxy_rules_endpoint_changes_total":                           "2",
		"kubeproxy_sync_proxy_rules_service_changes_pending":                          "0",
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending":                         "0",
		"beeline_sources_synced":              "1",
		"beeline_services_failing":            "0",
		`beeline_map_entries{map="backends"}`: "3",
	} {
		if samples[sample] != want {
			t.Errorf("%s is %q, want %s", sample, samples[sample], want)
		}
	}
	if samples["beeline_start_duration_seconds"] == "0" {
		t.Error("the start took no time")
	}
}
