// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/demo"
)

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show Beeline at work on this machine, in namespaces of its own",
		Long: `Makes two nodes out of network namespaces without an uplink, with real nginx
pods and a real DNS server, runs an agent on each, and shows what clients see
while things go wrong. Needs root, nginx, dnsmasq and wget. Removes everything
it made.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo.Run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:    "load URL",
		Hidden: true, // the demo runs it inside a pod
		Args:   exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return demo.Load(cmd.Context(), args[0], cmd.OutOrStdout())
		},
	})
	return cmd
}
