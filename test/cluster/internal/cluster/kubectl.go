// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// Kubectl runs kubectl as the administrator and returns its standard output.
// Errors carry its standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, "", args...)
}

// Apply applies manifests, whoever made the objects before.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.kubectl(ctx, manifests, "apply", "--server-side", "--force-conflicts", "--filename=-")
	return err
}

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := KubectlCommand(ctx, c.dirs, args...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// StartIn starts a command on a node or in the control plane of the cluster of
// that name, with our standard files.
func StartIn(ctx context.Context, cache kit.Cache, name, boxName string, args ...string) (*exec.Cmd, error) {
	c := &Cluster{cfg: Config{Name: name}, dirs: DirsOf(cache, name)}
	return c.startIn(ctx, boxName, os.Stdin, os.Stdout, os.Stderr, args...)
}

// RunIn runs a command on a node or in the control plane and writes all that it
// says to w. It ends with the cluster at the latest, however this process ends.
func (c *Cluster) RunIn(ctx context.Context, boxName string, w io.Writer, args ...string) error {
	cmd, err := c.startIn(ctx, boxName, nil, w, w, args...)
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// StartWith starts a command on a node or in the control plane with these standard
// files.
func (c *Cluster) StartWith(
	ctx context.Context, boxName string, stdin io.Reader, stdout, stderr io.Writer, args ...string,
) (*exec.Cmd, error) {
	return c.startIn(ctx, boxName, stdin, stdout, stderr, args...)
}

func (c *Cluster) startIn(
	ctx context.Context, boxName string, stdin io.Reader, stdout, stderr io.Writer, args ...string,
) (*exec.Cmd, error) {
	text, err := os.ReadFile(c.dirs.PidOf(boxName))
	if err != nil {
		return nil, fmt.Errorf("no %s of a cluster %s is running: %w", boxName, c.cfg.Name, err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return nil, err
	}
	mount, err := lab.CgroupMount()
	if err != nil {
		return nil, err
	}
	cmd := box.Command(ctx, pid, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return cmd, lab.Start(cmd, nil, &lab.Cgroup{Path: filepath.Join(mount, c.cgroup(), boxName, box.InitCgroup)})
}

// KubectlCommand is kubectl for the cluster in dirs.
func KubectlCommand(ctx context.Context, dirs Dirs, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(dirs.Bin(), "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+dirs.Kubeconfig())
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
