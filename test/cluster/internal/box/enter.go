// SPDX-License-Identifier: Apache-2.0

package box

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Enter turns the calling process, which Start made the first of its PID and
// mount namespaces, into the box's init: it joins the cgroups, builds the root
// file system, moves there, and executes itself again with VerbInit. It
// returns only errors.
func Enter(specPath string) error {
	// unshare() is for one thread; executing makes that thread the process.
	runtime.LockOSThread()
	text, err := os.ReadFile(specPath)
	if err != nil {
		return err
	}
	var spec Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return fmt.Errorf("%s: %w", specPath, err)
	}
	hierarchies, err := mountedCgroups()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if err := h.join(spec.Cgroup); err != nil {
			return err
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup namespace: %w", err)
	}
	if err := buildRoot(spec, hierarchies); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	plan, err := json.Marshal(initPlan{Name: spec.Name, Processes: spec.Processes})
	if err != nil {
		return err
	}
	env := []string{planVariable + "=" + string(plan),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	return fmt.Errorf("exec: %w", unix.Exec("/proc/self/exe", []string{"box-init", VerbInit}, env))
}

// mounter makes mounts below root until the first error.
type mounter struct {
	root string
	err  error
}

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	path := filepath.Join(m.root, target)
	if m.err = os.MkdirAll(path, 0o755); m.err != nil {
		return
	}
	if err := unix.Mount(source, path, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
}

func (m *mounter) bind(b Bind) {
	if m.err == nil {
		m.err = os.MkdirAll(b.From, 0o755)
	}
	m.mount(b.From, b.To, "", unix.MS_BIND, "")
	if b.ReadOnly {
		m.mount("", b.To, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
}

// bindFile is bind for what is not a folder.
func (m *mounter) bindFile(from, to string) {
	if m.err != nil {
		return
	}
	path := filepath.Join(m.root, to)
	if m.err = os.WriteFile(path, nil, 0o644); m.err != nil {
		return
	}
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		m.err = fmt.Errorf("bind %s on %s: %w", from, to, err)
	}
}

// pretend binds files over others of the same path.
func (m *mounter) pretend(files map[string]string) {
	for path, content := range files {
		from := filepath.Join(m.root, "/run/pretend", path)
		if m.err == nil {
			m.err = writeFile(from, content)
		}
		if m.err == nil {
			m.err = unix.Mount(from, filepath.Join(m.root, path), "", unix.MS_BIND, "")
		}
	}
}

// symlink makes a link below root.
func (m *mounter) symlink(target, link string) {
	if m.err == nil {
		m.err = os.Symlink(target, filepath.Join(m.root, link))
	}
}

// buildRoot mounts the box's file systems and makes them its root. Nothing of
// the machine's own tree can be reached afterwards, but what Binds name.
func buildRoot(spec Spec, hierarchies []hierarchy) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	upper, work := filepath.Join(spec.State, "upper"), filepath.Join(spec.State, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	m := &mounter{root: filepath.Join(spec.State, "root")}
	m.mount("overlay", "/", "overlay", 0, "lowerdir="+spec.Root+",upperdir="+upper+",workdir="+work)
	m.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	// These are the whole machine's: the kubelet must not tune them.
	for _, dir := range []string{"kernel", "vm", "fs"} {
		m.bind(Bind{From: filepath.Join(m.root, "/proc/sys", dir), To: filepath.Join("/proc/sys", dir), ReadOnly: true})
	}
	m.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	mountCgroups(m, hierarchies)
	m.mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=0700")
	mountDevices(m)
	m.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	m.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	m.bind(Bind{From: spec.Logs, To: LogDir})
	for _, b := range spec.Binds {
		m.bind(b)
	}
	m.pretend(spec.Pretend)
	if m.err != nil {
		return m.err
	}
	for path, content := range spec.Files {
		if err := writeFile(filepath.Join(m.root, path), content); err != nil {
			return err
		}
	}
	return pivot(m.root)
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

// mountDevices gives the box the devices that hold nothing of the machine's.
func mountDevices(m *mounter) {
	m.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755")
	for _, dev := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg"} {
		m.bindFile("/dev/"+dev, "/dev/"+dev)
	}
	m.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	m.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	m.symlink("pts/ptmx", "/dev/ptmx")
	m.symlink("/proc/self/fd", "/dev/fd")
}

// pivot makes dir the root and forgets the old one. Mounts are shared from
// here on, as on a machine with systemd, because the kubelet propagates some
// into pods.
func pivot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	// The old root now lies on top of the new one.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}
