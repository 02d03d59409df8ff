// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/abi"
)

// version is the answer of `beeline version`.
type version struct {
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	Go        string `json:"go"`
	MapLayout uint32 `json:"mapLayout"`
}

func newVersion(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which build this is",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := version{buildVersion(), buildCommit(), runtime.Version(), abi.Layout}
			return g.format.emit(cmd.OutOrStdout(), v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "beeline %s, map layout %d\n", v.Version, v.MapLayout)
				return err
			})
		},
	}
	g.addOutput(cmd)
	return cmd
}

// buildVersion is the module's version; a build from a checkout has none.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// buildCommit is the commit that the binary was built from, if that is known.
func buildCommit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}
