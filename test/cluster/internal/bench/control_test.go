// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

func TestControlSectionSaysWhatIsMissing(t *testing.T) {
	r := ControlReport{
		Command: "make bench-control-plane", Date: "2026-01-02", Load: "0.30", CPUs: 2,
		Options: ControlOptions{
			Services: []int{1, 10000}, Endpoints: 10, CellBudget: 4 * time.Minute,
			Proxies: []cluster.Proxy{cluster.Beeline, cluster.KubeProxyIPTables},
		},
		Cells: []ControlCell{
			{
				Services: 1, Proxy: "beeline", Load: "0.30",
				Start: ControlStart{
					Start: Start{First: 300 * time.Millisecond, All: 310 * time.Millisecond}, Probed: 4,
					CPU: 250 * time.Millisecond, FullSync: 120 * time.Millisecond, Resident: 50 << 20, Peak: 60 << 20,
				},
				Before: []ControlStart{ // the medians are those above
					{Start: Start{First: time.Second, All: time.Second}, CPU: time.Second, FullSync: time.Second, Resident: 90 << 20, Peak: 90 << 20},
					{Start: Start{First: 1, All: 1}, CPU: 1, FullSync: 1, Resident: 1, Peak: 1},
				},
				Churn: Churn{Seen: []time.Duration{2 * time.Millisecond, 3 * time.Millisecond}, CPU: 0.015, Resident: 50 << 20, Peak: 60 << 20},
			},
			{
				Services: 10000, Proxy: "kube-proxy-iptables", Load: "1.20", Failed: "start: 3 of 100 Services answered\nmore",
				Start: ControlStart{Start: Start{First: time.Second, All: 2 * time.Second}, Probed: 3},
			},
		},
	}
	section := r.Section()
	for _, want := range []string{
		"| 1 | Beeline | 0.30 s | 0.31 s | 0.25 s | 0.12 s | 50 MiB | 60 MiB | 0.30 |\n",
		"| 10,000 | kube-proxy, iptables | 1.00 s | not in 4m0s |",
		"| 1 | Beeline | 2.0 ms | 3.0 ms | 2 | 0.0 | 1.5 | 50 MiB | 60 MiB |\n",
		"- 10,000 Services, kube-proxy, iptables: start: 3 of 100 Services answered\n",
		"- the run ended after 2 of 4 parts\n",
	} {
		if !strings.Contains(section, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(section, "busy") {
		t.Error("an idle machine is called busy")
	}
	if t.Failed() {
		t.Log(section)
	}
}

// A run on a machine that had other work says so, and so does one of which that
// is not known.
func TestARunUnderLoadSaysSo(t *testing.T) {
	for load, warns := range map[string]bool{"0.10": false, "0.99": false, "1.00": true, "17.50": true, "unknown": true} {
		if got := warnBusy(load, 2); (got != "") != warns || warns && !strings.Contains(got, load) {
			t.Errorf("load %s: %q", load, got)
		}
	}
}

func TestParseFullSync(t *testing.T) {
	const text = `# HELP kubeproxy_sync_full_proxy_rules_duration_seconds ...
kubeproxy_sync_full_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.001"} 0
kubeproxy_sync_full_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 0.5
kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 2
kubeproxy_sync_full_proxy_rules_duration_seconds_sum{ip_family="IPv6"} 7
kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"} 1
kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} 9
`
	if got, err := parseFullSync(strings.NewReader(text)); err != nil || got != 250*time.Millisecond {
		t.Errorf("%v, %v, want 250ms", got, err)
	}
	for name, text := range map[string]string{
		"nothing":     "",
		"no pass yet": `kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 0`,
		"no number":   `kubeproxy_sync_full_proxy_rules_duration_seconds_sum{ip_family="IPv4"} x`,
	} {
		if got, err := parseFullSync(strings.NewReader(text)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Every Service has an address and endpoints of its own, also at the largest
// size, and the sample is spread over all of them.
func TestObjectsDoNotOverlap(t *testing.T) {
	const services, endpoints = 1000, 10
	o, err := newObjects(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.api.Stop)
	o.grow(services)
	seen := map[string]string{}
	for name, vip := range o.vips {
		if other, taken := seen[vip.String()]; taken {
			t.Errorf("%s and %s have address %v", name, other, vip)
		}
		seen[vip.String()] = name
	}
	if len(o.vips) != services || !serviceRange.Contains(nth(serviceRange, 256+30000)) ||
		!endpointRange.Contains(nth(endpointRange, 256+30000*100)) {
		t.Errorf("%d Services, want %d, and room for 30,000 with 100 endpoints", len(o.vips), services)
	}
	sample := o.sample()
	names, latest := map[string]bool{}, 0
	for _, target := range sample {
		names[target.Name] = true
		if n, err := strconv.Atoi(target.Name[1:]); err == nil {
			latest = max(latest, n)
		}
		if target.Addr.Addr() != o.vips[target.Name] || !target.Addr.IsValid() {
			t.Errorf("%v", target)
		}
	}
	if len(names) != probed || latest < o.fillers*9/10 {
		t.Errorf("%d different Services in a sample of %d, the latest filler is %d", len(names), len(sample), latest)
	}
	if args := o.agentArgs(); args != nil {
		t.Errorf("arguments for a cluster that fits: %v", args)
	}
	o.endpoints = 400
	if args := o.agentArgs(); !slices.Equal(args, []string{"--max-backends=524288", "--max-slots=1048576"}) {
		t.Errorf("arguments for 401,000 backends: %v", args)
	}
}
