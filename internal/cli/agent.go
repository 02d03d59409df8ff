// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/agent"
	"github.com/beeline-net/beeline/internal/config"
)

func newAgent() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this node's service proxy",
		Long: `Runs as this node's service proxy until it is told to stop. What it has put into
the kernel goes on working afterwards; "beeline cleanup" ends that.

Services come from the Kubernetes API (--kubeconfig, or in-cluster), or from a
folder of the same YAML (--manifests). kube-proxy's flags and its configuration
file are understood: see docs/reference/configuration.md.`,
		Args: noArgs,
	}
	loader := config.NewLoader(cmd.Flags())
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return exitError{exitUsage, loader.FlagError(err)}
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := loader.Load()
		if err != nil {
			return exitError{exitUsage, err}
		}
		log := newLogger(cmd.ErrOrStderr(), loaded.Logging)
		loaded.Log(log)
		return agent.Run(cmd.Context(), loaded.Config, log)
	}
	return cmd
}

func newLogger(w io.Writer, c config.Logging) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Level()}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
