// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

func TestReplaceKeepsWhatAPersonWrote(t *testing.T) {
	const page = "# Performance\n\nWords.\n"
	once := ClusterPart.Replace(page, "one\n")
	if !strings.HasPrefix(once, page) || !strings.Contains(once, "one") {
		t.Errorf("new section:\n%s", once)
	}
	twice := ClusterPart.Replace(once+"\nMore words.\n", "two\n")
	if strings.Contains(twice, "one") || !strings.Contains(twice, "two") || !strings.HasSuffix(twice, "\nMore words.\n") ||
		strings.Count(twice, "<!-- begin") != 1 {
		t.Errorf("again:\n%s", twice)
	}
	both := ControlPlanePart.Replace(twice, "three\n")
	if !strings.HasPrefix(both, twice) || !strings.Contains(both, "three") {
		t.Errorf("another part:\n%s", both)
	}
}

// The page shows the figures that are kept: `hack/cluster bench-page` writes it
// again where this fails.
func TestThePageShowsTheFigures(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []Part{ClusterPart, ControlPlanePart} {
		figures, err := os.ReadFile("../../figures/" + string(part) + ".json")
		if errors.Is(err, os.ErrNotExist) {
			continue // measured before figures were kept
		}
		if err != nil {
			t.Fatal(err)
		}
		section, err := part.Section(figures)
		if err != nil {
			t.Fatal(err)
		}
		if part.Replace(string(page), section) != string(page) {
			t.Errorf("docs/performance.md does not show the figures of make %s", part)
		}
	}
}

func TestSectionSaysWhatIsMissing(t *testing.T) {
	path := Path{
		Direct: Latency{100, 200, 9000}, Service: Latency{103, 210, 8800},
		RatioP50: 1.03, RatioP99: 1.05, RatioRate: 0.98, Requests: 10,
	}
	r := Report{
		Command: "make bench-cluster", Date: "2026-01-02",
		Options: Options{Services: []int{1, 10000}, Proxies: []cluster.Proxy{cluster.Beeline, cluster.KubeProxyIPTables}},
		Cells: []Cell{
			{
				Services: 1, Proxy: "beeline", ClusterIP: path, NodePort: path,
				Start: Start{First: time.Second, All: 1250 * time.Millisecond},
				Churn: Churn{Seen: []time.Duration{2 * time.Millisecond}, CPU: 0.015, Resident: 50 << 20, Peak: 60 << 20, Lost: 3},
			},
			{Services: 10000, Proxy: "kube-proxy-iptables", Failed: "start: too slow\nmore"},
		},
	}
	section := r.Section()
	for _, want := range []string{
		"| 1 | Beeline | 103 | 210 | 8800 | 100 | 200 | 9000 | **1.03** | 1.05 | 0.98 | 0 |\n",
		"| 1 | Beeline | 2.0 ms | 2.0 ms | 1 | 0.0 | 1.5 | 50 MiB | 60 MiB |\n",
		"| 1 | Beeline | 1.00 s | 1.25 s |\n",
		"- 10,000 Services, kube-proxy, iptables: start: too slow\n",
		"- 1 Services, Beeline: 3 times no connection",
		"- the run ended after 2 of 4 parts\n",
	} {
		if !strings.Contains(section, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(section, "| 10,000 |") {
		t.Error("a row for what was not measured")
	}
	if t.Failed() {
		t.Log(section)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{1: "1", 1000: "1,000", 10000: "10,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestParseEvent(t *testing.T) {
	for line, want := range map[string]event{
		"1000000001 server-a\n": {time.Unix(1, 1), "server-a"},
		"1000000001 ":           {time.Unix(1, 1), ""},
	} {
		if got, err := parseEvent(line); err != nil || !got.at.Equal(want.at) || got.name != want.name {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	if _, err := parseEvent("error: no such pod"); err == nil {
		t.Error("not a line of the client, but no error")
	}
}
