// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the reference page")

func TestReferencePage(t *testing.T) {
	const page = "../../docs/reference/cli.md"
	if *update {
		if err := os.WriteFile(page, []byte(reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), reference()); diff != "" {
		t.Errorf("%s is out of date; run go generate ./internal/cli (-committed +generated):\n%s", page, diff)
	}
}

// run is a command line on a machine where Beeline is not.
func run(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Run(t.Context(), append([]string{"/usr/bin/beeline"}, args...), &out, &errs)
	return out.String(), errs.String(), status
}

// Every verb, whoever adds it: help that says what it does, an output for
// scripts, and the exit statuses of the reference.
func TestEveryVerb(t *testing.T) {
	shows := []string{"agent", "demo"} // run until they end, and answer nothing
	for _, cmd := range verbs(newRoot("beeline")) {
		path := strings.Fields(cmd.CommandPath())[1:]
		t.Run(strings.Join(path, " "), func(t *testing.T) {
			if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("its short help is %q", cmd.Short)
			}
			if takesArgs(cmd) && cmd.Example == "" {
				t.Error("takes arguments and has no example")
			}
			if takesArgs(cmd) && cmd.ValidArgsFunction == nil {
				t.Error("takes arguments and completes none")
			}
			if !slices.Contains(shows, path[0]) && cmd.Flags().Lookup("output") == nil {
				t.Error("has no -o")
			}
			if out, _, status := run(t, append(path, "--help")...); status != exitOK || !strings.Contains(out, "Usage:") {
				t.Errorf("--help: status %d: %s", status, out)
			}
			if _, errs, status := run(t, append(path, "--no-such-flag")...); status != exitUsage || errs == "" {
				t.Errorf("an unknown flag: status %d: %s", status, errs)
			}
			if _, errs, status := run(t, append(path, "too", "many", "words", "by", "far")...); status != exitUsage || errs == "" {
				t.Errorf("too many arguments: status %d: %s", status, errs)
			}
			if cmd.Flags().Lookup("output") != nil {
				if _, errs, status := run(t, append(path, "-o", "nonsense")...); status != exitUsage || !strings.Contains(errs, "table, json or yaml") {
					t.Errorf("-o nonsense: status %d: %s", status, errs)
				}
			}
		})
	}
}

func takesArgs(cmd *cobra.Command) bool {
	return strings.ContainsAny(cmd.Use, "[{A") && strings.Contains(cmd.Use, " ")
}

// Every verb that reads the kernel says in the same words, and by the same exit
// status, that Beeline is not in it. Whoever adds a verb that needs arguments adds
// them here.
func TestWhereBeelineIsNot(t *testing.T) {
	nowhere := t.TempDir()
	with := map[string][][]string{
		"service get": {{"default/web"}},
		"explain":     {{"svc/default/web"}, {"tcp", "10.96.0.1:443"}},
	}
	otherwise := map[string]string{
		"check":   "says whether Beeline could be",
		"cleanup": "has nothing to do then, which is well",
	}
	asked := 0
	for _, cmd := range verbs(newRoot("beeline")) {
		path := strings.TrimPrefix(cmd.CommandPath(), "beeline ")
		if cmd.Flags().Lookup("bpffs") == nil || otherwise[path] != "" || path == "agent" {
			continue
		}
		all := with[path]
		if all == nil {
			all = [][]string{nil}
		}
		for _, args := range all {
			asked++
			out, errs, status := run(t, slices.Concat(strings.Fields(path), args, []string{"--bpffs", nowhere})...)
			if status != exitNotFound || out != "" || !strings.Contains(errs, "not in this kernel") {
				t.Errorf("%s %v: status %d, said %q and %q", path, args, status, out, errs)
			}
		}
	}
	if asked < 10 {
		t.Errorf("%d verbs were asked", asked)
	}
}

func TestNonsenseIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"service", "nonsense"}, {"backend", "nonsense"}, {"service", "get"},
		{"explain"}, {"explain", "web"},
	} {
		if _, errs, status := run(t, args...); status != exitUsage || errs == "" || strings.Contains(errs, "goroutine") {
			t.Errorf("%v: status %d: %s", args, status, errs)
		}
	}
}

func TestVersionForScripts(t *testing.T) {
	for format, want := range map[string]string{"json": `"mapLayout"`, "yaml": "mapLayout:", "table": "map layout"} {
		if out, _, status := run(t, "version", "-o", format); status != exitOK || !strings.Contains(out, want) {
			t.Errorf("%s: status %d: %s", format, status, out)
		}
	}
}

// A mistake of ours is told in words, and a script sees that it failed.
func TestNoStackTraces(t *testing.T) {
	root := newRoot("beeline")
	root.AddCommand(&cobra.Command{Use: "break", RunE: func(*cobra.Command, []string) error { panic("what nobody thought of") }})
	root.SetArgs([]string{"break"})
	err := execute(t.Context(), root)
	if err == nil || !strings.Contains(err.Error(), "what nobody thought of") || strings.Contains(err.Error(), "goroutine") {
		t.Errorf("said %v", err)
	}
}

func TestNamesOfTheProgram(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/local/bin/beeline": "beeline", "beeline": "beeline",
		"/usr/local/bin/kubectl-beeline": "kubectl beeline",
	} {
		var out, errs bytes.Buffer
		status := Run(t.Context(), []string{path, "status", "--help"}, &out, &errs)
		if status != exitOK || !strings.Contains(out.String(), "\n  "+want+" status [flags]") {
			t.Errorf("%s: status %d: %s", path, status, out.String())
		}
	}
}

func TestShellsComplete(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, errs, status := run(t, "completion", shell); status != exitOK || len(out) < 1000 {
			t.Errorf("%s: status %d, %d bytes: %s", shell, status, len(out), errs)
		}
	}
	out, _, _ := run(t, "__complete", "explain", "")
	for _, want := range []string{"tcp", "udp", "sctp"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("explain does not complete %s: %s", want, out)
		}
	}
	if out, _, _ := run(t, "__complete", "status", "-o", ""); !strings.Contains(out, "yaml\n") {
		t.Errorf("-o does not complete: %s", out)
	}
}
