// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
)

// top is what `beeline top` was asked for.
type top struct {
	sort     string
	service  string
	interval time.Duration
	rows     int
	once     bool
}

// leastInterval is the shortest that rates are measured over.
const leastInterval = 100 * time.Millisecond

// topOrders are the ways to sort, by what --sort calls them; biggest first.
func topOrders() map[string]func(a, b inspect.Serving) int {
	by := func(value func(inspect.Serving) float64) func(a, b inspect.Serving) int {
		return func(a, b inspect.Serving) int { return cmp.Compare(value(b), value(a)) }
	}
	return map[string]func(a, b inspect.Serving) int{
		"rate":     by(func(s inspect.Serving) float64 { return s.Rates.Connections }),
		"refused":  by(func(s inspect.Serving) float64 { return s.Rates.Refusals }),
		"active":   by(func(s inspect.Serving) float64 { return float64(s.Traffic.ActiveSockets + s.Traffic.ActiveFlows) }),
		"bytes":    by(func(s inspect.Serving) float64 { return s.Rates.RequestBytes + s.Rates.ReplyBytes }),
		"backends": by(func(s inspect.Serving) float64 { return -float64(len(s.Cluster.Backends)) }),
		"name":     func(inspect.Serving, inspect.Serving) int { return 0 },
	}
}

var topSorts = []string{"rate", "refused", "active", "bytes", "backends", "name"}

func newTop(g *global) *cobra.Command {
	t := &top{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the Services of this node by rate, refusals and backends, live",
		Long: `Shows what every Service has a second, until Ctrl-C. Reads the kernel, not the
agent. If the output is no terminal, with -o json or yaml, or with --once, it
measures for one interval, prints and ends.

Bytes and packets are those of the packet path; what sockets of this node send
is not seen.`,
		Example: "  beeline top --sort refused\n  beeline top -o json --interval 5s",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.run(cmd, g) },
	}
	g.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&t.sort, "sort", "rate", "order: "+strings.Join(topSorts, ", "))
	f.StringVar(&t.service, "service", "", "only this Service: namespace/name or namespace/name:port")
	f.DurationVar(&t.interval, "interval", 2*time.Second, "how long to measure")
	f.IntVarP(&t.rows, "count", "n", 0, "so many Service ports at most; a terminal shows 30 unless told otherwise")
	f.BoolVar(&t.once, "once", false, "measure once, print and end")
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(topSorts, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (t *top) run(cmd *cobra.Command, g *global) error {
	t.service = qualified(t.service)
	if !slices.Contains(topSorts, t.sort) {
		return usage(fmt.Errorf("--sort %s: must be one of %s", t.sort, strings.Join(topSorts, ", ")))
	}
	if t.interval < leastInterval {
		return usage(fmt.Errorf("--interval %v: must be %v or more", t.interval, leastInterval))
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	live := !t.once && g.format == formatTable && isTerminal(cmd.OutOrStdout())
	if live && t.rows == 0 {
		t.rows = 30
	}
	return g.measure(ctx, t.interval, func(o inspect.Overview) (more bool, err error) {
		t.pick(&o)
		if live {
			return true, drawTop(cmd.OutOrStdout(), o)
		}
		return false, g.format.emit(cmd.OutOrStdout(), o, func(w io.Writer) error { return writeTable(w, topHeader, topRows(o)) })
	})
}

// measure hands over what Services have had in each interval, until ctx ends or
// show wants no more.
func (g *global) measure(ctx context.Context, interval time.Duration, show func(inspect.Overview) (more bool, err error)) error {
	timeouts, err := datapath.FlowTimeouts(datapath.NewPins(g.bpffs))
	if err != nil {
		return err
	}
	pods := g.pods(ctx)
	return g.read(func(tables *maps.Tables) error {
		before, err := inspect.ReadOverview(tables, pods, timeouts, time.Now())
		if err != nil {
			return err
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(interval):
			}
			now, err := inspect.ReadOverview(tables, pods, timeouts, time.Now())
			if err != nil {
				return err
			}
			now.Since(&before)
			before = now
			if more, err := show(now); err != nil || !more {
				return err
			}
		}
	})
}

// pick leaves what was asked for, in that order.
func (t *top) pick(o *inspect.Overview) {
	shown := []inspect.Serving{}
	for _, s := range o.Services {
		name := inspect.ServicePort{Namespace: s.Namespace, Name: s.Name, Port: s.Port.Port}
		if t.service == "" || name.Matches(t.service) {
			shown = append(shown, s)
		}
	}
	slices.SortStableFunc(shown, topOrders()[t.sort])
	if t.rows > 0 {
		shown = shown[:min(t.rows, len(shown))]
	}
	o.Services = shown
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

var topHeader = []string{"SERVICE", "PROTO", "FAMILY", "STATE", "NEW/S", "ACTIVE", "REFUSED/S", "PACKETS/S", "BYTES/S", "BACKENDS", "REASON"}

func topRows(o inspect.Overview) [][]string {
	rows := make([][]string, 0, len(o.Services))
	for _, s := range o.Services {
		name := inspect.ServicePort{Namespace: s.Namespace, Name: s.Name, Port: s.Port.Port}
		rows = append(rows, []string{
			name.String(), s.Protocol, s.Family, s.State, rateText(s.Rates.Connections),
			strconv.Itoa(s.Traffic.ActiveSockets + s.Traffic.ActiveFlows), rateText(s.Rates.Refusals),
			rateText(s.Rates.Packets), rateText(s.Rates.RequestBytes + s.Rates.ReplyBytes),
			members(s.Cluster), topReason(s.Traffic),
		})
	}
	return rows
}

// topReason is what most was refused for.
func topReason(t inspect.Traffic) string {
	reason, most := "-", uint64(0)
	for r, n := range t.Refusals {
		if n > most || n == most && r < reason {
			reason, most = r, n
		}
	}
	return reason
}

func rateText(n float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if n >= unit.size {
			size := unit.size
			if unit.name == "k" {
				size = 1e3
			}
			return fmt.Sprintf("%.1f%s", n/size, unit.name)
		}
	}
	if n == 0 {
		return "0"
	}
	return strconv.FormatFloat(n, 'f', 1, 64)
}

// drawTop paints over what it painted before, in one write.
func drawTop(w io.Writer, o inspect.Overview) error {
	const home, clearLine, clearBelow = "\x1b[H", "\x1b[K\r\n", "\x1b[J"
	var table strings.Builder
	if err := writeTable(&table, topHeader, topRows(o)); err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%sBeeline  %s  Ctrl-C ends%s%s", home, o.Time.Format(time.TimeOnly), clearLine, clearLine)
	for line := range strings.Lines(table.String()) {
		fmt.Fprint(out, strings.TrimRight(line, "\n"), clearLine)
	}
	fmt.Fprint(out, clearBelow)
	return out.Flush()
}
