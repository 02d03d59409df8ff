// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// runner is what the commands share: the flags.
type runner struct {
	log   *slog.Logger
	tree  string
	cfg   cluster.Config
	cni   string
	proxy string
	wants kit.Wants
}

// clusterFlags declares what a cluster can be asked to be.
func (r *runner) clusterFlags(cmd *cobra.Command, proxy cluster.Proxy) {
	cmd.Flags().IntVar(&r.cfg.Nodes, "nodes", 2, "number of nodes, at most 9")
	cmd.Flags().IntVar(&r.cfg.Zones, "zones", 0, "number of zones that nodes take turns to be in (default: each has its own)")
	cmd.Flags().BoolVar(&r.cfg.Dual, "dual", false, "both IPv4 and IPv6")
	r.proxyFlags(cmd, proxy)
}

// proxyFlags declares what does not depend on a cluster's size.
func (r *runner) proxyFlags(cmd *cobra.Command, proxy cluster.Proxy) {
	cmd.Flags().StringVar(&r.cni, "cni", string(cluster.Routes), "how pods reach other nodes: routes or vxlan")
	cmd.Flags().StringVar(&r.proxy, "proxy", string(proxy), fmt.Sprintf("who serves Services, one of %v", cluster.Proxies()))
	cmd.Flags().StringArrayVar(&r.cfg.AgentArgs, "agent-arg", nil, "an argument for Beeline's agent beyond those in its manifest")
}

// defaultProxy gives a command the default that it has declared: the commands
// share the value, and the last one that was declared has left its own there.
func (r *runner) defaultProxy(cmd *cobra.Command) {
	if f := cmd.Flags().Lookup("proxy"); f != nil && !f.Changed {
		r.proxy = f.DefValue
	}
}

// nameCluster gives a cluster without a name its default, so that an experiment
// does not meet a cluster that was left running.
func (r *runner) nameCluster(cmd *cobra.Command) {
	switch {
	case r.cfg.Name != "":
	case cmd.Name() == "experiment", cmd.Name() == "opt-out", cmd.Name() == "conformance", cmd.Name() == "bench", cmd.Name() == "takeover", cmd.Name() == "helm":
		r.cfg.Name = cmd.Name()
	default:
		r.cfg.Name = "main"
	}
}

// check completes the configuration from the flags.
func (r *runner) check() error {
	r.cfg.CNI = cluster.CNI(r.cni)
	r.wants.KubeProxy = cluster.Proxy(r.proxy).IsKubeProxy()
	switch {
	case os.Geteuid() != 0:
		return errors.New("needs root: namespaces, cgroups and mounts")
	case r.cfg.Nodes < 1 || r.cfg.Nodes > 9:
		return fmt.Errorf("--nodes is %d, want 1 to 9", r.cfg.Nodes)
	case r.cfg.Zones < 0 || r.cfg.Zones > r.cfg.Nodes:
		return fmt.Errorf("--zones is %d, want 0 to the number of nodes", r.cfg.Zones)
	case !slices.Contains(cluster.Proxies(), cluster.Proxy(r.proxy)):
		return fmt.Errorf("--proxy is %q, want one of %v", r.proxy, cluster.Proxies())
	case r.cfg.CNI != cluster.Routes && r.cfg.CNI != cluster.VXLAN:
		return fmt.Errorf("--cni is %q, want routes or vxlan", r.cni)
	}
	return nil
}

func (r *runner) newPrepare() *cobra.Command {
	cmd := &cobra.Command{
		Use: "prepare", Short: "Build what is missing in the cache", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, _, err := r.makeKit(cmd.Context())
			return err
		},
	}
	cmd.Flags().BoolVar(&r.wants.Tests, "tests", false, "also what conformance needs")
	return cmd
}

// run prepares what is missing, starts a cluster without a proxy, calls f, and
// removes the cluster however that ends. It notes its steps in the table.
func (r *runner) run(ctx context.Context, table *experiment.Table, f func(context.Context, *cluster.Cluster) error) (err error) {
	if err := r.check(); err != nil {
		return err
	}
	k, cache, err := r.makeKit(ctx)
	if err := table.Step("binaries and images are built, or were in the cache", err); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, r.cfg, k, cache, r.log)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, cluster.ErrInUse) {
			cluster.PrintLogs(os.Stderr, cluster.DirsOf(cache, r.cfg.Name))
		}
		return err
	}
	defer func() { err = errors.Join(err, table.Step("everything is removed", c.Close())) }()
	_ = table.Step(fmt.Sprintf("cluster is up: %d nodes, no service proxy", r.cfg.Nodes), nil)
	err = f(ctx, c)
	if err != nil && ctx.Err() == nil { // not because it was interrupted
		c.Explain(ctx, os.Stderr)
	}
	return err
}

