// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"math"
	"slices"

	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// quantile returns the value that a share q of all is not above: the nearest
// rank, so that it is one that was measured. Of nothing it is the zero value.
func quantile[T cmp.Ordered](values []T, q float64) T {
	if len(values) == 0 {
		var none T
		return none
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// Path is what connections through a Service cost beside those straight to the
// pod, taken in turns.
type Path struct {
	// Direct and Service are latencies of all rounds, in microseconds.
	Direct, Service Latency
	// RatioP50 and RatioP99 are the medians of the rounds' ratios, Service to
	// direct; RatioRate is that of the rates, below 1 for slower.
	RatioP50, RatioP99, RatioRate float64
	// Requests is how many there were of each; Errors how many failed of the
	// Service's, DirectErrors of the others.
	Requests             int
	Errors, DirectErrors int64
}

// Latency is that of whole connections, in microseconds, and how many a second
// several clients make.
type Latency struct{ P50, P99, Rate float64 }

// comparePath sums up two targets that were measured in turns.
func comparePath(direct, service *load.Result) Path {
	p := Path{
		Direct: latencyOf(direct), Service: latencyOf(service),
		Errors: service.Errors, DirectErrors: direct.Errors,
	}
	var p50, p99, rate []float64
	for i := range min(len(direct.Latencies), len(service.Latencies)) {
		d, s := direct.Latencies[i], service.Latencies[i]
		p.Requests += len(s)
		if len(d) > 0 && len(s) > 0 {
			p50 = append(p50, float64(quantile(s, 0.5))/float64(quantile(d, 0.5)))
			p99 = append(p99, float64(quantile(s, 0.99))/float64(quantile(d, 0.99)))
		}
	}
	for i := range min(len(direct.Rates), len(service.Rates)) {
		if direct.Rates[i] > 0 {
			rate = append(rate, service.Rates[i]/direct.Rates[i])
		}
	}
	p.RatioP50, p.RatioP99, p.RatioRate = quantile(p50, 0.5), quantile(p99, 0.5), quantile(rate, 0.5)
	return p
}

func latencyOf(r *load.Result) Latency {
	all := slices.Concat(r.Latencies...)
	const microsecond = 1e3
	return Latency{
		P50: float64(quantile(all, 0.5)) / microsecond, P99: float64(quantile(all, 0.99)) / microsecond,
		Rate: quantile(r.Rates, 0.5),
	}
}
