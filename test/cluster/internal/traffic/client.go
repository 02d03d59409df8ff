// SPDX-License-Identifier: Apache-2.0

package traffic

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

// Client is the load program at work, in a pod or outside the nodes. It ends with
// its standard input and then tells how it went.
type Client struct {
	cmd            *exec.Cmd
	stdin          *os.File
	stdout, stderr strings.Builder
}

// Begin starts the load program in the client pod and outside, with the verb loop
// or stream, and gives it time to connect.
func (r *Traffic) Begin(ctx context.Context, verb string) ([]*Client, error) {
	var all []*Client
	for _, start := range []func(*Client, *os.File) error{
		func(c *Client, stdin *os.File) error {
			c.cmd = cluster.KubectlCommand(ctx, r.Dirs(), slices.Concat(
				[]string{"--namespace=" + namespace, "exec", "--stdin", clientPod, "--", "/load", verb}, names(r.inside))...)
			c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, &c.stdout, &c.stderr
			return c.cmd.Start()
		},
		func(c *Client, stdin *os.File) (err error) {
			program, err := r.loadProgram()
			if err == nil {
				c.cmd, err = r.Cluster.StartWith(ctx, cluster.ControlBox, stdin, &c.stdout, &c.stderr, slices.Concat([]string{program, verb}, names(r.outside))...)
			}
			return err
		},
	} {
		c := &Client{}
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
	return all, Pause(ctx, 2*time.Second)
}

func names(targets []load.Target) (all []string) {
	for _, t := range targets {
		all = append(all, t.String())
	}
	return all
}

// loadProgram puts the load program into every box.
func (r *Traffic) loadProgram() (string, error) {
	outside, inside := r.SharedDir("bin")
	to := filepath.Join(outside, "load")
	if _, err := os.Stat(to); err != nil {
		if err := os.MkdirAll(outside, 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, r.Load(), 0o755); err != nil {
			return "", err
		}
	}
	return filepath.Join(inside, "load"), nil
}

// End ends clients and notes how it went.
func (r *Traffic) End(what string, all []*Client) error {
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
			r.Figures = append(r.Figures, Figure{what + ", " + name, k})
		}
	}
	slices.SortFunc(r.Figures, func(a, b Figure) int { return strings.Compare(a.What, b.What) })
	return nil
}
