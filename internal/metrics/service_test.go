// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func traffic(name string, sockets uint64) ServiceTraffic {
	return ServiceTraffic{
		ServicePort: ServicePort{"default", name, "http", "TCP", "IPv4"},
		Sockets:     sockets, Flows: 1, ActiveSockets: 2, ActiveFlows: 3,
		Packets: [2]uint64{4, 5}, Bytes: [2]uint64{6, 7},
		Refusals: map[string]uint64{"no_backend": 8}, Endpoints: 9,
	}
}

func TestServicesHaveMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	New(reg, Build{}, Reads{ServiceLimit: 5, Services: func() ([]ServiceTraffic, error) { return []ServiceTraffic{traffic("web", 10)}, nil }})
	got := scrape(t, Handler(reg, slog.New(slog.DiscardHandler)), "beeline_service_")
	port := `ip_family="IPv4",namespace="default",%sport="http",protocol="TCP",%sservice="web"%s}`
	name := func(metric, before, between, after string) string {
		return "beeline_service_" + metric + "{" + before + fmt.Sprintf(port, between, "", after)
	}
	want := map[string]string{
		name("connections_total", "", `path="socket",`, ""):                                   "10",
		name("connections_total", "", `path="packet",`, ""):                                   "1",
		name("active_connections", "", `path="socket",`, ""):                                  "2",
		name("active_connections", "", `path="packet",`, ""):                                  "3",
		name("packets_total", `direction="request",`, "", ""):                                 "4",
		name("packets_total", `direction="reply",`, "", ""):                                   "5",
		name("bytes_total", `direction="request",`, "", ""):                                   "6",
		name("bytes_total", `direction="reply",`, "", ""):                                     "7",
		`beeline_service_refusals_total{` + fmt.Sprintf(port, "", `reason="no_backend",`, ""): "8",
		name("endpoints", "", "", ""):                                                         "9",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// However many Services there are, the series are bounded, nothing is lost from
// the sum, and who has a series keeps it.
func TestSeriesOfServicesAreBounded(t *testing.T) {
	s := &services{limit: 2, mine: map[ServicePort]bool{}}
	names := func(all []ServiceTraffic) (names []string, sum uint64) {
		for _, t := range all {
			names = append(names, t.Name)
			sum += t.Sockets
		}
		return names, sum
	}
	for _, c := range []struct {
		there []ServiceTraffic
		want  []string
		sum   uint64
	}{
		{[]ServiceTraffic{traffic("m", 1), traffic("n", 2)}, []string{"m", "n"}, 3},
		{[]ServiceTraffic{traffic("a", 4), traffic("m", 1), traffic("n", 2), traffic("z", 8)}, []string{"m", "n", "other"}, 15},
		{[]ServiceTraffic{traffic("a", 4), traffic("n", 2), traffic("z", 8)}, []string{"a", "n", "other"}, 14},
	} {
		got, sum := names(s.pick(c.there))
		if !cmp.Equal(got, c.want) || sum != c.sum {
			t.Errorf("picked %v with %d connections, want %v with %d", got, sum, c.want, c.sum)
		}
	}
}

func TestServiceMetricsAreOffAtLimitZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	New(reg, Build{}, Reads{Services: func() ([]ServiceTraffic, error) {
		t.Error("read although switched off")
		return nil, nil
	}})
	if got := scrape(t, Handler(reg, slog.New(slog.DiscardHandler)), "beeline_service_"); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
