// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Plan says what Measure does.
type Plan struct {
	Targets []Target
	// Rounds is how often every target has its turn.
	Rounds int
	// Requests is how many requests a turn has, one after the other.
	Requests int
	// Rate is for how long a turn then sends as much as Workers can.
	Rate time.Duration
	// Workers is how many requests run at once for the rate.
	Workers int
}

// Result is what was measured of a target, a turn at a time.
type Result struct {
	// Latencies are those of a turn's requests, in nanoseconds.
	Latencies [][]int64 `json:"latencies"`
	// Rates are requests a second.
	Rates []float64 `json:"rates"`
	// Errors is how many requests failed; they are in neither.
	Errors int64 `json:"errors"`
	// LastError tells what was wrong with one of them.
	LastError string `json:"lastError,omitempty"`
}

// requestTimeout is that of a measured request: longer than the retransmission
// of a SYN, which shall show as the latency that it is.
const requestTimeout = 5 * time.Second

// Measure takes turns between the targets, so that what else happens on the
// machine happens to all of them. Every other round goes backwards.
func Measure(ctx context.Context, p Plan) map[string]*Result {
	results := map[string]*Result{}
	for _, t := range p.Targets {
		results[t.Name] = &Result{}
	}
	targets := slices.Clone(p.Targets)
	for range p.Rounds {
		for _, t := range targets {
			results[t.Name].turn(ctx, p, t.Addr)
		}
		slices.Reverse(targets)
	}
	return results
}

func (r *Result) turn(ctx context.Context, p Plan, to netip.AddrPort) {
	latencies := make([]int64, 0, p.Requests)
	for range p.Requests {
		start := time.Now()
		if _, err := request(ctx, to, requestTimeout); err != nil {
			r.failed(err)
			continue
		}
		latencies = append(latencies, time.Since(start).Nanoseconds())
	}
	r.Latencies = append(r.Latencies, latencies)
	if p.Rate > 0 {
		r.Rates = append(r.Rates, r.rate(ctx, p, to))
	}
}

func (r *Result) failed(err error) {
	r.Errors++
	r.LastError = fmt.Sprint(err)
}

// rate returns requests a second of all workers together.
func (r *Result) rate(ctx context.Context, p Plan, to netip.AddrPort) float64 {
	var group sync.WaitGroup
	var done atomic.Int64
	var mu sync.Mutex
	start := time.Now()
	for range p.Workers {
		group.Go(func() {
			for time.Since(start) < p.Rate && ctx.Err() == nil {
				if _, err := request(ctx, to, requestTimeout); err != nil {
					mu.Lock()
					r.failed(err)
					mu.Unlock()
					continue
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}
