// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"testing"

	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

func TestQuantileIsTheNearestRank(t *testing.T) {
	values := []int64{50, 10, 40, 20, 30}
	for q, want := range map[float64]int64{0: 10, 0.2: 10, 0.5: 30, 0.8: 40, 0.81: 50, 0.99: 50, 1: 50} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	if values[0] != 50 {
		t.Error("the values were sorted in place")
	}
	if got := quantile([]float64{}, 0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// The ratio is the median of the rounds' ratios: a round that something else
// disturbed does not move it, whichever side it hit.
func TestComparePathTakesRatiosWithinRounds(t *testing.T) {
	direct := &load.Result{Latencies: [][]int64{{100, 100, 100}, {900, 900, 900}, {200, 200, 200}}, Rates: []float64{1000, 10, 1000}}
	service := &load.Result{Latencies: [][]int64{{110, 110, 110}, {900, 900, 9000}, {220, 220, 220}}, Rates: []float64{900, 900, 900}, Errors: 2}
	p := comparePath(direct, service)
	if p.RatioP50 != 1.1 || p.RatioP99 != 1.1 || p.RatioRate != 0.9 {
		t.Errorf("ratios %v, %v, %v, want 1.1, 1.1, 0.9", p.RatioP50, p.RatioP99, p.RatioRate)
	}
	if p.Service.P50 != 0.22 || p.Service.P99 != 9 || p.Direct.Rate != 1000 {
		t.Errorf("service %+v, direct %+v", p.Service, p.Direct)
	}
	if p.Requests != 9 || p.Errors != 2 || p.DirectErrors != 0 {
		t.Errorf("%d requests, %d and %d errors", p.Requests, p.Errors, p.DirectErrors)
	}
}

func TestComparePathWithoutAnswers(t *testing.T) {
	p := comparePath(&load.Result{Latencies: [][]int64{{100}}}, &load.Result{Latencies: [][]int64{{}}, Errors: 5})
	if p.RatioP50 != 0 || p.Requests != 0 || p.Errors != 5 {
		t.Errorf("%+v, want no ratio and the errors", p)
	}
}
