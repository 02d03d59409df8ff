// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// The proxies that are compared, as cluster.Proxy names them.
const (
	beeline   = string(cluster.Beeline)
	kubeProxy = string(cluster.KubeProxyNFTables)
)

// Variants are the columns of the page, in its order.
func Variants() []Variant {
	return []Variant{
		{beeline, "routes"}, {kubeProxy, "routes"},
		{beeline, "vxlan"}, {kubeProxy, "vxlan"},
	}
}

// title is the variant's column.
func (v Variant) title() string {
	name := map[string]string{beeline: "Beeline", kubeProxy: "kube-proxy"}[v.Proxy]
	if v.CNI == "vxlan" {
		name += ", VXLAN"
	}
	return name
}

// Page writes the page from the table and the results in dir, and from nothing else.
func Page(dir string) (string, error) {
	tests, err := Tests()
	if err != nil {
		return "", err
	}
	p := page{tests: tests}
	for _, v := range Variants() {
		results, err := ReadResults(dir, v)
		if err != nil {
			return "", err
		}
		if len(results.Tests) > 0 {
			p.columns = append(p.columns, results)
		}
	}
	p.head()
	p.totals()
	p.notPassed()
	p.cannot()
	p.all()
	return p.text.String(), nil
}

type page struct {
	tests   []Test
	columns []*Results
	text    strings.Builder
}

func (p *page) printf(format string, args ...any) { fmt.Fprintf(&p.text, format, args...) }

func (p *page) row(cells ...string) { p.printf("| %s |\n", strings.Join(cells, " | ")) }

// header begins a table with a column for each variant between others.
func (p *page) header(before []string, after ...string) {
	cells := slices.Clone(before)
	for _, c := range p.columns {
		cells = append(cells, c.title())
	}
	cells = append(cells, after...)
	p.printf("\n")
	p.row(cells...)
	p.row(slices.Repeat([]string{"---"}, len(cells))...)
}

func (p *page) head() {
	p.printf(`<!-- Made by "hack/cluster conformance-page" from the results in test/cluster/conformance. Do not edit. -->
# Conformance

The official end-to-end tests of Kubernetes, ` + "`[sig-network]`" + `, on clusters of
[test/cluster](../test/cluster/README.md): real kubelets, containerd and CoreDNS, three nodes
in three zones with IPv4 and IPv6 (six nodes with IPv4 where a test needs that), a load
balancer controller, no uplink. Beeline is applied from [deploy/beeline.yaml](../deploy/beeline.yaml);
kube-proxy, in nftables mode, from what kubeadm applies. ` + "`make conformance`" + ` runs what has
no result yet and writes this page.
`)
	if len(p.columns) == 0 {
		p.printf("\nNo results yet.\n")
		return
	}
	p.printf("\n| service proxy | CNI | versions | Kubernetes | Linux | tests ran |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, c := range p.columns {
		first, last := c.dates()
		p.row(c.Proxy, c.CNI, strings.Join(c.versions(), ", "), c.Kubernetes, c.Kernel, first+" to "+last)
	}
}

