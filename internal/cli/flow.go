// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// flowList is what `beeline flow list` was asked for.
type flowList struct {
	filter         inspect.FlowFilter
	from, protocol string
	limit          int
}

func newFlow(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "flow",
		Aliases: []string{"flows"},
		Short:   "Show the flows of the packet path",
	}
	l := &flowList{}
	list := &cobra.Command{
		Use:   "list",
		Short: "List the flows in the kernel's flow table",
		Long: `Lists the flows of clients that have no socket on this node. Connections of
this node's own processes and pods are translated at the socket and have none.
Flows that have been silent for too long stay in the table until their place is
needed, and go on if a packet comes; --expired shows them, too.`,
		Example: "  beeline flow list --service default/web --state established",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return l.run(cmd, g) },
	}
	g.addFlags(list)
	f := list.Flags()
	f.StringVar(&l.filter.Service, "service", "", "only this Service: namespace/name or namespace/name:port")
	f.StringVar(&l.from, "address", "", "only where this address or CIDR is client, frontend or backend")
	f.StringVar(&l.protocol, "protocol", "", "only TCP, UDP or SCTP")
	f.StringVar(&l.filter.State, "state", "", "only this state: "+strings.Join(inspect.FlowStates(), ", "))
	f.BoolVar(&l.filter.Expired, "expired", false, "also flows that have been silent for too long")
	f.IntVarP(&l.limit, "count", "n", 0, "end after so many flows")
	_ = list.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(inspect.FlowStates(), cobra.ShellCompDirectiveNoFileComp))
	_ = list.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"TCP", "UDP", "SCTP"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(list)
	return cmd
}

func (l *flowList) parse() (err error) {
	l.filter.Service = qualified(l.filter.Service)
	if l.filter.Address, err = parseAddress(l.from); err != nil {
		return err
	}
	if l.filter.State != "" && !slices.Contains(inspect.FlowStates(), l.filter.State) {
		return fmt.Errorf("--state %s: must be one of %s", l.filter.State, strings.Join(inspect.FlowStates(), ", "))
	}
	if l.protocol != "" {
		if l.filter.Protocol, err = model.ParseProtocol(strings.ToUpper(l.protocol)); err != nil {
			return fmt.Errorf("--protocol: %w", err)
		}
	}
	return nil
}

func (l *flowList) run(cmd *cobra.Command, g *global) error {
	if err := l.parse(); err != nil {
		return usage(err)
	}
	timeouts, err := datapath.FlowTimeouts(datapath.NewPins(g.bpffs))
	if err != nil {
		return err
	}
	return g.read(func(t *maps.Tables) error {
		flows := []inspect.Flow{}
		inspect.Flows(t, inspect.NewNames(t, g.pods(cmd.Context()), time.Now), timeouts, l.filter, func(f inspect.Flow) bool {
			flows = append(flows, f)
			return l.limit == 0 || len(flows) < l.limit
		})
		return g.format.emit(cmd.OutOrStdout(), flows, func(w io.Writer) error { return writeTable(w, flowHeader, flowRows(flows)) })
	})
}

var flowHeader = []string{"PROTO", "STATE", "CLIENT", "SERVICE", "FRONTEND", "BACKEND", "SOURCE", "IDLE", "AGE"}

func flowRows(flows []inspect.Flow) [][]string {
	rows := make([][]string, len(flows))
	for i, f := range flows {
		service, state := "-", f.State
		if f.Service != nil {
			service = f.Service.String()
		}
		if f.Expired {
			state += " (expired)"
		}
		backend := f.Backend.String()
		if f.BackendGone {
			backend += " (removed)"
		}
		rows[i] = []string{
			f.Protocol, state, f.Client.String(), service, f.Frontend, backend, orDash(f.Source),
			age(f.IdleSeconds), age(f.AgeSeconds),
		}
	}
	return rows
}

func age(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }
