// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/check"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/survey"
)

// checked is the answer of `beeline check`.
type checked struct {
	Usable   bool            `json:"usable"`
	Findings []check.Finding `json:"findings"`
	// Programs are all on the hooks that Beeline uses, in the order in which
	// they run.
	Programs []check.Program `json:"programs"`
}

func newCheck(g *global) *cobra.Command {
	var strict, shadow bool
	var from shadowFlags
	o := survey.Options{CgroupRoot: config.Default().Kernel.CgroupRoot}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether this node can carry Beeline, and what gets in its way",
		Long: `Looks at the kernel, the file systems, other proxies and their rules, other BPF
programs, and the settings that Services depend on; before an installation and
after. Changes nothing.

With --shadow something else: compares what Beeline would decide about every
frontend, for clients outside, in a pod and on the node, with what kube-proxy's
rules on this node decide, and lists where they differ.

Exit status: 0 usable, 4 not usable; with --strict 4 if there is a warning, too;
with --shadow 4 if there is a mismatch.`,
		Example: `  beeline check
  beeline check --strict -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if shadow {
				return g.shadow(cmd, from)
			}
			o.BPFFS = g.bpffs
			facts := survey.Gather(o)
			a := checked{Findings: check.Judge(facts), Programs: facts.Programs}
			if a.Programs == nil {
				a.Programs = []check.Program{}
			}
			a.Usable = check.Verdict(a.Findings, strict)
			if err := g.format.emit(cmd.OutOrStdout(), a, a.table); err != nil {
				return err
			}
			if !a.Usable {
				return exitError{exitDegraded, fmt.Errorf("not as it should be")}
			}
			return nil
		},
	}
	g.addFlags(cmd)
	cmd.Flags().BoolVar(&shadow, "shadow", false, "beside a running kube-proxy, list what Beeline would decide differently from its rules; touches no traffic")
	from.add(cmd.Flags(), "with --shadow: ")
	cmd.Flags().BoolVar(&strict, "strict", false, "take a warning for a failure")
	cmd.Flags().StringVar(&o.CgroupRoot, "cgroup-root", o.CgroupRoot, "cgroup v2 folder that the agent serves")
	return cmd
}

func (a checked) table(w io.Writer) error {
	var rows [][]string
	for _, f := range a.Findings {
		rows = append(rows, []string{f.Check, string(f.Level), f.Found})
	}
	if err := writeTable(w, []string{"CHECK", "RESULT", "FOUND"}, rows); err != nil {
		return err
	}
	for _, f := range a.Findings {
		if f.Level == check.OK || f.Costs == "" && f.Mend == "" {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", f.Check, f.Found)
		if f.Costs != "" {
			fmt.Fprintf(w, "  costs:      %s\n", f.Costs)
		}
		if f.Mend != "" {
			fmt.Fprintf(w, "  to mend it: %s\n", f.Mend)
		}
	}
	return nil
}
