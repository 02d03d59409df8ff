// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/experiment"
	"github.com/beeline-net/beeline/test/cluster/internal/helm"
	"github.com/beeline-net/beeline/test/cluster/internal/takeover"
	"github.com/beeline-net/beeline/test/cluster/internal/traffic"
)

func (r *runner) newTakeover() *cobra.Command {
	cmd := &cobra.Command{
		Use: "takeover", Short: "Take a cluster over from kube-proxy, and give it back, under load", Args: cobra.NoArgs,
		Long: `Starts a cluster with kube-proxy, takes it over with Beeline's manifest as
docs/takeover.md tells, and gives it back. Connections to a ClusterIP and to
NodePorts are made all the while, streams go on across each change; none may fail.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cluster.Proxy(r.proxy).IsKubeProxy() {
				return fmt.Errorf("--proxy is %q: want one of kube-proxy's", r.proxy)
			}
			r.cfg.Nodes, r.wants.Load = 2, true
			r.cfg.AgentArgs = append(r.cfg.AgentArgs, "--takeover=wait")
			table := experiment.NewTable()
			var figures []traffic.Figure
			err := r.run(cmd.Context(), table, func(ctx context.Context, c *cluster.Cluster) (err error) {
				figures, err = takeover.Run(ctx, c, cluster.Proxy(r.proxy), table)
				return err
			})
			table.Print(os.Stdout)
			printFigures(figures)
			return err
		},
	}
	r.proxyFlags(cmd, cluster.KubeProxyNFTables)
	return cmd
}

func printFigures(figures []traffic.Figure) {
	for _, f := range figures {
		fmt.Printf("%-70s %7d, %d failed, the slowest took %v\n", f.What, f.Done, f.Failed, f.Longest.Round(time.Millisecond))
	}
}

func (r *runner) newHelm() *cobra.Command {
	cmd := &cobra.Command{
		Use: "helm", Short: "Install, upgrade and uninstall Beeline's chart with Helm, under load", Args: cobra.NoArgs,
		Long: `Starts a cluster without kube-proxy and installs Beeline's chart with the real Helm.
Connections to a ClusterIP and to NodePorts are made and streams go on while it
is upgraded with other values and uninstalled; none may fail.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.cfg.Nodes, r.wants.Load, r.proxy = 2, true, string(cluster.Beeline)
			table := experiment.NewTable()
			var figures []traffic.Figure
			err := r.run(cmd.Context(), table, func(ctx context.Context, c *cluster.Cluster) (err error) {
				figures, err = helm.Run(ctx, c, r.tree, table)
				return err
			})
			table.Print(os.Stdout)
			printFigures(figures)
			return err
		},
	}
	cmd.Flags().StringVar(&r.cni, "cni", string(cluster.Routes), "how pods reach other nodes: routes or vxlan")
	return cmd
}
