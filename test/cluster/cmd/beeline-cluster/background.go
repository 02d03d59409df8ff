// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// server is a "serve" in the background, known by a file with its pid.
type server struct{ pidFile string }

func serverOf(cache kit.Cache, name string) server {
	return server{cache.Path("run", name+".server")}
}

// readyFile appears when the cluster of a server is ready.
func readyFile(d cluster.Dirs) string { return filepath.Join(d.State, "ready") }

// pid returns that of the running server, or 0. A process that took the pid
// after a crash is not ours.
func (s server) pid() (int, error) {
	text, err := os.ReadFile(s.pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.pidFile, err)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(line), "\x00serve\x00") {
		return 0, nil
	}
	return pid, nil
}

// stop asks the server to end and waits for it.
func (s server) stop() error {
	pid, err := s.pid()
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop the cluster, pid %d: %w", pid, err)
		}
	}
	for pid != 0 {
		time.Sleep(50 * time.Millisecond)
		if pid, err = s.pid(); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.pidFile)
}

func (r *runner) newUp() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster and leave it running", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return r.up(cmd.Context()) },
	}
	r.clusterFlags(cmd, cluster.Beeline)
	return cmd
}

// up runs "serve" in a session of its own and waits until the cluster is ready.
func (r *runner) up(ctx context.Context) error {
	if err := r.check(); err != nil {
		return err
	}
	_, cache, err := r.makeKit(ctx) // here, where one can watch and interrupt it
	if err != nil {
		return err
	}
	s := serverOf(cache, r.cfg.Name)
	switch pid, err := s.pid(); {
	case err != nil:
		return err
	case pid != 0:
		return fmt.Errorf("cluster %s is running already, pid %d", r.cfg.Name, pid)
	}
	dirs := cluster.DirsOf(cache, r.cfg.Name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(s.pidFile), 0o755), os.MkdirAll(filepath.Dir(dirs.Logs), 0o755),
		os.RemoveAll(readyFile(dirs))); err != nil {
		return err
	}
	logPath := dirs.Logs + ".log"
	ended, err := r.startServer(s, logPath)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, s, readyFile(dirs), ended); err != nil {
		text, _ := os.ReadFile(logPath)
		return errors.Join(fmt.Errorf("the cluster did not start: %w\n%s", err, text), os.RemoveAll(s.pidFile))
	}
	fmt.Printf("export KUBECONFIG=%s PATH=%s:$PATH\n", dirs.Kubeconfig(), dirs.Bin())
	return nil
}

// startServer runs this executable's "serve"; how it ends arrives on the channel.
func (r *runner) startServer(s server, logPath string) (<-chan error, error) {
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	args := []string{"serve", "--tree", r.tree, "--name", r.cfg.Name, "--nodes", strconv.Itoa(r.cfg.Nodes),
		"--zones", strconv.Itoa(r.cfg.Zones), "--dual=" + strconv.FormatBool(r.cfg.Dual), "--cni", r.cni, "--proxy", r.proxy}
	for _, arg := range r.cfg.AgentArgs {
		args = append(args, "--agent-arg", arg)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, os.WriteFile(s.pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
}

// waitReady waits for the file, or for the server's end; when ctx ends, it
// brings that about.
func waitReady(ctx context.Context, s server, file string, ended <-chan error) error {
	for {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.stop())
		case <-time.After(100 * time.Millisecond):
		}
		if _, err := os.Stat(file); err == nil {
			return nil
		}
	}
}

func (r *runner) newDown() *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove a cluster that was left running, or what is left of it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cache, err := kit.OpenCache()
			if err != nil {
				return err
			}
			if err := serverOf(cache, r.cfg.Name).stop(); err != nil {
				return err
			}
			return cluster.Sweep(r.cfg.Name, cache)
		},
	}
}
