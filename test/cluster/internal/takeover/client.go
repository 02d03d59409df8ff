// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// client is the load program at work, in a pod or outside the nodes. It ends with
// its standard input and then tells how it went.
type client struct {
	cmd            *exec.Cmd
	stdin          *os.File
	stdout, stderr strings.Builder
}

// begin starts the load program in the client pod and outside, and gives it time to
// connect.
func (r *run) begin(ctx context.Context, verb string) ([]*client, error) {
	var all []*client
	for _, start := range []func(*client, *os.File) error{
		func(c *client, stdin *os.File) error {
			c.cmd = cluster.KubectlCommand(ctx, r.Dirs(), slices.Concat(
				[]string{"--namespace=" + namespace, "exec", "--stdin", clientPod, "--", "/load", verb}, names(r.inside))...)
			c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, &c.stdout, &c.stderr
			return c.cmd.Start()
		},
		func(c *client, stdin *os.File) (err error) {
			program, err := r.loadProgram()
			if err == nil {
				c.cmd, err = r.StartWith(ctx, cluster.ControlBox, stdin, &c.stdout, &c.stderr, slices.Concat([]string{program, verb}, names(r.outside))...)
			}
			return err
		},
	} {
		c := &client{}
		theirs, ours, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		c.stdin = ours
		err = start(c, theirs)
		_ = theirs.Close()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", verb, err)
		}
		all = append(all, c)
	}
	return all, pause(ctx, 2*time.Second)
}

func names(targets []load.Target) (all []string) {
	for _, t := range targets {
		all = append(all, t.String())
	}
	return all
}

// loadProgram puts the load program into every box.
func (r *run) loadProgram() (string, error) {
	outside, inside := r.SharedDir("bin")
	to := filepath.Join(outside, "load")
	if _, err := os.Stat(to); err != nil {
		if err := os.WriteFile(to, r.Load(), 0o755); err != nil {
			return "", err
		}
	}
	return filepath.Join(inside, "load"), nil
}

// end ends clients and notes how it went.
func (r *run) end(what string, all []*client) error {
	for _, c := range all {
		_ = c.stdin.Close()
		if err := c.cmd.Wait(); err != nil {
			return fmt.Errorf("%s: %w: %s", what, err, c.stderr.String())
		}
		var results map[string]load.Kept
		if err := json.Unmarshal([]byte(c.stdout.String()), &results); err != nil {
			return fmt.Errorf("%s: %w: %s", what, err, c.stdout.String())
		}
		for name, k := range results {
			r.figures = append(r.figures, Figure{what + ", " + name, k})
		}
	}
	slices.SortFunc(r.figures, func(a, b Figure) int { return strings.Compare(a.What, b.What) })
	return nil
}