// versions are the proxy's, of all tests.
func (r *Results) versions() []string {
	seen := map[string]bool{}
	for _, t := range r.Tests {
		seen[t.Proxy] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// dates are when the first and the last test began.
func (r *Results) dates() (first, last string) {
	const layout = "2006-01-02 15:04 UTC"
	all := slices.SortedFunc(maps.Values(r.Tests), func(a, b Result) int { return a.Started.Compare(b.Started) })
	return all[0].Started.Format(layout), all[len(all)-1].Started.Format(layout)
}

// totals counts by class.
func (p *page) totals() {
	p.printf("\n## Totals\n\nTests that passed, of those that ran; in parentheses those that found that they cannot run.\n")
	p.header([]string{"tests", "in all", "cannot run here"})
	count := func(label string, in func(Test) bool) {
		all, cannot := 0, 0
		for _, t := range p.tests {
			if in(t) {
				all++
				if t.Cannot != "" {
					cannot++
				}
			}
		}
		cells := []string{label, fmt.Sprint(all), fmt.Sprint(cannot)}
		for _, c := range p.columns {
			cells = append(cells, p.count(c, in))
		}
		p.row(cells...)
	}
	count("Conformance", Test.Conformance)
	for _, class := range Classes() {
		count(fmt.Sprintf("%s: %s", class, class.About()), func(t Test) bool { return t.Class == class })
	}
}

func (p *page) count(c *Results, in func(Test) bool) string {
	n := map[Outcome]int{}
	for _, t := range p.tests {
		if result, ok := c.Tests[t.Name]; ok && in(t) {
			n[result.Outcome]++
		}
	}
	text := fmt.Sprintf("%d of %d", n[Passed], n[Passed]+n[Failed])
	if n[Skipped] > 0 {
		text += fmt.Sprintf(" (%d)", n[Skipped])
	}
	return text
}

// notPassed lists what failed or was skipped somewhere.
func (p *page) notPassed() {
	p.printf("\n## Not passed\n")
	p.header([]string{"test", "class"}, "what it said", "remark")
	for _, t := range p.tests {
		var said []string
		for _, c := range p.columns {
			if result, ok := c.Tests[t.Name]; ok && result.Outcome != Passed {
				if message := escape(result.Message); !slices.Contains(said, message) {
					said = append(said, message)
				}
			}
		}
		if len(said) > 0 {
			p.row(slices.Concat([]string{escape(t.Name), string(t.Class)}, p.outcomes(t), []string{strings.Join(said, "<br>"), t.Remark})...)
		}
	}
}

func (p *page) cannot() {
	p.printf("\n## Cannot run here\n\n| test | class | why |\n| --- | --- | --- |\n")
	for _, t := range p.tests {
		if t.Cannot != "" {
			p.row(escape(t.Name), string(t.Class), t.Cannot)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(excluded)) {
		p.row(escape(prefix)+" …", "", excluded[prefix])
	}
}

// all lists every test that can run.
func (p *page) all() {
	p.printf("\n## Test by test\n\nSeconds, for those that passed; \"-\" where it has not run. A number of attempts is given where it took several.\n")
	p.header([]string{"test", "class"})
	for _, t := range p.tests {
		if t.Cannot == "" {
			p.row(slices.Concat([]string{escape(t.Name), string(t.Class)}, p.outcomes(t))...)
		}
	}
}

// outcomes are a test's cells.
func (p *page) outcomes(t Test) []string {
	var cells []string
	for _, c := range p.columns {
		result, ok := c.Tests[t.Name]
		var cell string
		switch {
		case !ok:
			cell = "-"
		case result.Outcome == Passed:
			cell = fmt.Sprintf("%d s", result.Seconds)
		default:
			cell = "**" + string(result.Outcome) + "**"
		}
		if cmp.Or(result.Attempts, 1) > 1 {
			cell += fmt.Sprintf(", attempt %d", result.Attempts)
		}
		cells = append(cells, cell)
	}
	return cells
}

// escape keeps labels and messages from being Markdown.
func escape(s string) string {
	return strings.NewReplacer("|", `\|`, "[", `\[`, "<", "&lt;", "*", `\*`, "_", `\_`).Replace(s)
}

// Verdict returns an error that names every test that kube-proxy passes and
// Beeline, on the same CNI, does not.
func Verdict(dir string) error {
	tests, err := Tests()
	if err != nil {
		return err
	}
	var bugs []error
	for _, v := range Variants() {
		if v.Proxy != beeline {
			continue
		}
		ours, err := ReadResults(dir, v)
		if err != nil {
			return err
		}
		theirs, err := ReadResults(dir, Variant{kubeProxy, v.CNI})
		if err != nil {
			return err
		}
		for _, t := range tests {
			if theirs.Tests[t.Name].Outcome == Passed && ours.Tests[t.Name].Outcome == Failed {
				bugs = append(bugs, fmt.Errorf("%s: kube-proxy passes %q, Beeline does not", v.CNI, t.Name))
			}
		}
	}
	return errors.Join(bugs...)
}
