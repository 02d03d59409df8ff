// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/takeover"
)

// status is the answer of `beeline status`.
type status struct {
	// Agent: whether one runs now. The datapath works either way.
	AgentRunning bool            `json:"agentRunning"`
	Services     int             `json:"services"`
	Programs     []program       `json:"programs"`
	Tables       []inspect.Usage `json:"tables"`
	Counters     []inspect.Count `json:"counters"`
	// Takeover is how far the node is between kube-proxy and Beeline.
	Takeover takeover.State `json:"takeover"`
	// Held are the updates that the agent holds; nil if none runs.
	Held *agentsocket.Held `json:"held,omitempty"`
	// Problems is empty if every hook is in place and no table is full.
	Problems []string `json:"problems"`
}

type program struct {
	Name     string    `json:"name"`
	ID       uint32    `json:"id"`
	Tag      string    `json:"tag"`
	LoadedAt time.Time `json:"loadedAt"`
	CgroupID uint64    `json:"cgroupID"`
}

func newStatus(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether Beeline serves this node",
		Long: `Reads the kernel, not the agent: also works while no agent runs. Exits with 4
if a hook is missing or a table is full. What updates an agent holds, since they
take most backends from many Services at once, the agent tells.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s status
			pins := datapath.NewPins(g.bpffs)
			handover, err := readState(pins)
			if err != nil {
				return err
			}
			if handover.Phase == takeover.Returned {
				return exitError{exitNotFound, fmt.Errorf("the node was given back: %s", handover.Why)}
			}
			if err := g.read(func(t *maps.Tables) (err error) {
				s, err = readStatus(pins, t)
				return err
			}); err != nil {
				return err
			}
			s.Takeover = handover
			if s.Held, err = askHeld(cmd.Context(), pins); err != nil {
				s.Problems = append(s.Problems, err.Error())
			}
			if err := g.format.emit(cmd.OutOrStdout(), s, s.table); err != nil {
				return err
			}
			if len(s.Problems) > 0 {
				return exitError{exitDegraded, fmt.Errorf("problems: %d", len(s.Problems))}
			}
			return nil
		},
	}
	g.addFlags(cmd)
	return cmd
}

// heldPatience is how long an agent may take: what the kernel says is worth
// telling without it.
const heldPatience = 5 * time.Second

// askHeld asks the agent what it holds; nil if there is none.
func askHeld(ctx context.Context, pins datapath.Pins) (*agentsocket.Held, error) {
	name, err := pins.SocketName()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, heldPatience)
	defer cancel()
	var held *agentsocket.Held
	err = agentsocket.Get(ctx, name, agentsocket.HeldPath, nil, &held)
	if errors.Is(err, agentsocket.ErrNobody) {
		return nil, nil //nolint:nilnil // nobody to ask, and that is no error
	}
	return held, err
}

func readStatus(pins datapath.Pins, t *maps.Tables) (s status, err error) {
	s = status{AgentRunning: pins.Locked(), Programs: []program{}, Problems: []string{}}
	attached, problems := datapath.Attachments(pins)
	if problems != nil {
		s.Problems = strings.Split(problems.Error(), "\n")
	}
	for _, a := range attached {
		s.Programs = append(s.Programs, program{a.Program, a.ID, a.Tag, a.LoadedAt, a.CgroupID})
	}
	if s.Tables, err = inspect.Tables(t); err != nil {
		return s, err
	}
	for _, u := range s.Tables {
		// The others are filled by sockets, and do without when full.
		if u.Used >= u.Capacity && slices.Contains([]string{"backends", "slots", "services", "frontends"}, u.Table) {
			s.Problems = append(s.Problems, fmt.Sprintf("table %s is full: Services may be missing; the agent's log and Events name them", u.Table))
		}
	}
	if s.Counters, err = inspect.Counts(t); err != nil {
		return s, err
	}
	ports, err := inspect.Ports(t)
	if err != nil {
		return s, err
	}
	names := map[[2]string]bool{}
	for _, p := range ports {
		if p.Namespace != "" { // the agent's own self-test has none
			names[[2]string{p.Namespace, p.Name}] = true
		}
	}
	s.Services = len(names)
	return s, nil
}

func (s status) table(w io.Writer) error {
	agent := "not running (the kernel goes on with what it has)"
	if s.AgentRunning {
		agent = "running"
	}
	fmt.Fprintf(w, "Agent:     %s\nServices:  %d\n", agent, s.Services)
	if p := s.Takeover.Phase; p != "" && p != takeover.Alone {
		fmt.Fprintf(w, "Takeover:  %s since %s: %s\n", p, s.Takeover.Since.Format(time.DateTime), s.Takeover.Why)
	}
	if h := s.Held; h != nil && len(h.Services) > 0 {
		names := h.Services[:min(len(h.Services), 10)]
		fmt.Fprintf(w, "HELD:      updates that take most backends from %d Services at once, until %s: %s\n",
			len(h.Services), h.Until.Format(time.TimeOnly), strings.Join(names, ", "))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(w, "PROBLEM:   %s\n", p)
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, p := range s.Programs {
		rows = append(rows, []string{p.Name, strconv.FormatUint(uint64(p.ID), 10), p.Tag,
			strconv.FormatUint(p.CgroupID, 10), p.LoadedAt.Format(time.DateTime)})
	}
	if err := writeTable(w, []string{"PROGRAM", "ID", "TAG", "CGROUP", "LOADED"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, u := range s.Tables {
		rows = append(rows, []string{u.Table, strconv.Itoa(u.Used), strconv.Itoa(u.Capacity)})
	}
	if err := writeTable(w, []string{"TABLE", "USED", "CAPACITY"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, c := range s.Counters {
		rows = append(rows, []string{c.Name, strconv.FormatUint(c.Value, 10)})
	}
	return writeTable(w, []string{"COUNTER", "VALUE"}, rows)
}
