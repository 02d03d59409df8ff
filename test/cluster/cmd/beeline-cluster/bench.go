// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
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
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// performancePage is where the figures are shown, figuresDir where they are kept.
const (
	performancePage = "docs/performance.md"
	figuresDir      = "test/cluster/figures"
)

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
	flags.StringVar(&page, "page", performancePage, "where the figures are shown, below the work tree; empty: they are not kept")
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
	report := bench.Report{Options: o, Date: time.Now().UTC().Format(time.DateOnly), Load: bench.LoadAverage()}
	report.Command = benchCommand("bench-cluster")
	report.Machine = machine()
	err := r.run(ctx, experiment.NewTable(), func(ctx context.Context, c *cluster.Cluster) error {
		version, err := treeVersion(ctx, r.tree)
		if err != nil {
			return err
		}
		report.Versions = "Beeline " + version + ", Kubernetes " + c.KubernetesVersion()
		return bench.Run(ctx, c, o, r.log, func(cell bench.Cell) error {
			report.Cells = append(report.Cells, cell)
			return r.writePerformance(page, bench.ClusterPart, report, report.Section())
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

// writePerformance keeps what has been measured so far: the figures, and the
// page that shows them.
func (r *runner) writePerformance(name string, part bench.Part, figures any, section string) error {
	if name == "" {
		return nil
	}
	data, err := json.MarshalIndent(figures, "", "\t")
	if err != nil {
		return err
	}
	path := filepath.Join(r.tree, name)
	page, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(
		os.MkdirAll(filepath.Join(r.tree, figuresDir), 0o755),
		os.WriteFile(filepath.Join(r.tree, figuresDir, string(part)+".json"), append(data, '\n'), 0o644),
		os.WriteFile(path, []byte(part.Replace(string(page), section)), 0o644))
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

func (r *runner) newBenchControlPlane() *cobra.Command {
	o := bench.ControlOptions{Lab: "control-plane"}
	var proxies []string
	var page string
	cmd := &cobra.Command{
		Use: "bench-control-plane", Short: "Measure Beeline beside kube-proxy against an API server that is not real", Args: cobra.NoArgs,
		Long: `Measures, one proxy after the other, in namespaces of its own, with an API server that
has nothing behind it: the time from a start to the first and the last Service,
from a change of an EndpointSlice to the first connection that sees it while others
change, and what that costs the agent. Writes ` + performancePage + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, p := range proxies {
				o.Proxies = append(o.Proxies, cluster.Proxy(p))
			}
			return r.benchControlPlane(cmd.Context(), o, page)
		},
	}
	flags := cmd.Flags()
	flags.IntSliceVar(&o.Services, "services", []int{1, 1000, 10000, 30000}, "how many Services, from few to many")
	flags.IntVar(&o.Endpoints, "endpoints", 10, "endpoints of each Service")
	flags.StringSliceVar(&proxies, "proxies",
		[]string{string(cluster.Beeline), string(cluster.KubeProxyNFTables), string(cluster.KubeProxyIPTables)}, "who is measured")
	flags.IntVar(&o.Starts, "starts", 5, "how often each proxy starts where there are few Services")
	flags.DurationVar(&o.Churn, "churn", 15*time.Second, "how long EndpointSlices change")
	flags.IntVar(&o.ChangesPerSecond, "changes", 100, "how many of them change a second")
	flags.DurationVar(&o.CellBudget, "cell-budget", 4*time.Minute, "the longest a start may take, or a change until it is seen")
	flags.DurationVar(&o.Budget, "budget", 30*time.Minute, "what has not begun by then is not measured, and the page says so")
	flags.StringVar(&page, "page", performancePage, "where the figures are shown, below the work tree; empty: they are not kept")
	return cmd
}

func (r *runner) benchControlPlane(ctx context.Context, o bench.ControlOptions, page string) error {
	for _, p := range o.Proxies {
		if p == cluster.NoProxy || !slices.Contains(cluster.Proxies(), p) {
			return fmt.Errorf("--proxies has %q, want some of %v", p, cluster.Proxies()[1:])
		}
	}
	if o.Endpoints < 1 || o.Endpoints > 100 {
		return fmt.Errorf("--endpoints is %d, want 1 to 100", o.Endpoints)
	}
	cache, err := r.openTree()
	if err != nil {
		return err
	}
	programs, err := kit.MakePrograms(ctx, cache, r.tree, r.log)
	if err != nil {
		return err
	}
	version, err := treeVersion(ctx, r.tree)
	if err != nil {
		return err
	}
	report := bench.ControlReport{
		Options: o, Date: time.Now().UTC().Format(time.DateOnly), Load: bench.LoadAverage(), Machine: machine(), CPUs: runtime.NumCPU(),
		Versions: "Beeline " + version + ", kube-proxy " + programs.KubernetesVersion,
		Command:  benchCommand("bench-control-plane"),
	}
	err = bench.RunControlPlane(ctx, programs, o, r.log, func(cell bench.ControlCell) error {
		report.Cells = append(report.Cells, cell)
		return r.writePerformance(page, bench.ControlPlanePart, report, report.Section())
	})
	fmt.Println(report.Section())
	return err
}

func (r *runner) newBenchPage() *cobra.Command {
	return &cobra.Command{
		Use: "bench-page", Short: "Write " + performancePage + " again from the figures in " + figuresDir, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if _, err := r.openTree(); err != nil {
				return err
			}
			path := filepath.Join(r.tree, performancePage)
			page, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text := string(page)
			for _, part := range []bench.Part{bench.ClusterPart, bench.ControlPlanePart} {
				figures, err := os.ReadFile(filepath.Join(r.tree, figuresDir, string(part)+".json"))
				if errors.Is(err, os.ErrNotExist) {
					continue // not measured yet
				}
				section, err2 := part.Section(figures)
				if err := errors.Join(err, err2); err != nil {
					return err
				}
				text = part.Replace(text, section)
			}
			return os.WriteFile(path, []byte(text), 0o644)
		},
	}
}

// benchCommand is how to do a run again.
func benchCommand(name string) string {
	if len(os.Args) == 2 {
		return "make " + name
	}
	return "make " + name + " BENCH='" + strings.Join(os.Args[2:], " ") + "'"
}
