// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// ControlReport is a run against an API server that is not real, as far as it
// has come.
type ControlReport struct {
	// Command is how to do it again; Machine, Date, Versions what it ran on.
	Command, Machine, Date, Versions string
	CPUs                             int
	// Load is the machine's load average just before the run.
	Load    string
	Options ControlOptions
	Cells   []ControlCell
}

// Section is the part of the page that tells of this run.
func (r ControlReport) Section() string {
	var out strings.Builder
	fmt.Fprintf(&out, "`%s`, %s. %s. %s. Load average before the run: %s.\n", r.Command, r.Date, r.Machine, r.Versions, r.Load)
	fmt.Fprintf(&out, "%s", warnBusy(r.Load, r.CPUs))
	r.writeStarts(&out)
	r.writeChanges(&out)
	r.writeMissing(&out)
	return out.String()
}

func (r ControlReport) writeStarts(w io.Writer) {
	o := r.Options
	fmt.Fprintf(w, `
### A start, API server not real

An API server that has nothing behind it, a client pod and the proxy share a node made of namespaces, and the machine's
CPUs; the servers are on another. Each Service has %d endpoints, all of which answer; "1" is the %d Services alone that
are connected to. Time is from the start of the proxy's process, on a node without rules, to the first connection
through a Service (the client tries three all the time), and through the last of a sample of at most %d, which it
tries one after the other. CPU and memory are the agent's when the last one has answered and the proxy has told of a
full sync, which is a pass over all Services, by its own metric; kube-proxy's CPU has that of the commands it runs, its
memory has not. What rules take in the kernel is in neither; Beeline's tables are in its memory. Load is the
machine's load average just before, what this benchmark did before included. Up to %s Services, everybody starts %d
times, in turn, and each figure is the median of its own.

`, o.Endpoints, len(measured()), probed, thousands(fewServices), max(o.Starts, 1))
	fmt.Fprintln(w, "| Services | proxy | first | last | CPU | full sync | memory | most | load |")
	fmt.Fprintln(w, "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, c := range r.Cells {
		s := c.start()
		if s.First == 0 {
			continue
		}
		last := fmt.Sprintf("%.2f s", s.All.Seconds())
		if s.Resident == 0 {
			last = "not in " + o.CellBudget.String()
		}
		fmt.Fprintf(w, "| %s | %s | %.2f s | %s | %.2f s | %.2f s | %d MiB | %d MiB | %s |\n", thousands(c.Services), proxyTitle(c.Proxy),
			s.First.Seconds(), last, s.CPU.Seconds(), s.FullSync.Seconds(), s.Resident>>20, s.Peak>>20, c.Load)
	}
}

// start is the median of all starts, figure by figure; one that did not come to
// its end is shown as it is.
func (c ControlCell) start() ControlStart {
	if c.Start.Resident == 0 {
		return c.Start
	}
	all := append(slices.Clone(c.Before), c.Start)
	return ControlStart{
		Start: Start{
			First: median(all, func(s ControlStart) time.Duration { return s.First }),
			All:   median(all, func(s ControlStart) time.Duration { return s.All }),
		},
		Probed:   c.Start.Probed,
		FullSync: median(all, func(s ControlStart) time.Duration { return s.FullSync }),
		CPU:      median(all, func(s ControlStart) time.Duration { return s.CPU }),
		Resident: median(all, func(s ControlStart) uint64 { return s.Resident }),
		Peak:     median(all, func(s ControlStart) uint64 { return s.Peak }),
	}
}

// median is that of a figure.
func median[S any, T cmp.Ordered](all []S, figure func(S) T) T {
	values := make([]T, len(all))
	for i, s := range all {
		values[i] = figure(s)
	}
	return quantile(values, 0.5)
}

func (r ControlReport) writeChanges(w io.Writer) {
	fmt.Fprintf(w, `
### A change, API server not real

From the moment at which the API server has a changed EndpointSlice to the end of the first new connection that reaches
the new endpoint, while %d other EndpointSlices change a second (where there are others), for %s. With fewer
than 100 changes p99 is the slowest. kube-proxy runs with its defaults, of which minSyncPeriod, 1 s, is most of its
time where there are few Services.

`, r.Options.ChangesPerSecond, r.Options.Churn)
	rows := make([]churnRow, len(r.Cells))
	for i, c := range r.Cells {
		rows[i] = churnRow{c.Services, c.Proxy, c.Churn}
	}
	writeChurn(w, rows)
}

// writeMissing says what the tables do not hold.
func (r ControlReport) writeMissing(w io.Writer) {
	var missing strings.Builder
	for _, c := range r.Cells {
		writeTrouble(&missing, c.Services, c.Proxy, c.Failed, c.Churn.Lost)
	}
	endMissing(w, &missing, len(r.Cells), len(r.Options.Services)*len(r.Options.Proxies))
}
