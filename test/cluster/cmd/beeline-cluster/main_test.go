// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"testing"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
)

// The experiment is Beeline's, whatever other commands take unless they are told.
func TestEachCommandHasItsOwnProxy(t *testing.T) {
	for name, want := range map[string]cluster.Proxy{
		"up": cluster.Beeline, "serve": cluster.Beeline, "experiment": cluster.Beeline, "opt-out": cluster.Beeline,
		"conformance": cluster.Beeline, "takeover": cluster.KubeProxyNFTables,
	} {
		t.Run(name, func(t *testing.T) {
			r := &runner{log: slog.New(slog.DiscardHandler)}
			root := &cobra.Command{}
			addCommands(root, r)
			cmd, _, err := root.Find([]string{name})
			if err != nil {
				t.Fatal(err)
			}
			cmd.RunE = func(*cobra.Command, []string) error { return nil }
			root.SetArgs([]string{name})
			if err := root.Execute(); err != nil {
				t.Fatal(err)
			}
			if cmd.Flags().Lookup("proxy") != nil && r.proxy != string(want) {
				t.Errorf("%s runs with %s, want %s", name, r.proxy, want)
			}
		})
	}
}
