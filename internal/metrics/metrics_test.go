// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"errors"
	"flag"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/beeline-net/beeline/internal/model"
)

var update = flag.Bool("update", false, "write the reference page")

func TestReferencePage(t *testing.T) {
	const page = "../../docs/reference/metrics.md"
	if *update {
		if err := os.WriteFile(page, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), Reference()); diff != "" {
		t.Errorf("%s is out of date; run go generate ./internal/metrics (-committed +generated):\n%s", page, diff)
	}
}

// scrape returns the samples under a prefix, without histogram buckets.
func scrape(t *testing.T, h http.Handler, prefix string) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	samples := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		sample, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(sample, prefix) && !strings.Contains(sample, "_bucket{") {
			samples[sample] = value
		}
	}
	return samples
}

func handler(reg *prometheus.Registry) http.Handler {
	return Handler(reg, slog.New(slog.DiscardHandler))
}

func TestKubeProxyMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg, Build{}, Reads{})
	m.Sync(model.IPv4, true, time.Unix(1000, 5e8), 2*time.Second)
	m.Sync(model.IPv4, false, time.Unix(2000, 0), time.Second)
	m.Queued(model.IPv6, time.Unix(3000, 0))
	m.Programmed(model.IPv6, 3*time.Second)
	m.Changed(4, 5)
	m.SetWaiting(6, 7)
	m.SetNoLocalEndpoints(External, model.IPv4, 8)
	m.SetNoLocalEndpoints(Internal, model.IPv6, 9)
	m.Healthz(200)
	m.Healthz(503)
	m.Healthz(503)
	m.Livez(200)
	want := map[string]string{}
	for _, h := range []struct {
		name       string
		sum4, sum6 string
		n4, n6     string
	}{
		{"sync_proxy_rules_duration_seconds", "3", "0", "2", "0"},
		{"sync_full_proxy_rules_duration_seconds", "2", "0", "1", "0"},
		{"sync_partial_proxy_rules_duration_seconds", "1", "0", "1", "0"},
		{"network_programming_duration_seconds", "0", "3", "0", "1"},
	} {
		want["kubeproxy_"+h.name+`_sum{ip_family="IPv4"}`] = h.sum4
		want["kubeproxy_"+h.name+`_sum{ip_family="IPv6"}`] = h.sum6
		want["kubeproxy_"+h.name+`_count{ip_family="IPv4"}`] = h.n4
		want["kubeproxy_"+h.name+`_count{ip_family="IPv6"}`] = h.n6
	}
	maps.Copy(want, map[string]string{
		`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`:                             "2000",
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"}`:                      "3000",
		`kubeproxy_sync_proxy_rules_service_changes_total`:                                                "4",
		`kubeproxy_sync_proxy_rules_endpoint_changes_total`:                                               "5",
		`kubeproxy_sync_proxy_rules_service_changes_pending`:                                              "6",
		`kubeproxy_sync_proxy_rules_endpoint_changes_pending`:                                             "7",
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"}`: "8",
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="internal"}`: "9",
		`kubeproxy_proxy_healthz_total{code="200"}`:                                                       "1",
		`kubeproxy_proxy_healthz_total{code="503"}`:                                                       "2",
		`kubeproxy_proxy_livez_total{code="200"}`:                                                         "1",
	})
	if diff := cmp.Diff(want, scrape(t, handler(reg), "kubeproxy_")); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestOwnMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := New(reg, Build{"v1", "abc", "go1.26"}, Reads{
		Events: func() (map[string]uint64, error) { return map[string]uint64{"no_backend": 3, "unknown_port": 0}, nil },
		Checks: func() map[string]bool { return map[string]bool{"programs": true, "self-test": false} },
	})
	m.SetMap("frontends", 10, 100)
	m.Wrote(1, 2, 3, 4)
	m.Wrote(1, 2, 3, 4)
	m.WriteFailed(5)
	m.SetFailing(6)
	m.EndedSockets(8, 10)
	m.RestoredDevices(11)
	m.SetHeld(12)
	m.SetSourceProblems(7)
	m.SetRefusals(map[string]int{"FrontendConflict": 1, "AddressRefused": 1})
	m.SetRefusals(map[string]int{"FrontendConflict": 0, "AddressRefused": 8})
	m.SetSynced(true)
	m.Restored("backends", 9)
	m.InStep(1500 * time.Millisecond)
	m.SetConfigRejected(true)
	m.SetNeedsRestart(2)
	want := map[string]string{
		`beeline_build_info{commit="abc",goversion="go1.26",version="v1"}`: "1",
		`beeline_check_passing{check="programs"}`:                          "1",
		`beeline_check_passing{check="self-test"}`:                         "0",
		`beeline_services_held`:                                            "12",
		`beeline_devices_restored_total`:                                   "11",
		`beeline_config_needs_restart`:                                     "2",
		`beeline_config_rejected`:                                          "1",
		`beeline_datapath_events_total{event="no_backend"}`:                "3",
		`beeline_datapath_events_total{event="unknown_port"}`:              "0",
		`beeline_map_capacity{map="frontends"}`:                            "100",
		`beeline_map_entries{map="frontends"}`:                             "10",
		`beeline_map_syscalls_total`:                                       "8",
		`beeline_map_drift_total`:                                          "0",
		`beeline_map_write_failures_total`:                                 "5",
		`beeline_map_writes_total{op="delete"}`:                            "4",
		`beeline_map_writes_total{op="put"}`:                               "2",
		`beeline_map_writes_total{op="store"}`:                             "6",
		`beeline_refusals{reason="AddressRefused"}`:                        "8",
		`beeline_refusals{reason="FrontendConflict"}`:                      "0",
		`beeline_restored_entries{map="backends"}`:                         "9",
		`beeline_services_failing`:                                         "6",
		`beeline_source_problems`:                                          "7",
		`beeline_sockets_terminated_total`:                                 "8",
		`beeline_sockets_not_terminated`:                                   "10",
		`beeline_sources_synced`:                                           "1",
		`beeline_start_duration_seconds`:                                   "1.5",
	}
	if diff := cmp.Diff(want, scrape(t, handler(reg), "beeline_")); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
	if len(scrape(t, handler(reg), "go_goroutines")) != 1 || len(scrape(t, handler(reg), "process_resident_memory_bytes")) != 1 {
		t.Error("there is nothing about the process")
	}
}

func TestBuckets(t *testing.T) {
	wantSync := []float64{.001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1.024, 2.048, 4.096, 8.192, 16.384}
	if diff := cmp.Diff(wantSync, syncBuckets()); diff != "" {
		t.Errorf("sync (-want +got):\n%s", diff)
	}
	wantProgramming := []float64{0.25, 0.5}
	for s := 1.0; s < 60; s++ {
		wantProgramming = append(wantProgramming, s)
	}
	for s := 60.0; s < 120; s += 5 {
		wantProgramming = append(wantProgramming, s)
	}
	for s := 120.0; s <= 300; s += 30 {
		wantProgramming = append(wantProgramming, s)
	}
	if diff := cmp.Diff(wantProgramming, programmingBuckets()); diff != "" {
		t.Errorf("network programming (-want +got):\n%s", diff)
	}
}

func TestAMetricThatCannotBeReadHidesNoOther(t *testing.T) {
	reg := prometheus.NewRegistry()
	New(reg, Build{}, Reads{Events: func() (map[string]uint64, error) { return nil, errors.New("read counters: gone") }})
	var log bytes.Buffer
	samples := scrape(t, Handler(reg, slog.New(slog.NewTextHandler(&log, nil))), "beeline_")
	if samples["beeline_sources_synced"] != "0" {
		t.Error("other metrics are missing")
	}
	if !strings.Contains(log.String(), "read counters: gone") {
		t.Errorf("the log does not say why: %s", log.String())
	}
}

func TestRegistriesAreApart(t *testing.T) {
	first, second := prometheus.NewRegistry(), prometheus.NewRegistry()
	New(first, Build{}, Reads{}).SetFailing(3)
	New(second, Build{}, Reads{})
	if got := scrape(t, handler(second), "beeline_services_failing")["beeline_services_failing"]; got != "0" {
		t.Errorf("the other agent's value is %s", got)
	}
}

// TestNamesFollowTheRules: prefix, base units, and _total for counters only,
// but for the name that kube-proxy got wrong.
func TestNamesFollowTheRules(t *testing.T) {
	_, all := describe(prometheus.NewRegistry(), Build{}, Reads{})
	var wrong []string
	for _, d := range all {
		counter := d.kind == "counter"
		switch {
		case !strings.HasPrefix(d.name, "beeline_") && !strings.HasPrefix(d.name, "kubeproxy_"),
			counter != strings.HasSuffix(d.name, "_total"),
			!strings.HasSuffix(d.help, "."):
			wrong = append(wrong, d.name)
		}
	}
	want := []string{"kubeproxy_sync_proxy_rules_no_local_endpoints_total"}
	if diff := cmp.Diff(want, wrong); diff != "" {
		t.Error(diff)
	}
	if !slices.IsSortedFunc(all, func(a, b description) int {
		order := []string{groupKubeProxy, groupKernel, groupServices, groupAgent}
		return slices.Index(order, a.group) - slices.Index(order, b.group)
	}) {
		t.Error("sections of the page are torn apart")
	}
}
