// SPDX-License-Identifier: Apache-2.0

// Package kit makes everything that a cluster is built from: the binaries of
// Kubernetes and CoreDNS from their Go modules, a Debian root file system for
// the nodes, the container images, and Beeline from the work tree. All but the
// last is kept by version in a cache outside the work tree.
package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CacheEnv names the variable that moves the cache.
const CacheEnv = "BEELINE_CLUSTER_CACHE"

// Cache is a folder of finished things, each made once.
type Cache string

// OpenCache returns the cache: CacheEnv, or beeline-cluster in the user's cache folder.
func OpenCache() (Cache, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache: %w; set %s", err, CacheEnv)
		}
		dir = filepath.Join(user, "beeline-cluster")
	}
	return Cache(dir), os.MkdirAll(dir, 0o755)
}

// Path is that of a thing in the cache.
func (c Cache) Path(elem ...string) string {
	return filepath.Join(append([]string{string(c)}, elem...)...)
}

// once returns the path of a thing, made by build if it is missing. Build gets
// an empty folder to fill, which takes its name when it is complete: neither an
// interrupted build nor one that runs beside this one leaves half a thing.
func (c Cache) once(name string, build func(dir string) error) (string, error) {
	final := c.Path(name)
	if exists(final) {
		return final, nil
	}
	unlock, err := lockFile(final + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(final) { // another process was faster
		return final, nil
	}
	half := final + ".half"
	if err := os.RemoveAll(half); err != nil {
		return "", err
	}
	if err := os.MkdirAll(half, 0o755); err != nil {
		return "", err
	}
	if err := build(half); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	return final, os.Rename(half, final)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// lockFile waits for the lock; the kernel frees that of a dead process.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// command runs a program in dir and returns its output. Its errors end with the
// last lines that it wrote.
func command(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var stdout, all strings.Builder
	cmd.Stdout = teeWriter{&stdout, &all}
	cmd.Stderr = &all
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, args[0], err, tail(all.String(), 20))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// teeWriter writes to both builders, which cannot fail.
type teeWriter struct{ a, b *strings.Builder }

func (t teeWriter) Write(p []byte) (int, error) {
	t.a.Write(p)
	return t.b.Write(p)
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
