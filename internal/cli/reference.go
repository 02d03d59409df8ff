// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

//go:generate go test -run TestReferencePage -update .

const referenceIntro = "# Command line\n\n" +
	"<!-- Generated from internal/cli by \"go generate ./internal/cli\"; do not edit. -->\n\n" +
	"`beeline` is the agent and the operator's tool. All verbs but `agent` and `demo` read the\n" +
	"kernel, so they work while no agent runs; `explain` says what it could not learn then.\n" +
	"They need root, and the agent's `--bpffs` if it has another than `/sys/fs/bpf`.\n\n" +
	"## Exit status\n\n" +
	"| status | means |\n| --- | --- |\n" +
	"| 0 | done; what was asked about is as it should be |\n" +
	"| 1 | could not do it; the reason is on standard error |\n" +
	"| 2 | the command line makes no sense |\n" +
	"| 3 | what was asked for does not exist: no such Service, or no Beeline in this kernel |\n" +
	"| 4 | answered, and the answer is that something is wrong |\n\n" +
	"## Output\n\n" +
	"`-o table` is for people and may change; `-o json` and `-o yaml` are for scripts: fields are\n" +
	"added, not renamed or removed. Answers go to standard output, complaints to standard\n" +
	"error.\n\n" +
	"## In a shell, and below kubectl\n\n" +
	"`beeline completion bash|zsh|fish|powershell` prints a script that completes verbs, flags, and\n" +
	"the names of Services and addresses that are in the kernel:\n\n" +
	"```sh\nsource <(beeline completion bash)\n```\n\n" +
	"Under the name `kubectl-beeline`, somewhere in `PATH`, the same binary is the plugin\n" +
	"`kubectl beeline`. The kernel that it reads is that of the machine it runs on: run it on a\n" +
	"node, or in the agent's pod with\n" +
	"`kubectl -n kube-system exec ds/beeline -- beeline status`.\n"

// reference is the reference page of all verbs.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	for _, cmd := range verbs(newRoot("beeline")) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\n%s\n```\n", cmd.CommandPath(), long(cmd), cmd.UseLine())
		if cmd.Example != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", unindent(cmd.Example))
		}
		if cmd.Name() == "agent" {
			b.WriteString("\nIts flags are in [Configuration](configuration.md).\n")
			continue
		}
		if flags := strings.TrimRight(cmd.LocalFlags().FlagUsages(), "\n"); flags != "" {
			fmt.Fprintf(&b, "\n```\n%s\n```\n", flags)
		}
	}
	return b.String()
}

// verbs lists the commands that do something and are not hidden, parents before
// children, in cobra's order.
func verbs(cmd *cobra.Command) (all []*cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Runnable() && !c.HasSubCommands() || c.Name() == "demo" {
			all = append(all, c)
		}
		all = append(all, verbs(c)...)
	}
	return all
}

func long(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return strings.TrimSpace(cmd.Long)
	}
	return cmd.Short + "."
}

func unindent(example string) string {
	var lines []string
	for line := range strings.Lines(example) {
		lines = append(lines, strings.TrimPrefix(strings.TrimRight(line, "\n"), "  "))
	}
	return strings.Join(lines, "\n")
}
