// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/health"
	"github.com/beeline-net/beeline/internal/metrics"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// ServiceCIDRs come from the cluster, the rest of the configuration from files;
// neither loses the other.
func TestServiceCIDRsReachThePlan(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here", RefuseUnknownPorts: true})
	cidr := func(n string, prefix string) model.ServiceCIDR {
		return model.ServiceCIDR{Name: model.Name{Name: n}, CIDRs: []netip.Prefix{netip.MustParsePrefix(prefix)}}
	}
	expect := func(when string, want ...string) {
		t.Helper()
		w.pass()
		var got []string
		for _, c := range w.loop.planner.Config().ServiceCIDRs {
			got = append(got, c.String())
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	w.store.SetServiceCIDR(cidr("kubernetes", "10.96.0.0/16"))
	w.synced()
	expect("from the start", "10.96.0.0/16")
	w.store.SetServiceCIDR(cidr("more", "10.97.0.0/16"))
	expect("a second", "10.96.0.0/16", "10.97.0.0/16")
	w.loop.configure(t.Context(), settings{plan: plan.Config{NodeName: "here", AllowExternalIPs: true}})
	expect("after a change of the configuration", "10.96.0.0/16", "10.97.0.0/16")
	if !w.loop.planner.Config().AllowExternalIPs {
		t.Error("the configuration is not in force")
	}
	w.store.DeleteServiceCIDR(model.Name{Name: "kubernetes"})
	expect("the first goes", "10.97.0.0/16")
	if !w.loop.planner.Config().AllowExternalIPs {
		t.Error("a change of ServiceCIDRs took the configuration back")
	}
}

// In strict mode nobody gets an API server's address, also not within an
// allowed range: that would catch the traffic of every node to it (pains D2).
func TestStrictModeProtectsAPIServers(t *testing.T) {
	everywhere := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	strict := plan.Config{NodeName: "here", AllowExternalIPs: true, Strict: plan.Strict{Enabled: true, ExternalIPs: everywhere}}
	w := newWorld(t, strict)
	w.loop.server = netip.MustParseAddr("192.0.2.9")
	kubernetes := func(addr string) model.EndpointSlice {
		s := slice("kubernetes", addr)
		s.Name, s.Service = model.Name{Namespace: "default", Name: "kubernetes"}, kubernetesService
		return s
	}
	granted := func(when string, want ...string) {
		t.Helper()
		w.pass()
		var got []string
		s, _ := w.loop.planner.Service(name("thief"))
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Kind == plan.ExternalIP {
					got = append(got, f.Addr.String())
				}
			}
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	w.store.SetService(service("thief", "10.0.0.1", external("192.0.2.1", "192.0.2.2", "192.0.2.9", "203.0.113.1", "172.18.0.2")))
	w.store.SetNode(model.Node{Name: "here", Addresses: addrs("172.18.0.2")})
	w.store.SetSlice(kubernetes("192.0.2.1"))
	w.synced()
	granted("the API server, the one in the kubeconfig and this node are left out", "192.0.2.2", "203.0.113.1")
	w.store.SetSlice(kubernetes("192.0.2.2"))
	granted("an API server moves", "192.0.2.1", "203.0.113.1")
	w.loop.configure(t.Context(), settings{plan: strict})
	granted("the same configuration again", "192.0.2.1", "203.0.113.1")
	strict.Strict.Enabled = false
	w.loop.configure(t.Context(), settings{plan: strict})
	granted("not strict: as kube-proxy", "172.18.0.2", "192.0.2.1", "192.0.2.2", "192.0.2.9", "203.0.113.1")
}

func TestHostAddr(t *testing.T) {
	for server, want := range map[string]netip.Addr{
		"https://192.0.2.1:6443":     netip.MustParseAddr("192.0.2.1"),
		"https://[2001:db8::1]:6443": netip.MustParseAddr("2001:db8::1"),
		"192.0.2.1:6443":             netip.MustParseAddr("192.0.2.1"),
		"192.0.2.1":                  netip.MustParseAddr("192.0.2.1"),
		"https://api.example:6443/x": {},
		"":                           {},
	} {
		if got := hostAddr(server); got != want {
			t.Errorf("%s: %v", server, got)
		}
	}
}

// Scrapes see a consistent picture while everything changes; run with -race.
func TestScrapesWhileTheWorldChanges(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here", AllowExternalIPs: true})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.loop.run(ctx) }()
	w.store.SetService(service("thief", "10.0.9.9", external("127.0.0.1")))
	for _, s := range []func(){
		func() { w.store.SetNode(model.Node{Name: "here"}) },
		func() { w.store.Synced(0); w.store.Synced(1); w.store.Synced(2) },
	} {
		s()
	}
	<-w.loop.inStep
	for deadline := time.Now().Add(5 * time.Second); w.scrape("beeline_refusals")[`beeline_refusals{reason="AddressRefused"}`] != "1"; {
		if time.Now().After(deadline) {
			t.Fatal("the refusal is not counted")
		}
	}
	names := len(w.scrape(""))
	for i := range 300 {
		n := fmt.Sprint("s", i%20)
		w.store.SetService(service(n, fmt.Sprintf("10.0.0.%d", i%20+1), external(fmt.Sprintf("192.0.2.%d", i%7))))
		w.store.SetSlice(slice(n, fmt.Sprintf("10.1.0.%d here", i%200+1)))
		if i%5 == 0 {
			w.store.DeleteService(name(fmt.Sprint("s", (i+7)%20)))
		}
		if i%10 != 0 {
			continue
		}
		if got := w.scrape("beeline_refusals")[`beeline_refusals{reason="AddressRefused"}`]; got != "1" {
			t.Fatalf("a refusal that lasts is %q in between", got)
		}
		w.loop.report.readiness.Report()
	}
	// One more name at most: of the reason FrontendConflict.
	if got := len(w.scrape("")); got > names+1 {
		t.Errorf("%d samples became %d: what grows with the number of Services?", names, got)
	}
	cancel()
	check(t, <-done)
}

func TestHalfAPictureTakesNothingAway(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here"})
	w.store.SetService(service("a", "10.0.0.1"))
	w.store.SetService(service("b", "10.0.0.2"))
	w.store.SetSlice(slice("b", "10.1.0.1 here"))
	w.pass()
	if got := w.content(); len(got) > 0 {
		t.Errorf("written before the sources have told anything: %v", got)
	}
	w.store.Read()
	w.pass()
	if got := w.content(); !slices.ContainsFunc(got, contains("ns/b:")) || slices.ContainsFunc(got, contains("ns/a:")) {
		t.Errorf("what could be read, and has endpoints, is not all there is: %v", got)
	}
	w.synced()
	if got := w.content(); !slices.ContainsFunc(got, contains("ns/a:")) {
		t.Errorf("in step, but %v", got)
	}
}

func contains(part string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, part) }
}

