// SPDX-License-Identifier: Apache-2.0

// Package box runs processes as a machine of their own: a PID, mount, cgroup,
// host name and network namespace, with a root file system that is an overlay
// on a shared one. A box looks like a small Debian machine from inside, and
// nothing in it can see, or write to, the files, cgroups and global sysctls of
// the machine it runs on.
//
// A box lives as long as the pipe that its starter holds: when the starter
// dies, however it dies, the box's first process ends, and the kernel kills
// the rest of its PID namespace.
package box

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// Spec is what a box is made of.
type Spec struct {
	// Name is the host name.
	Name string
	// Root is the shared root file system; it is not written to.
	Root string
	// State is a folder of this box: the overlay's upper layer. It must be on a
	// file system that may hold one.
	State string
	// Cgroup is the box's cgroup relative to every hierarchy's mount.
	Cgroup string
	// Logs is a folder for the logs, one file a process.
	Logs string
	// Binds are folders from outside.
	Binds []Bind
	// Files are written into the root, path to content.
	Files map[string]string
	// Pretend shows files of the box's own in place of the machine's, path to
	// content. What is written to them stays in the box.
	Pretend map[string]string
	// Processes run from the start and are started again when they end.
	Processes []Process
}

// Bind shows a folder of the machine in the box. Both are made if missing.
type Bind struct {
	From, To string
	ReadOnly bool
}

// Process is a command that the box keeps running.
type Process struct {
	// Name is also that of the log: <Logs>/<box>-<Name>.log.
	Name string
	Args []string
	// After is a file that must exist first; empty for none.
	After string
}

// Verbs of the hidden commands that Start runs this executable with.
const (
	VerbEnter = "box-enter"
	VerbInit  = "box-init"
)

// Box is a running box.
type Box struct {
	Spec Spec
	cmd  *exec.Cmd
	life io.WriteCloser
	done chan struct{}
}

// Start starts a box in the namespace and the cgroup v2 folder.
func Start(spec Spec, ns *lab.Namespace, cg *lab.Cgroup) (*Box, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("box %s: %w", spec.Name, err)
	}
	if err := os.MkdirAll(spec.State, 0o755); err != nil {
		return nil, fmt.Errorf("box %s: %w", spec.Name, err)
	}
	path := filepath.Join(spec.State, "spec.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, fmt.Errorf("box %s: %w", spec.Name, err)
	}
	log, err := os.Create(filepath.Join(spec.Logs, spec.Name+".log"))
	if err != nil {
		return nil, fmt.Errorf("box %s: log: %w", spec.Name, err)
	}
	defer func() { _ = log.Close() }()

	b := &Box{Spec: spec, cmd: exec.Command("/proc/self/exe", VerbEnter, path), done: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = log, log
	// A session of its own: Ctrl-C at the terminal is for the starter, who ends
	// its boxes in order.
	b.cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
	}
	if b.life, err = b.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("box %s: %w", spec.Name, err)
	}
	if err := lab.Start(b.cmd, ns, cg); err != nil {
		return nil, fmt.Errorf("box %s: %w", spec.Name, err)
	}
	go func() {
		_ = b.cmd.Wait() // how it ended is in its log
		close(b.done)
	}()
	return b, nil
}

// Pid is that of the box's first process, as seen from outside.
func (b *Box) Pid() int { return b.cmd.Process.Pid }

// Done is closed when the box has ended.
func (b *Box) Done() <-chan struct{} { return b.done }

// Close ends every process of the box and waits until the kernel is done.
func (b *Box) Close() error {
	err := b.life.Close()
	<-b.done
	return err
}

// Command is a command inside the box whose first process is pid. To be one of
// its processes in all respects, it must be started in the box's cgroup.
func Command(ctx context.Context, pid int, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}
