// SPDX-License-Identifier: Apache-2.0

// Command beeline-cluster runs real Kubernetes clusters on this machine, and
// experiments on them.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// statusInterrupted is what a shell says of a program that Ctrl-C ended.
const statusInterrupted = 130

func main() {
	// The terminal's hang-up counts as an interrupt: nothing may stay behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := newRoot(log).ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	var theirs exitStatus
	switch {
	case err == nil:
	case errors.As(err, &theirs): // the command that was run has spoken
		os.Exit(int(theirs))
	case interrupted:
		fmt.Fprintln(os.Stderr, "beeline-cluster: interrupted:", err)
		os.Exit(statusInterrupted)
	default:
		fmt.Fprintln(os.Stderr, "beeline-cluster:", err)
		os.Exit(1)
	}
}

func newRoot(log *slog.Logger) *cobra.Command {
	root := &cobra.Command{
		Use:   "beeline-cluster",
		Short: "Real Kubernetes clusters on this machine, without an uplink",
		Long: `Runs real Kubernetes clusters on this machine: etcd, the control plane, and nodes
with kubelet and containerd, in namespaces and cgroups of their own. No network
of a cluster has an uplink. Needs root.`,
		SilenceUsage: true, SilenceErrors: true,
		TraverseChildren: true, // our flags go before "kubectl", what follows is its own
	}
	addCommands(root, &runner{log: log})
	root.AddCommand(hiddenBoxCommands(log)...)
	return root
}

// addCommands adds what users run.
func addCommands(root *cobra.Command, r *runner) {
	root.PersistentFlags().StringVar(&r.tree, "tree", "", "Beeline's work tree (default: that around the current folder)")
	root.PersistentFlags().StringVar(&r.cfg.Name, "name", "", "name of the cluster (default: main; that of the command for experiment, opt-out, conformance, bench, takeover and helm)")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		r.nameCluster(cmd)
		r.defaultProxy(cmd)
	}
	root.AddCommand(r.newPrepare(), r.newUp(), r.newServe(), r.newDown(), r.newKubectl(), r.newNode(), r.newExperiment(), r.newOptOut(),
		r.newConformance(), r.newConformancePage(), r.newBench(), r.newBenchControlPlane(), r.newBenchPage(), r.newTakeover(), r.newHelm())
}

// hiddenBoxCommands are what this executable does as a box's first process.
func hiddenBoxCommands(log *slog.Logger) []*cobra.Command {
	return []*cobra.Command{
		{Use: box.VerbEnter, Hidden: true, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
			return box.Enter(args[0])
		}},
		{Use: box.VerbInit, Hidden: true, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
			return box.Init(log)
		}},
	}
}

// openTree returns the cache, and finds the work tree unless a flag has.
func (r *runner) openTree() (cache kit.Cache, err error) {
	if cache, err = kit.OpenCache(); err != nil {
		return "", err
	}
	if r.tree == "" {
		r.tree, err = kit.FindTree()
	}
	return cache, err
}

// makeKit prepares everything a cluster is built from.
func (r *runner) makeKit(ctx context.Context) (*kit.Kit, kit.Cache, error) {
	cache, err := r.openTree()
	if err != nil {
		return nil, "", err
	}
	k, err := kit.Make(ctx, cache, r.tree, r.wants, r.log)
	return k, cache, err
}