// A changed file may hold both kinds of settings: what needs a restart must not
// take effect by half. With another node's name, every local endpoint would be
// remote.
func TestOnlyLiveSettingsAreAdopted(t *testing.T) {
	start := config.Default()
	start.Node.Name = "here"
	registry := prometheus.NewRegistry()
	f := &front{
		o:         Options{Config: config.Loaded{Config: start}, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}},
		readiness: health.NewReadiness(time.Now, time.Minute, nil),
		metrics:   metrics.New(registry, metrics.Build{}, metrics.Reads{}),
	}
	f.config.Store(&start)
	needs := func() string { return scrape(registry, "beeline_config_needs_restart")["beeline_config_needs_restart"] }

	next := start
	next.Node.Name, next.Datapath.RefuseUnknownPorts = "elsewhere", !start.Datapath.RefuseUnknownPorts
	next.Claims.ExternalIPs, next.Sync.MinPeriod, next.Logging.Verbosity = false, time.Second, 4
	got := f.adopt(next)
	if got.plan.NodeName != "here" || got.plan.RefuseUnknownPorts != start.Datapath.RefuseUnknownPorts {
		t.Errorf("without a restart: %+v", got.plan)
	}
	if got.plan.AllowExternalIPs || got.minPeriod != time.Second || f.o.Level.Level() != slog.LevelDebug {
		t.Errorf("not live: %+v, level %v", got, f.o.Level.Level())
	}
	if needs() != "2" {
		t.Errorf("%s settings wait for a restart, want 2", needs())
	}
	next.Claims.ExternalIPs = true // a second change does not forget the first
	if got := f.adopt(next); !got.plan.AllowExternalIPs || got.plan.NodeName != "here" || needs() != "2" {
		t.Errorf("after another change: %+v, %s wait for a restart", got.plan, needs())
	}
	if f.adopt(start); needs() != "0" || !cmp.Equal(f.config.Load().YAML(), start.YAML()) {
		t.Errorf("changed back: %s wait for a restart", needs())
	}
}
