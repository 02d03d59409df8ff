// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line: one file a verb. A verb parses, asks
// another package, and prints; it decides nothing.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
)

// Exit statuses that scripts may rely on.
const (
	exitOK       = 0
	exitFailed   = 1 // the verb could not do its work
	exitUsage    = 2 // the command line makes no sense
	exitNotFound = 3 // what was asked for does not exist
	exitDegraded = 4 // answered, and the answer is that something is broken
)

// exitError gives an error an exit status of its own.
type exitError struct {
	status int
	err    error
}

func (e exitError) Error() string { return e.err.Error() }
func (e exitError) Unwrap() error { return e.err }

// Run executes one command line, whose first element is the program's name, and
// returns the exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(calledAs(args[0]))
	root.SetArgs(args[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := execute(ctx, root)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "beeline:", err)
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return exit.status
	case strings.HasPrefix(err.Error(), "unknown command"): // cobra has no type for it
		return exitUsage
	}
	return exitFailed
}

// calledAs is what users call the program: a plugin of kubectl goes by the name
// of its file.
func calledAs(path string) string {
	if strings.HasPrefix(filepath.Base(path), "kubectl-beeline") {
		return "kubectl beeline"
	}
	return "beeline"
}

// execute turns a panic into words: a stack trace tells users nothing. The agent
// is left alone, whose log is for who mends it.
func execute(ctx context.Context, root *cobra.Command) (err error) {
	defer func() {
		cmd, _, _ := root.Find(os.Args[min(1, len(os.Args)):])
		if cmd != nil && cmd.Name() == "agent" || os.Getenv("BEELINE_TRACE") != "" {
			return
		}
		if r := recover(); r != nil {
			err = fmt.Errorf("a mistake in Beeline: %v; please report it with the output of this command and BEELINE_TRACE=1 set", r)
		}
	}()
	return root.ExecuteContext(ctx)
}

// global is what every verb that looks at the kernel shares.
type global struct {
	bpffs  string
	format format
}

func newRoot(name string) *cobra.Command {
	g := &global{bpffs: "/sys/fs/bpf", format: formatTable}
	root := &cobra.Command{
		Use:         "beeline",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: name},
		Short:       "Kubernetes Services without kube-proxy, straight through the kernel",
		Long: `Beeline implements Kubernetes Services in the kernel with eBPF, beside any CNI.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 answered, but
something is broken.`,
		Example: `  beeline check                           # before an installation, and after
  beeline status
  beeline service get default/nginx
  beeline explain svc/default/nginx       # why does my Service not work?`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitError{exitUsage, err} })
	root.AddCommand(
		newAgent(),
		newStatus(g),
		newService(g),
		newBackend(g),
		newExplain(g),
		newCheck(g),
		newFlow(g),
		newMonitor(g),
		newCapture(g),
		newTop(g),
		newTakeover(g),
		newCleanup(g),
		newDemo(),
		newVersion(g),
	)
	return root
}

// addFlags declares the flags of a verb that reads the kernel.
func (g *global) addFlags(cmd *cobra.Command) {
	g.addBPFFS(cmd)
	g.addOutput(cmd)
}

func (g *global) addOutput(cmd *cobra.Command) {
	cmd.Flags().VarP(&g.format, "output", "o", "table, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(
		[]string{string(formatTable), string(formatJSON), string(formatYAML)}, cobra.ShellCompDirectiveNoFileComp))
}

func (g *global) addBPFFS(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.bpffs, "bpffs", g.bpffs, "mount point of the BPF filesystem that the agent uses")
}

// errNotInstalled tells users in their words that nothing is pinned.
var errNotInstalled = errors.New("Beeline is not in this kernel: no agent has run with this --bpffs since boot or cleanup")

// installed says in users' words why there is nothing to read.
func (g *global) installed() error {
	_, err := os.Stat(datapath.NewPins(g.bpffs).String())
	switch {
	case errors.Is(err, fs.ErrPermission):
		return errors.New("reading the kernel's tables needs root")
	case err != nil:
		return exitError{exitNotFound, errNotInstalled}
	}
	return nil
}

// group makes a command of one that only has others below it: alone it prints
// its help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// read opens the live maps and hands them to f.
func (g *global) read(f func(*maps.Tables) error) error {
	if err := g.installed(); err != nil {
		return err
	}
	opened, err := datapath.OpenMaps(datapath.NewPins(g.bpffs))
	if errors.Is(err, fs.ErrNotExist) {
		return exitError{exitNotFound, errNotInstalled}
	}
	if err != nil {
		return err
	}
	defer datapath.CloseMaps(opened)
	tables, err := maps.NewReadOnly(opened)
	if err != nil {
		return err
	}
	return errors.Join(f(tables), tables.Close())
}

// noArgs is cobra.NoArgs with our exit status.
func noArgs(cmd *cobra.Command, args []string) error { return usage(cobra.NoArgs(cmd, args)) }

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return usage(cobra.MaximumNArgs(n)(cmd, args)) }
}

func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error { return usage(cobra.ExactArgs(n)(cmd, args)) }
}

func usage(err error) error {
	if err != nil {
		return exitError{exitUsage, err}
	}
	return nil
}