func (r *runner) newServe() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a cluster until interrupted", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.run(cmd.Context(), experiment.NewTable(), func(ctx context.Context, c *cluster.Cluster) error {
				if err := c.InstallProxy(ctx, cluster.Proxy(r.proxy)); err != nil {
					return err
				}
				if err := os.WriteFile(readyFile(c.Dirs()), nil, 0o644); err != nil {
					return err
				}
				r.log.Info("cluster is ready", "kubeconfig", c.Dirs().Kubeconfig(), "logs", c.Dirs().Logs)
				select {
				case <-ctx.Done():
					return nil
				case <-c.Failed():
					return errors.New("a node or the control plane has ended; its log tells why")
				}
			})
		},
	}
	r.clusterFlags(cmd, cluster.Beeline)
	return cmd
}

func (r *runner) newKubectl() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl ARGS...", Short: "Run kubectl as the administrator", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kit.OpenCache()
			if err != nil {
				return err
			}
			dirs := cluster.DirsOf(cache, r.cfg.Name)
			if _, err := os.Stat(dirs.Kubeconfig()); err != nil {
				return fmt.Errorf("no cluster %s is running: %w", r.cfg.Name, err)
			}
			kubectl := cluster.KubectlCommand(cmd.Context(), dirs, args...)
			kubectl.Stdin, kubectl.Stdout, kubectl.Stderr = os.Stdin, os.Stdout, os.Stderr
			return withStatus(kubectl.Run())
		},
	}
}

func (r *runner) newNode() *cobra.Command {
	cmd := &cobra.Command{
		Use: "node NAME COMMAND...", Short: "Run a command on a node (node1, node2, ...) or in the control plane (control)",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kit.OpenCache()
			if err != nil {
				return err
			}
			running, err := cluster.StartIn(cmd.Context(), cache, r.cfg.Name, args[0], args[1:]...)
			if err != nil {
				return err
			}
			return withStatus(running.Wait())
		},
	}
	cmd.Flags().SetInterspersed(false) // the command's flags are its own
	return cmd
}

// exitStatus is that of a command that the user asked for; it becomes ours.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func withStatus(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitStatus(exit.ExitCode())
	}
	return err
}

func (r *runner) newExperiment() *cobra.Command {
	cmd := &cobra.Command{
		Use: "experiment", Short: "Show that Beeline is all that Services need", Args: cobra.NoArgs,
		Long: `Starts a cluster without kube-proxy, sees that a Service does not work, applies
Beeline, sees that it works, and removes the cluster.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			table := experiment.NewTable()
			err := r.run(cmd.Context(), table, func(ctx context.Context, c *cluster.Cluster) error {
				return experiment.Run(ctx, c, cluster.Proxy(r.proxy), table)
			})
			table.Print(os.Stdout)
			return err
		},
	}
	r.clusterFlags(cmd, cluster.Beeline)
	return cmd
}

func (r *runner) newOptOut() *cobra.Command {
	cmd := &cobra.Command{
		Use: "opt-out", Short: "Show which pods have their sockets balanced", Args: cobra.NoArgs,
		Long: `Starts a cluster with Beeline, whose agents leave the sockets of pods alone that
ask for it, sees that these reach a Service packet by packet and the others by
their sockets, and removes the cluster.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.cfg.AgentArgs = append(r.cfg.AgentArgs, "--socket-opt-out")
			table := experiment.NewTable()
			err := r.run(cmd.Context(), table, func(ctx context.Context, c *cluster.Cluster) error {
				role, err := os.ReadFile(filepath.Join(r.tree, "deploy/socket-opt-out.yaml"))
				if err != nil {
					return err
				}
				return experiment.OptOut(ctx, c, string(role), table)
			})
			table.Print(os.Stdout)
			return err
		},
	}
	r.clusterFlags(cmd, cluster.Beeline)
	return cmd
}
