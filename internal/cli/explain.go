// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/check"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/probe"
	"github.com/beeline-net/beeline/internal/survey"
)

func newExplain(g *global) *cobra.Command {
	f := &probe.Asker{}
	cmd := &cobra.Command{
		Use:   "explain {tcp|udp|sctp} ADDRESS:PORT | svc/NAMESPACE/NAME[:PORT]",
		Short: "Say where a connection to a Service would go, and why",
		Long: `Says step by step what this node makes of a connection: which Service it is for,
which endpoints may get it and why the others do not, what the client sees.

What it says comes from the kernel's live tables. For packets the real program is
asked in a dry run, which leaves no trace; socket hooks cannot be run so, and are
interpreted. Why an endpoint is missing is learnt from the running agent, or from
--manifests or --kubeconfig; without any of these the kernel's tables must do.

Exit status: 0 it reaches a backend, 4 it does not (or two accounts of it
disagree), 3 Beeline is not in this kernel, 2 wrong usage.`,
		Example: `  beeline explain svc/default/web
  beeline explain svc/default/web:http --from pod/default/client
  beeline explain udp 10.96.0.10:53 --from 10.244.1.5
  beeline explain tcp 192.0.2.10:30080 --from 203.0.113.7 -o json`,
		Args: explainArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.explain(cmd, args, f)
		},
		ValidArgsFunction: g.completeTarget,
	}
	g.addFlags(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.From, "from", "node", "the client: node, pod/NAMESPACE/NAME, or an address with or without a port")
	fl.StringVar(&f.Objects.Manifests, "manifests", "", "learn of objects from this folder instead of the agent")
	fl.StringVar(&f.Objects.Kubeconfig, "kubeconfig", "", "learn of objects, pods among them, from this file's API server instead of the agent")
	fl.StringVar(&f.Objects.Node, "node-name", "", "name of this node, with --manifests or --kubeconfig")
	fl.StringVar(&f.Objects.Zone, "zone", "", "zone of this node, with --manifests or --kubeconfig")
	fl.StringVar(&f.Device, "device", "", "device by which the client's packets come in; by default the one that the routes name")
	fl.StringVar(&f.Netns, "netns", "", "the client's network namespace, as a path; by default the one that has its address")
	fl.BoolVar(&f.PacketsOnly, "packets", false, "leave the socket hooks out: the client is a VM, or in a sandbox with a network stack of its own")
	return cmd
}

func explainArgs(_ *cobra.Command, args []string) error {
	if len(args) == 1 && strings.HasPrefix(args[0], "svc/") || len(args) == 2 {
		return nil
	}
	return exitError{exitUsage, errors.New("say what to explain: a protocol with ADDRESS:PORT, or svc/NAMESPACE/NAME[:PORT]")}
}

func (g *global) explain(cmd *cobra.Command, args []string, x *probe.Asker) error {
	if err := g.installed(); err != nil {
		return err
	}
	pins := datapath.NewPins(g.bpffs)
	kernel, err := probe.Open(pins)
	if errors.Is(err, fs.ErrNotExist) {
		return exitError{exitNotFound, errNotInstalled}
	}
	if err != nil {
		return err
	}
	defer func() { _ = kernel.Close() }()
	x.Pins, x.Kernel = pins, kernel
	x.Front = inFront(survey.Options{BPFFS: g.bpffs, CgroupRoot: config.Default().Kernel.CgroupRoot})
	answers, err := x.Answers(cmd.Context(), args)
	if err != nil {
		return explainError(err)
	}
	if err := g.format.emit(cmd.OutOrStdout(), answers, func(w io.Writer) error { return explainText(w, answers) }); err != nil {
		return err
	}
	for _, a := range answers {
		if !a.Works() || len(a.Disagreements) > 0 {
			return exitError{exitDegraded, fmt.Errorf("%s: %s", a.Target, a.Reason)}
		}
	}
	return nil
}

// inFront is what else on the node could decide.
func inFront(o survey.Options) (all []explain.Finding) {
	for _, f := range check.InFront(survey.Neighbourhood(o)) {
		all = append(all, explain.Finding{Reason: explain.InFront, Message: f.Check + ": " + f.Found + "; " + f.Costs, Mend: f.Mend})
	}
	return all
}

// explainError gives an error its exit status.
func explainError(err error) error {
	var wrong probe.UsageError
	var missing probe.NotFoundError
	switch {
	case errors.As(err, &wrong):
		return exitError{exitUsage, err}
	case errors.As(err, &missing):
		return exitError{exitNotFound, err}
	}
	return err
}

func explainText(w io.Writer, answers []explain.Answer) error {
	for i, a := range answers {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := answerText(w, a); err != nil {
			return err
		}
	}
	return nil
}

func answerText(w io.Writer, a explain.Answer) error {
	fmt.Fprintf(w, "%s/%s", a.Target, a.Protocol)
	if a.Service != "" {
		fmt.Fprintf(w, " is %s of Service %s, port %s", orDash(a.Frontend), a.Service, orDash(a.Port))
	}
	fmt.Fprintf(w, "\n%s: %s\n", strings.ToUpper(a.Verdict), a.Becomes)
	for _, d := range a.Disagreements {
		fmt.Fprintf(w, "\n!!! DISAGREEMENT: %s\n!!! Please report this with the output of -o yaml.\n", d)
	}
	if len(a.Findings) > 0 {
		fmt.Fprintln(w, "\nWhy")
	}
	for _, f := range a.Findings {
		fmt.Fprintf(w, "  %s: %s\n", f.Reason, f.Message)
		if f.Mend != "" {
			fmt.Fprintf(w, "    to mend it: %s\n", f.Mend)
		}
	}
	for _, p := range a.Paths {
		fmt.Fprintf(w, "\nStep by step: %s -> %s\n  answered by %s\n", p.Name, p.Verdict, p.AnsweredBy)
		for _, s := range p.Steps {
			fmt.Fprintf(w, "  - %s\n", s)
		}
		runText(w, p.Run)
	}
	if len(a.Backends) > 0 {
		fmt.Fprintln(w)
		if err := writeTable(w, []string{"ENDPOINT", "POD", "NODE", "ELIGIBLE", "WHY"}, endpointRows(a.Backends)); err != nil {
			return err
		}
	}
	for _, u := range a.Unknown {
		fmt.Fprintf(w, "\nUnknown: %s\n", u)
	}
	return nil
}

func runText(w io.Writer, r *explain.Run) {
	if r == nil {
		return
	}
	switch {
	case r.Established:
		fmt.Fprintf(w, "  - the program: part of a flow that exists, on to %v\n", r.Backend)
	case r.Source.IsValid():
		fmt.Fprintf(w, "  - the program: this time to %v, which sees %v\n", r.Backend, r.Source)
	}
	for _, note := range append([]string{r.Note}, r.Reasons...) {
		if note != "" {
			fmt.Fprintf(w, "  - the program: %s\n", note)
		}
	}
	if r.OtherThanLive {
		fmt.Fprintln(w, "  - the program on the device is of another version than this command")
	}
}

func endpointRows(all []explain.Backend) [][]string {
	rows := make([][]string, len(all))
	for i, b := range all {
		eligible := "no"
		if b.Eligible {
			eligible = "yes"
		}
		why := b.Why
		if b.SourceNAT && why == "" {
			why = "sees an address of this node"
		}
		rows[i] = []string{b.Address, orDash(b.Pod), orDash(b.Node), eligible, orDash(why)}
	}
	return rows
}
