// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// Report is a run, as far as it has come.
type Report struct {
	// Command is how to do it again; Machine, Date, Versions what it ran on.
	Command, Machine, Date, Versions string
	Options                          Options
	Cells                            []Cell
	// Load is the machine's load average just before the run.
	Load string
}

// Part is a part of the page that a command writes. The page is a person's but
// for these, and has a mark in front of each and behind it.
type Part string

// The parts.
const (
	ClusterPart      Part = "bench-cluster"
	ControlPlanePart Part = "bench-control-plane"
)

// Section is what the part shows of figures as they are kept.
func (p Part) Section(figures []byte) (string, error) {
	var report interface{ Section() string } = &ControlReport{}
	if p == ClusterPart {
		report = &Report{}
	}
	if err := json.Unmarshal(figures, report); err != nil {
		return "", fmt.Errorf("figures of make %s: %w", p, err)
	}
	return report.Section(), nil
}

// Replace puts the section in place of the page's, or at its end.
func (p Part) Replace(page, section string) string {
	beginMark := "<!-- begin: written by make " + string(p) + " -->"
	endMark := "<!-- end: written by make " + string(p) + " -->"
	before, rest, found := strings.Cut(page, beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !found || !ended {
		before, after = strings.TrimRight(page, "\n")+"\n\n", "\n"
	}
	return before + beginMark + "\n\n" + section + "\n" + endMark + after
}

// Section is the part of the page that tells of this run.
func (r Report) Section() string {
	var out strings.Builder
	fmt.Fprintf(&out, "`%s`, %s. %s. %s. Load average before the run: %s.\n", r.Command, r.Date, r.Machine, r.Versions, r.Load)
	r.explain(&out)
	r.writePaths(&out, "ClusterIP from a pod", "The client is a pod, the server a pod of another node.",
		func(c Cell) Path { return c.ClusterIP })
	r.writePaths(&out, "NodePort from outside", "The client is outside of every node and connects to the node that has the pod.",
		func(c Cell) Path { return c.NodePort })
	r.writeChanges(&out)
	r.writeStarts(&out)
	r.writeMissing(&out)
	return out.String()
}

func (r Report) explain(w io.Writer) {
	o := r.Options
	fmt.Fprintf(w, `
One cluster of two nodes, which share the machine's CPUs with the control plane and the clients. The proxies
take turns on it, each on nodes without rules, with the same Services. Of the Services, %d are those
that are connected to; "1" is these alone. The others have %d endpoints each.

A request is a connection: connect, one byte there, a name back. Rounds of %d requests straight to
the pod and %d through the Service follow each other, %d of each; then %d clients do as many as they can for %s.
Ratios are medians of the rounds' ratios. In the rows "no proxy" nodes have no rules at all, and the Service is another
port of the pod: they show what straight to the pod is without a proxy, and how far from 1 a ratio of equals is. Compare ratios, and rows of a table; the absolute times are this machine's.
`, len(measured()), o.Endpoints, o.Requests, o.Requests, o.Rounds, clientWorkers, o.Rate)
}

// writePaths writes the table of a way into Services.
func (r Report) writePaths(w io.Writer, title, text string, of func(Cell) Path) {
	fmt.Fprintf(w, "\n### %s\n\n%s Latencies in µs.\n\n", title, text)
	fmt.Fprintln(w, "| Services | proxy | p50 | p99 | requests/s | straight to the pod: p50 | p99 | requests/s | ratio p50 | p99 | requests/s | failed |")
	fmt.Fprintln(w, "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, c := range r.Cells {
		p := of(c)
		if p.Requests == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | **%.2f** | %.2f | %.2f | %d |\n",
			thousands(c.Services), proxyTitle(c.Proxy), p.Service.P50, p.Service.P99, p.Service.Rate,
			p.Direct.P50, p.Direct.P99, p.Direct.Rate, p.RatioP50, p.RatioP99, p.RatioRate, p.Errors)
	}
}

