// SPDX-License-Identifier: Apache-2.0

package box

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is a mounted cgroup hierarchy: the one of v2 or one of v1.
type hierarchy struct {
	mount   string // where
	version int    // 1 or 2
	options string // v1: what to mount it with: "cpu,cpuacct", "none,name=systemd"
}

// cgroupRoot is where every distribution mounts its hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// mountedCgroups reads the hierarchies from /proc/self/mountinfo (see proc(5)).
func mountedCgroups() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for line := range strings.Lines(string(text)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		h := hierarchy{mount: left[4]}
		switch right[0] {
		case "cgroup2":
			h.version = 2
		case "cgroup":
			h.version, h.options = 1, v1Options(right[2])
		default:
			continue
		}
		known := func(o hierarchy) bool { return o.mount == h.mount }
		if strings.HasPrefix(h.mount, cgroupRoot) && !slices.ContainsFunc(found, known) {
			found = append(found, h)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted below " + cgroupRoot)
	}
	return found, nil
}

// v1Options keeps of a super block's options what chooses the hierarchy.
func v1Options(super string) string {
	var keep []string
	for _, o := range strings.Split(super, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			keep = append(keep, "none", o)
		case o == "rw" || o == "ro" || strings.Contains(o, "="):
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// join moves this process into the cgroup, which is made if need be. In v2 the
// process is there since it was cloned.
func (h hierarchy) join(cgroup string) error {
	if h.version == 2 {
		return nil
	}
	path := h.mount
	for _, part := range strings.Split(cgroup, "/") {
		path = filepath.Join(path, part)
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
		if err := inheritCPUSet(path); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

// InitCgroup is the cgroup v2 folder, below a box's own, of the processes that Start
// and Command start. A folder that hands its controllers on, as the kubelet
// needs it, may hold no processes itself (the "no internal processes" rule of
// cgroup v2).
const InitCgroup = "init"

// settle moves this process into InitCgroup and hands the box's controllers on. It is
// called with the hierarchy as it is mounted inside. Where v1 has the
// controllers, there are none to hand on.
func settle(mount string) error {
	leaf := filepath.Join(mount, InitCgroup)
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return HandOn(mount)
}

// HandOn enables for the children of a cgroup v2 folder every controller that
// the folder has.
func HandOn(path string) error {
	text, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, controller := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
			return fmt.Errorf("hand on controller %s: %w", controller, err)
		}
	}
	return nil
}

// inheritCPUSet fills a new cpuset of v1, which starts empty and cannot be
// joined before it has CPUs and memory. Elsewhere it does nothing.
func inheritCPUSet(path string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(path), file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(path, file), parent, 0); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// mountCgroups mounts the hierarchies where they are outside. In the cgroup
// namespace, the root of each is the box's own cgroup: what is attached to the
// root of cgroup v2 inside covers the box and nothing else.
func mountCgroups(m *mounter, hierarchies []hierarchy) {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if !(len(hierarchies) == 1 && hierarchies[0].mount == cgroupRoot) {
		m.mount("tmpfs", cgroupRoot, "tmpfs", flags, "mode=0755")
	}
	for _, h := range hierarchies {
		if h.version == 2 {
			m.mount("cgroup2", h.mount, "cgroup2", flags, "")
			if m.err == nil {
				m.err = settle(filepath.Join(m.root, h.mount))
			}
		} else {
			m.mount("cgroup", h.mount, "cgroup", flags, h.options)
		}
	}
}

// RemoveCgroups removes a cgroup of that name, with all below, from every v1
// hierarchy. Its processes have ended, or are ending.
func RemoveCgroups(cgroup string) error {
	hierarchies, err := mountedCgroups()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hierarchies {
		if h.version == 1 {
			errs = append(errs, removeTree(filepath.Join(h.mount, cgroup)))
		}
	}
	return errors.Join(errs...)
}

func removeTree(path string) (err error) {
	for range 200 {
		if err = removeTreeOnce(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // the kernel reaps asynchronously
	}
	return fmt.Errorf("remove cgroup %s: %w", path, err)
}

func removeTreeOnce(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTreeOnce(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}
