// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/test/cluster/internal/bench"
	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
)

// performancePage is where the figures go.
const performancePage = "docs/performance.md"

func (r *runner) newBench() *cobra.Command {
	var o bench.Options
	var proxies []string
	var page string
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure Beeline beside kube-proxy", Args: cobra.NoArgs,
		Long: `Measures the proxies one after the other on one cluster, each beside connections
straight to the pod, with more and more Services, and writes ` + performancePage + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, p := range proxies {
				o.Proxies = append(o.Proxies, cluster.Proxy(p))
			}
			return r.bench(cmd.Context(), o, page)
		},
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&o.Services, "services", []int{1, 1000, 10000}, "how many Services, from few to many")
	flags.StringSliceVar(&proxies, "proxies",
		[]string{string(cluster.NoProxy), string(cluster.Beeline), string(cluster.KubeProxyNFTables), string(cluster.KubeProxyIPTables)},
		"who is measured")
	flags.IntVar(&o.Endpoints, "endpoints", 2, "endpoints of each Service, at most 100")
	flags.IntVar(&o.Rounds, "rounds", 11, "rounds of each way")
	flags.IntVar(&o.Requests, "requests", 200, "requests of a round, one after the other")
	flags.DurationVar(&o.Rate, "rate", 150*time.Millisecond, "how long a round then sends as many as it can")
	flags.DurationVar(&o.Churn, "churn", 12*time.Second, "how long EndpointSlices change")
	flags.IntVar(&o.ChangesPerSecond, "changes", 20, "how many of them change a second")
	flags.DurationVar(&o.Budget, "budget", time.Hour, "what has not begun by then is not measured, and the page says so")
	flags.StringVar(&page, "page", performancePage, "where the figures go, below the work tree")
	flags.StringArrayVar(&r.cfg.AgentArgs, "agent-arg", nil, "an argument for Beeline's agent beyond those in its manifest")
	return cmd
}

func (r *runner) bench(ctx context.Context, o bench.Options, page string) error {
	if o.Endpoints < 1 || o.Endpoints > 100 {
		return fmt.Errorf("--endpoints is %d, want 1 to 100", o.Endpoints)
	}
	for _, p := range o.Proxies {
		if !slices.Contains(cluster.Proxies(), p) {
			return fmt.Errorf("--proxies has %q, want some of %v", p, cluster.Proxies())
		}
	}
	r.cfg.Nodes, r.cni, r.proxy = 2, string(cluster.Routes), string(cluster.KubeProxyNFTables) // for the kit
	r.wants.Load = true
	report := bench.Report{Options: o, Date: time.Now().UTC().Format(time.DateOnly), Load: loadAverage()}
	report.Command = strings.TrimSpace("make bench-cluster BENCH='" + strings.Join(os.Args[2:], " ") + "'")
	report.Machine = machine()
	err := r.run(ctx, experiment.NewTable(), func(ctx context.Context, c *cluster.Cluster) error {
		version, err := treeVersion(ctx, r.tree)
		if err != nil {
			return err
		}
		report.Versions = "Beeline " + version + ", Kubernetes " + c.KubernetesVersion()
		return bench.Run(ctx, c, o, r.log, func(cell bench.Cell) error {
			report.Cells = append(report.Cells, cell)
			return writePerformance(filepath.Join(r.tree, page), report)
		})
	})
	if len(report.Cells) > 0 {
		fmt.Println(report.Section())
	}
	for _, cell := range report.Cells {
		if cell.Failed != "" {
			err = errors.Join(err, fmt.Errorf("%d Services, %s: %s", cell.Services, cell.Proxy, cell.Failed))
		}
	}
	return err
}

// writePerformance keeps what has been measured so far.
func writePerformance(path string, report bench.Report) error {
	page, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, []byte(bench.Replace(string(page), report.Section())), 0o644)
}

// loadAverage is that of the last minute.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// machine tells CPUs and kernel.
func machine() string {
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo") // said to be unknown otherwise
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail
	return fmt.Sprintf("%d CPUs, %s, Linux %s", runtime.NumCPU(), model, unix.ByteSliceToString(uts.Release[:]))
}
