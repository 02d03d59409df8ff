// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/agent"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/metrics"
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
		Args:    noArgs,
		Version: buildVersion(), // kube-proxy has the flag, too
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
		level := &slog.LevelVar{}
		level.Set(loaded.Logging.Level())
		log := newLogger(cmd.ErrOrStderr(), loaded.Logging.Format, level)
		loaded.Log(log)
		switch {
		case loader.WriteTo != "":
			return writeConfig(loader.WriteTo, loaded.Config)
		case loader.Cleanup:
			return cleanup(cmd.OutOrStdout(), loaded.Kernel.BPFFS)
		case loader.InitOnly:
			log.Info("nothing to prepare: everything an agent needs it sets up itself")
			return nil
		}
		return agent.Run(cmd.Context(), agent.Options{
			Config: loaded, Loader: loader, Log: log, Level: level,
			Build: metrics.Build{Version: buildVersion(), Commit: buildCommit(), Go: runtime.Version()},
		})
	}
	return cmd
}

func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func writeConfig(path string, c config.Config) error {
	if err := os.WriteFile(path, c.YAML(), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
