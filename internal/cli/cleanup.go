// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/agent"
	"github.com/beeline-net/beeline/internal/datapath"
)

func newCleanup(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of Beeline from this kernel",
		Long: `Detaches the programs and removes the maps, so that the node is as if Beeline
had never been there. Services stop working until a proxy runs again;
established TCP connections go on. Settings of the system that the agent has
changed, and files that it has written, go back and away as well.

A running agent is ended first. If a DaemonSet or a service manager starts it again,
so is all of this: remove that before.`,
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
	// Stopped is the process id of the agent that was ended for it; 0: none ran.
	Stopped int `json:"stopped,omitempty"`
}

// stopTime is how long an agent may take to end.
const stopTime = 20 * time.Second

func cleanUp(bpffs string) (cleaned, error) {
	pins := datapath.NewPins(bpffs)
	c := cleaned{Removed: pins.Exists(), Pins: pins.String()}
	undo, unknown := agent.Undo(pins)
	err := datapath.Cleanup(pins)
	if errors.Is(err, datapath.ErrLocked) {
		if c.Stopped, err = stopAgent(pins); err == nil {
			err = datapath.Cleanup(pins)
		}
	}
	if err != nil {
		return c, err
	}
	return c, errors.Join(unknown, undo())
}

// stopAgent ends the agent that works on the pins, and returns its process id.
func stopAgent(pins datapath.Pins) (int, error) {
	pid, err := pins.Holder()
	if err != nil {
		return 0, fmt.Errorf("an agent is running: stop it, then clean up (%w)", err)
	}
	agent, err := os.FindProcess(pid)
	if err == nil {
		err = agent.Signal(syscall.SIGTERM)
	}
	if err != nil {
		return 0, fmt.Errorf("stop the agent, process %d: %w", pid, err)
	}
	for end := time.Now().Add(stopTime); pins.Locked(); time.Sleep(followPeriod) {
		if time.Now().After(end) {
			return 0, fmt.Errorf("an agent is running: process %d has not ended within %v of SIGTERM, or another has taken its place; remove its DaemonSet first", pid, stopTime)
		}
	}
	return pid, nil
}

func (c cleaned) table(w io.Writer) error {
	if c.Stopped != 0 {
		fmt.Fprintf(w, "stopped the agent, process %d\n", c.Stopped)
	}
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
