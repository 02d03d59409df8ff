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
			c, err := cleanUp(g.bpffs)
			if err != nil {
				return err
			}
			return g.format.emit(cmd.OutOrStdout(), c, c.table)
		},
	}
	g.addFlags(cmd)
	return cmd
}

// cleaned is the answer of `beeline cleanup`.
type cleaned struct {
	// Removed is false if nothing was there.
	Removed bool   `json:"removed"`
	Pins    string `json:"pins"`
}

func cleanUp(bpffs string) (cleaned, error) {
	pins := datapath.NewPins(bpffs)
	c := cleaned{pins.Exists(), pins.String()}
	err := datapath.Cleanup(pins)
	if errors.Is(err, datapath.ErrLocked) {
		return c, fmt.Errorf("an agent is running: stop it, then clean up (%w)", err)
	}
	return c, err
}

func (c cleaned) table(w io.Writer) error {
	if !c.Removed {
		fmt.Fprintf(w, "nothing to remove: no pins in %s\n", c.Pins)
		return nil
	}
	fmt.Fprintf(w, "removed all programs, maps and pins in %s\n", c.Pins)
	return nil
}

// cleanup is kube-proxy's flag of that name.
func cleanup(w io.Writer, bpffs string) error {
	c, err := cleanUp(bpffs)
	if err != nil {
		return err
	}
	return c.table(w)
}