func (r Report) writeChanges(w io.Writer) {
	fmt.Fprintf(w, `
### A change

From the request that changes an EndpointSlice to the end of the first new connection that reaches the new
endpoint, the API server's part included, while %d other EndpointSlices change a second (where there are others),
for %s. With fewer than 100 changes p99 is the slowest. CPU and memory are the agent's on the client's node;
kube-proxy's CPU has that of the commands it runs, its memory has not. It runs with its defaults, of which
minSyncPeriod, 1 s, is most of its time where there are few Services.

`, r.Options.ChangesPerSecond, r.Options.Churn)
	rows := make([]churnRow, len(r.Cells))
	for i, c := range r.Cells {
		rows[i] = churnRow{c.Services, c.Proxy, c.Churn}
	}
	writeChurn(w, rows)
}

// churnRow is a row of the table of changes.
type churnRow struct {
	services int
	proxy    string
	churn    Churn
}

func writeChurn(w io.Writer, rows []churnRow) {
	fmt.Fprintln(w, "| Services | proxy | seen p50 | p99 | changes seen | changes/s in all | CPU, % of a core | memory | most since its start |")
	fmt.Fprintln(w, "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, r := range rows {
		h := r.churn
		if len(h.Seen) == 0 {
			continue
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %d | %.1f | %.1f | %d MiB | %d MiB |\n",
			thousands(r.services), proxyTitle(r.proxy), milliseconds(quantile(h.Seen, 0.5)), milliseconds(quantile(h.Seen, 0.99)),
			len(h.Seen), h.Changes, h.CPU*100, h.Resident>>20, h.Peak>>20)
	}
}

func (r Report) writeStarts(w io.Writer) {
	fmt.Fprint(w, `
### A start

From the start of the agent's process, on a node without rules, to the first connection through a Service, and
to the last of the first through three of them: by name the first, one in the middle and the last. On both nodes at once.
(When Beeline's agent starts again, Services work all the time: what is in the kernel stays.)

`)
	fmt.Fprintln(w, "| Services | proxy | first | all three |")
	fmt.Fprintln(w, "| ---: | --- | ---: | ---: |")
	for _, c := range r.Cells {
		if c.Start.All > 0 {
			fmt.Fprintf(w, "| %s | %s | %.2f s | %.2f s |\n", thousands(c.Services), proxyTitle(c.Proxy), c.Start.First.Seconds(), c.Start.All.Seconds())
		}
	}
}

// writeMissing says what the tables do not hold.
func (r Report) writeMissing(w io.Writer) {
	var missing strings.Builder
	for _, c := range r.Cells {
		writeTrouble(&missing, c.Services, c.Proxy, c.Failed, c.Churn.Lost)
	}
	endMissing(w, &missing, len(r.Cells), len(r.Options.Services)*len(r.Options.Proxies))
}

// writeTrouble says what was wrong with a cell.
func writeTrouble(w io.Writer, services int, proxy, failed string, lost int) {
	if failed != "" {
		const longest = 200 // an error may hold all that a program said
		line, _, _ := strings.Cut(failed, "\n")
		fmt.Fprintf(w, "- %s Services, %s: %.*s\n", thousands(services), proxyTitle(proxy), longest, line)
	}
	if lost > 0 {
		fmt.Fprintf(w, "- %s Services, %s: %d times no connection was possible while the server changed\n",
			thousands(services), proxyTitle(proxy), lost)
	}
}

// endMissing ends the list of what is wrong, if anything is.
func endMissing(w io.Writer, missing *strings.Builder, cells, planned int) {
	if cells < planned {
		fmt.Fprintf(missing, "- the run ended after %d of %d parts\n", cells, planned)
	}
	if missing.Len() > 0 {
		fmt.Fprintf(w, "\n### Not measured, or wrong\n\n%s", missing.String())
	}
}

// proxyTitle is what a proxy is called in the tables.
func proxyTitle(proxy string) string {
	switch cluster.Proxy(proxy) {
	case cluster.Beeline:
		return "Beeline"
	case cluster.KubeProxyNFTables:
		return "kube-proxy, nftables"
	case cluster.KubeProxyIPTables:
		return "kube-proxy, iptables"
	}
	return "no proxy"
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

// thousands writes 10000 as 10,000.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
