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
	"github.com/beeline-net/beeline/test/cluster/internal/takeover"
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
			var figures []takeover.Figure
			err := r.run(cmd.Context(), table, func(ctx context.Context, c *cluster.Cluster) (err error) {
				figures, err = takeover.Run(ctx, c, cluster.Proxy(r.proxy), table)
				return err
			})
			table.Print(os.Stdout)
			for _, f := range figures {
				fmt.Printf("%-70s %7d, %d failed, the slowest took %v\n", f.What, f.Done, f.Failed, f.Longest.Round(time.Millisecond))
			}
			return err
		},
	}
	r.proxyFlags(cmd, cluster.KubeProxyNFTables)
	return cmd
}
