// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/datapath"
)

func newCleanup(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of Beeline from this kernel",
		Long: `Detaches the programs and removes the maps, so that the node is as if Beeline
had never been there. Services stop working until a proxy runs again;
established TCP connections go on. The agent must be stopped first.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cleanup(cmd.OutOrStdout(), g.bpffs)
		},
	}
	g.addBPFFS(cmd)
	return cmd
}

func cleanup(w io.Writer, bpffs string) error {
	pins := datapath.NewPins(bpffs)
	there := pins.Exists()
	err := datapath.Cleanup(pins)
	if errors.Is(err, datapath.ErrLocked) {
		return fmt.Errorf("an agent is running: stop it, then clean up (%w)", err)
	}
	if err != nil {
		return err
	}
	if !there {
		fmt.Fprintf(w, "nothing to remove: no pins in %s\n", pins)
		return nil
	}
	fmt.Fprintf(w, "removed all programs, maps and pins in %s\n", pins)
	return nil
}
