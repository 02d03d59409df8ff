// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
)

func newService(g *global) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "service",
		Aliases: []string{"services", "svc"},
		Short:   "Show the Services that the kernel balances",
	})
	var interval time.Duration
	list := &cobra.Command{
		Use:   "list",
		Short: "List the Services in the kernel",
		Long: `Lists the frontends of all Services in the kernel. With --rates there is a line
for each Service port, with what it has a second: new connections, packets and
bytes, and what was refused or dropped. Packets and bytes are those of the packet
path; what sockets of this node send is not seen.`,
		Example: "  beeline service list\n  beeline service list --rates 2s",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("rates") {
				return g.serviceRates(cmd, interval)
			}
			return g.withPorts(func(ports []inspect.Port) error {
				return g.format.emit(cmd.OutOrStdout(), ports, func(w io.Writer) error {
					return writeTable(w, serviceHeader, serviceRows(ports))
				})
			})
		},
	}
	list.Flags().DurationVar(&interval, "rates", 0, "measure for this time what Services have a second")
	get := &cobra.Command{
		Use:     "get NAMESPACE/NAME",
		Short:   "Show one Service with its frontends and backends",
		Example: "  beeline service get default/nginx -o json",
		Args:    exactArgs(1),

		ValidArgsFunction: g.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withPorts(func(ports []inspect.Port) error {
				ports, err := portsOf(ports, args[0])
				if err != nil {
					return err
				}
				return g.format.emit(cmd.OutOrStdout(), ports, func(w io.Writer) error { return describe(w, ports) })
			})
		},
	}
	g.addFlags(list)
	g.addFlags(get)
	cmd.AddCommand(list, get)
	return cmd
}

// serviceRates lists the Services with what they have a second.
func (g *global) serviceRates(cmd *cobra.Command, interval time.Duration) error {
	if interval < leastInterval {
		return usage(fmt.Errorf("--rates %v: must be %v or more", interval, leastInterval))
	}
	return g.measure(cmd.Context(), interval, func(o inspect.Overview) (bool, error) {
		return false, g.format.emit(cmd.OutOrStdout(), o.Services, func(w io.Writer) error {
			return writeTable(w, rateHeader, rateRows(o.Services))
		})
	})
}

var rateHeader = []string{"NAMESPACE", "NAME", "PORT", "PROTO", "FAMILY", "BACKENDS", "NEW/S", "PACKETS/S", "BYTES/S", "REFUSED/S"}

func rateRows(all []inspect.Serving) [][]string {
	rows := make([][]string, len(all))
	for i, s := range all {
		rows[i] = []string{
			s.Namespace, s.Name, orDash(s.Port.Port), s.Protocol, s.Family, members(s.Cluster),
			rateText(s.Rates.Connections), rateText(s.Rates.Packets), rateText(s.Rates.RequestBytes + s.Rates.ReplyBytes),
			rateText(s.Rates.Refusals),
		}
	}
	return rows
}

func (g *global) withPorts(f func([]inspect.Port) error) error {
	return g.read(func(t *maps.Tables) error {
		ports, err := inspect.Ports(t)
		if err != nil {
			return err
		}
		return f(ports)
	})
}

// portsOf picks one Service's ports; a name without a namespace is in default.
func portsOf(all []inspect.Port, name string) ([]inspect.Port, error) {
	namespace, service, ok := strings.Cut(name, "/")
	if !ok {
		namespace, service = "default", name
	}
	var ports []inspect.Port
	for _, p := range all {
		if p.Namespace == namespace && p.Name == service {
			ports = append(ports, p)
		}
	}
	if len(ports) == 0 {
		return nil, exitError{exitNotFound, fmt.Errorf("Service %s/%s is not in the kernel", namespace, service)}
	}
	return ports, nil
}

var serviceHeader = []string{"NAMESPACE", "NAME", "PORT", "KIND", "FRONTEND", "BACKENDS", "POLICY", "AFFINITY"}

func serviceRows(ports []inspect.Port) [][]string {
	var rows [][]string
	for _, p := range ports {
		for _, f := range p.Frontends {
			rows = append(rows, []string{
				p.Namespace, p.Name, orDash(p.Port), f.Kind, f.Address + "/" + p.Protocol,
				members(p.Cluster), policies(f), seconds(f.AffinitySeconds),
			})
		}
	}
	return rows
}

func members(s inspect.Set) string {
	if len(s.Backends) == 0 {
		return "0 (" + s.Empty + ")"
	}
	return strconv.Itoa(len(s.Backends))
}

// policies is one word while both agree.
func policies(f inspect.Frontend) string {
	if f.InternalPolicy == f.ExternalPolicy {
		return f.InternalPolicy
	}
	return "internal " + f.InternalPolicy + ", external " + f.ExternalPolicy
}

func seconds(n uint32) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%ds", n)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// describe prints everything about a Service.
func describe(w io.Writer, ports []inspect.Port) error {
	for i, p := range ports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s/%s  port %s  %s  %s  index %d\n", p.Namespace, p.Name, orDash(p.Port), p.Protocol, p.Family, p.Index)
		fmt.Fprintln(w, "\nFrontends")
		var rows [][]string
		for _, f := range p.Frontends {
			rows = append(rows, []string{f.Kind, f.Address, policies(f), seconds(f.AffinitySeconds)})
		}
		if err := writeTable(w, []string{"KIND", "ADDRESS", "POLICY", "AFFINITY"}, rows); err != nil {
			return err
		}
		fmt.Fprintf(w, "\nBackends: %s for policy Cluster, %s for policy Local\n", members(p.Cluster), members(p.Local))
		rows = nil
		for _, b := range p.Backends {
			rows = append(rows, backendRow(b))
		}
		if err := writeTable(w, backendHeader, rows); err != nil {
			return err
		}
	}
	return nil
}
