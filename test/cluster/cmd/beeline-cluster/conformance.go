// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/conformance"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// resultsDir holds the results, below the work tree; conformancePage is made from them.
const (
	resultsDir      = "test/cluster/conformance"
	conformancePage = "docs/conformance.md"
)

// conformanceFlags say what to run.
type conformanceFlags struct {
	classes, match, again string
	procs                 int
}

func (r *runner) newConformance() *cobra.Command {
	var f conformanceFlags
	cmd := &cobra.Command{
		Use: "conformance", Short: "Run the official [sig-network] tests", Args: cobra.NoArgs,
		Long: `Runs the official end-to-end tests of Kubernetes that are about Services, one after the
other on clusters with three and six nodes, both families, and keeps the results after
every few tests: an interrupted run is resumed by the next. Then writes ` + conformancePage + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.conformance(cmd.Context(), f) },
	}
	r.proxyFlags(cmd, cluster.Beeline)
	cmd.Flags().StringVar(&f.classes, "classes", "", "classes of tests, e.g. PAD (default: all; see test/cluster/internal/conformance/tests.yaml)")
	cmd.Flags().StringVar(&f.match, "match", "", "only tests whose name matches this regular expression")
	cmd.Flags().StringVar(&f.again, "again", string(conformance.Resume),
		"resume: tests without a result; failed: those that did not pass; all: every test")
	cmd.Flags().IntVar(&f.procs, "procs", 4, "how many tests run at once, where they may")
	return cmd
}

func (r *runner) conformance(ctx context.Context, f conformanceFlags) error {
	r.cfg.Nodes = 1 // for the check; the tests say how many they need
	r.wants.Tests = true
	if err := r.check(); err != nil {
		return err
	}
	k, cache, err := r.makeKit(ctx)
	if err != nil {
		return err
	}
	run, err := r.newRun(ctx, f, k)
	if err != nil {
		return err
	}
	for _, nodes := range run.Nodes() {
		if err := r.conformanceOn(ctx, run, nodes, k, cache); err != nil {
			return err
		}
	}
	return r.writePage()
}

func (r *runner) newRun(ctx context.Context, f conformanceFlags, k *kit.Kit) (*conformance.Run, error) {
	match, err := regexp.Compile(f.match)
	if err != nil {
		return nil, fmt.Errorf("--match: %w", err)
	}
	opts := conformance.Options{
		Dir: filepath.Join(r.tree, resultsDir), Match: match.MatchString,
		Again: conformance.Again(f.again), Procs: f.procs, Version: k.KubernetesVersion,
	}
	for _, c := range f.classes {
		opts.Classes = append(opts.Classes, conformance.Class(c))
	}
	if cluster.Proxy(r.proxy) == cluster.Beeline {
		if opts.Version, err = treeVersion(ctx, r.tree); err != nil {
			return nil, err
		}
		opts.Version = strings.Join(append([]string{opts.Version}, r.cfg.AgentArgs...), " ")
	}
	return conformance.NewRun(conformance.Variant{Proxy: r.proxy, CNI: r.cni}, opts, r.log)
}

// treeVersion is the last commit that changed what Beeline is made of, and
// whether there is more in the work tree than in that.
func treeVersion(ctx context.Context, tree string) (string, error) {
	git := func(args ...string) (string, error) {
		args = append([]string{"-C", tree}, append(args, "--", "cmd", "internal", "deploy", "go.mod", "go.sum")...)
		out, err := exec.CommandContext(ctx, "git", args...).Output()
		if err != nil {
			return "", fmt.Errorf("which version this is: git %s: %w", args[2], err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	commit, err := git("log", "-1", "--format=%h", "--abbrev=12")
	if err != nil {
		return "", err
	}
	changed, err := git("status", "--porcelain")
	if changed != "" {
		commit += "+changes"
	}
	return commit, err
}

// conformanceOn runs the tests that need this many nodes on a cluster of their own.
func (r *runner) conformanceOn(ctx context.Context, run *conformance.Run, nodes int, k *kit.Kit, cache kit.Cache) (err error) {
	conformance.Configure(&r.cfg, nodes)
	c, err := cluster.Start(ctx, r.cfg, k, cache, r.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.InstallProxy(ctx, cluster.Proxy(r.proxy)); err != nil {
		c.Explain(ctx, os.Stderr)
		return err
	}
	if _, err := c.Kubectl(ctx, "--namespace=kube-system", "rollout", "status", "deployment/coredns", "--timeout=180s"); err != nil {
		c.Explain(ctx, os.Stderr)
		return fmt.Errorf("wait for DNS: %w", err)
	}
	return run.On(ctx, c)
}

func (r *runner) newConformancePage() *cobra.Command {
	return &cobra.Command{
		Use: "conformance-page", Short: "Write " + conformancePage + " from the results", Args: cobra.NoArgs,
		Long: "Writes " + conformancePage + " from the results, and fails if kube-proxy passes a test that Beeline does not.",
		RunE: func(*cobra.Command, []string) (err error) {
			if r.tree == "" {
				if r.tree, err = kit.FindTree(); err != nil {
					return err
				}
			}
			return errors.Join(r.writePage(), conformance.Verdict(filepath.Join(r.tree, resultsDir)))
		},
	}
}

func (r *runner) writePage() error {
	text, err := conformance.Page(filepath.Join(r.tree, resultsDir))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.tree, conformancePage), []byte(text), 0o644)
}
