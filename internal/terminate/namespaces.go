// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// namespaces finds network namespaces by the files that stand for them. Those
// of pods are mounted by the container runtime (containerd and CRI-O below
// /run/netns, Docker in a folder of its own); any other that a process is in
// shows in procfs, as far as this process's PID namespace does.
type namespaces struct {
	folders []string
	proc    string
}

func newNamespaces(o Options) namespaces {
	n := namespaces{folders: o.Namespaces, proc: o.Proc}
	if n.folders == nil {
		n.folders = []string{"/run/netns", "/run/docker/netns"}
	}
	if n.proc == "" {
		n.proc = "/proc"
	}
	return n
}

// find returns a file for each of the inodes that it can; the expensive places
// are looked at only for what is in no other.
func (n namespaces) find(inodes map[uint32][]target) (map[uint32]string, error) {
	found := map[uint32]string{}
	var errs []error
	for _, places := range n.patterns() {
		if len(found) == len(inodes) {
			break
		}
		errs = append(errs, visit(places, func(path string, inode uint32) {
			if _, wanted := inodes[inode]; wanted && found[inode] == "" {
				found[inode] = path
			}
		}))
	}
	return found, errors.Join(errs...)
}

// all returns one file for each network namespace.
func (n namespaces) all() ([]string, error) {
	seen := map[uint32]bool{}
	var files []string
	var errs []error
	for _, places := range n.patterns() {
		errs = append(errs, visit(places, func(path string, inode uint32) {
			if !seen[inode] {
				seen[inode] = true
				files = append(files, path)
			}
		}))
	}
	return files, errors.Join(errs...)
}

// patterns says where to look, the cheapest first. Our own namespace is that of
// the thread: /proc/self is the first thread's, and a goroutine that was locked
// to that one may have left it in another for good (the Go runtime cannot end
// it).
func (n namespaces) patterns() []string {
	patterns := []string{"/proc/thread-self/ns/net"}
	for _, folder := range n.folders {
		patterns = append(patterns, filepath.Join(folder, "*"))
	}
	return append(patterns, filepath.Join(n.proc, "[0-9]*/ns/net"))
}

func visit(pattern string, found func(path string, inode uint32)) error {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return fmt.Errorf("look for network namespaces: %w", err)
	}
	slices.Sort(paths)
	for _, path := range paths {
		// A file may be none, or go meanwhile.
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			found(path, uint32(st.Ino))
		}
	}
	return nil
}

// within runs f on a thread of its own that is in the namespace; the thread
// ends with it. In our own namespace it needs no privilege.
func (n namespaces) within(path string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies with us
		result <- enter(path, f)
	}()
	return <-result
}

func enter(path string, f func() error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer func() { _ = file.Close() }()
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	st, err := file.Stat()
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	if os.SameFile(own, st) {
		return f()
	}
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (needs CAP_SYS_ADMIN)", err)
		}
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return f()
}
