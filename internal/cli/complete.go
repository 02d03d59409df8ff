// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
)

// services lists the Services in the kernel as NAMESPACE/NAME; none if it cannot
// be read: a shell must not be bothered with why.
func (g *global) services() (names []string) {
	_ = g.read(func(t *maps.Tables) error {
		ports, err := inspect.Ports(t)
		for _, p := range ports {
			if p.Namespace != "" {
				names = append(names, p.Namespace+"/"+p.Name)
			}
		}
		return err
	})
	slices.Sort(names)
	return slices.Compact(names)
}

// completeService completes the name of a Service.
func (g *global) completeService(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return beginning(g.services(), begun), cobra.ShellCompDirectiveNoFileComp
}

// completeTarget completes what `beeline explain` can be asked about.
func (g *global) completeTarget(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	var all []string
	switch len(args) {
	case 0:
		all = []string{"tcp", "udp", "sctp"}
		for _, s := range g.services() {
			all = append(all, "svc/"+s)
		}
	case 1:
		if !strings.HasPrefix(args[0], "svc/") {
			all = g.frontends(strings.ToUpper(args[0]))
		}
	}
	return beginning(all, begun), cobra.ShellCompDirectiveNoFileComp
}

// completeServiceTarget completes svc/NAMESPACE/NAME.
func (g *global) completeServiceTarget(_ *cobra.Command, args []string, begun string) (all []string, _ cobra.ShellCompDirective) {
	if len(args) == 0 {
		for _, s := range g.services() {
			all = append(all, "svc/"+s)
		}
	}
	return beginning(all, begun), cobra.ShellCompDirectiveNoFileComp
}

// frontends lists the addresses of one protocol.
func (g *global) frontends(protocol string) (addrs []string) {
	_ = g.read(func(t *maps.Tables) error {
		ports, err := inspect.Ports(t)
		for _, p := range ports {
			for _, f := range p.Frontends {
				if p.Protocol == protocol && p.Namespace != "" && !strings.HasPrefix(f.Address, "*") {
					addrs = append(addrs, f.Address)
				}
			}
		}
		return err
	})
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

func beginning(all []string, with string) []string {
	return slices.DeleteFunc(all, func(s string) bool { return !strings.HasPrefix(s, with) })
}
