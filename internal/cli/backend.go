// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/inspect"
)

func newBackend(g *global) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "backend",
		Aliases: []string{"backends"},
		Short:   "Show the endpoints that the kernel sends clients to",
	})
	list := &cobra.Command{
		Use:   "list [NAMESPACE/NAME]",
		Short: "List the backends in the kernel, of all Services or of one",
		Example: `  beeline backend list
  beeline backend list default/nginx -o yaml`,
		Args: maxArgs(1),

		ValidArgsFunction: g.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withPorts(func(ports []inspect.Port) (err error) {
				if len(args) == 1 {
					if ports, err = portsOf(ports, args[0]); err != nil {
						return err
					}
				}
				all := serviceBackends(ports)
				return g.format.emit(cmd.OutOrStdout(), all, func(w io.Writer) error { return backendTable(w, all) })
			})
		},
	}
	g.addFlags(list)
	cmd.AddCommand(list)
	return cmd
}

// serviceBackend is a backend with the Service port it belongs to.
type serviceBackend struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Port      string `json:"port,omitempty"`
	Protocol  string `json:"protocol"`
	inspect.Backend
}

func serviceBackends(ports []inspect.Port) []serviceBackend {
	all := []serviceBackend{}
	for _, p := range ports {
		for _, b := range p.Backends {
			all = append(all, serviceBackend{p.Namespace, p.Name, p.Port, p.Protocol, b})
		}
	}
	return all
}

var backendHeader = []string{"ADDRESS", "STATE", "LOCAL", "SETS", "INDEX", "GENERATION"}

func backendRow(b inspect.Backend) []string {
	return []string{
		b.Address, b.State, strconv.FormatBool(b.Local), orDash(strings.Join(b.Sets, ",")),
		strconv.FormatUint(uint64(b.Index), 10), strconv.FormatUint(uint64(b.Generation), 10),
	}
}

func backendTable(w io.Writer, all []serviceBackend) error {
	rows := make([][]string, len(all))
	for i, b := range all {
		rows[i] = append([]string{b.Namespace, b.Name, orDash(b.Port), b.Protocol}, backendRow(b.Backend)...)
	}
	return writeTable(w, append([]string{"NAMESPACE", "NAME", "PORT", "PROTOCOL"}, backendHeader...), rows)
}
