// SPDX-License-Identifier: Apache-2.0

// Package lab builds small networks inside one machine: network namespaces
// without an uplink, veth pairs, cgroups, and processes in them. Tests,
// benchmarks and the demo stand on it. It knows nothing of Services.
//
// Whatever a Lab made goes away with Close; what a killed process left behind
// goes away with the next New of the same name.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Lab owns everything that is made through it.
type Lab struct {
	name    string
	cgroot  string
	undo    []func() error
	bpffs   int
	scratch string
}

// prefix marks the names of every lab's namespaces and cgroups.
const prefix = "beeline-"

// New starts an empty lab after sweeping away what a killed process left of
// one of this name. The name appears in the names of its namespaces; it must
// not be in use by a living process.
func New(name string) (*Lab, error) {
	root, err := CgroupMount()
	if err != nil {
		return nil, err
	}
	lock, err := takeName(name)
	if err != nil {
		return nil, err
	}
	l := &Lab{name: name, cgroot: filepath.Join(root, prefix+name), scratch: scratchDir(name)}
	l.onClose(func() error { return errors.Join(os.Remove(lock.Name()), lock.Close()) })
	if err := l.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: sweep: %w", name, err), l.Close())
	}
	if err := os.Mkdir(l.scratch, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", name, err), l.Close())
	}
	l.onClose(func() error { return os.RemoveAll(l.scratch) })
	if err := os.Mkdir(l.cgroot, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: cgroup: %w", name, err), l.Close())
	}
	l.onClose(func() error { return removeCgroup(l.cgroot) })
	return l, nil
}

// CgroupMount returns where cgroup v2 is mounted.
func CgroupMount() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted below /sys/fs/cgroup")
}

func (l *Lab) onClose(f func() error) { l.undo = append(l.undo, f) }

// Dir is a folder for files; it goes away with the lab.
func (l *Lab) Dir() string { return l.scratch }

// Close removes everything in reverse order. It may be called twice.
func (l *Lab) Close() error {
	var errs []error
	for i := len(l.undo) - 1; i >= 0; i-- {
		errs = append(errs, l.undo[i]())
	}
	l.undo = nil
	return errors.Join(errs...)
}

// takeName claims a lab's name for this process; the kernel gives it back when
// the process ends, however it ends.
func takeName(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join("/run/lock", prefix+name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another process uses a lab of this name")
		}
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	return f, nil
}

func scratchDir(name string) string { return filepath.Join(os.TempDir(), prefix+name) }

// sweep removes what an earlier lab of this name left behind.
func (l *Lab) sweep() error {
	errs := []error{removeCgroup(l.cgroot)}
	spaces, err := filepath.Glob(filepath.Join(netnsDir, prefix+l.name+"-*"))
	errs = append(errs, err)
	for _, s := range spaces {
		errs = append(errs, netns.DeleteNamed(filepath.Base(s)))
	}
	mounts, err := filepath.Glob(filepath.Join(l.scratch, "bpffs*"))
	errs = append(errs, err)
	for _, m := range mounts {
		if err := unix.Unmount(m, unix.MNT_DETACH); !errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(l.scratch))...)
}

const netnsDir = "/run/netns"

func dirExists(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// BPFFS mounts a BPF filesystem of the lab's own and returns where.
func (l *Lab) BPFFS() (string, error) {
	l.bpffs++
	dir := filepath.Join(l.scratch, fmt.Sprintf("bpffs%d", l.bpffs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("bpffs: %w", err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount bpffs: %w", err)
	}
	l.onClose(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, nil
}

// Cgroup is a cgroup v2 folder of the lab.
type Cgroup struct {
	Path string
}

// Cgroup makes a cgroup below the lab's own.
func (l *Lab) Cgroup(name string) (*Cgroup, error) {
	cg := &Cgroup{Path: filepath.Join(l.cgroot, name)}
	if err := os.MkdirAll(cg.Path, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", name, err)
	}
	return cg, nil
}

// Enter moves this whole process into the cgroup and returns the way back.
func (c *Cgroup) Enter() (leave func() error, err error) {
	before, err := currentCgroup()
	if err != nil {
		return nil, err
	}
	if err := moveSelf(c.Path); err != nil {
		return nil, err
	}
	return func() error { return moveSelf(before) }, nil
}

func moveSelf(cgroup string) error {
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("move to cgroup: %w", err)
	}
	return nil
}

func currentCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("current cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			root, err := CgroupMount()
			return filepath.Join(root, path), err
		}
	}
	return "", errors.New("current cgroup: this process is in no cgroup v2")
}

// removeCgroup ends every process in a cgroup and removes it with all below.
func removeCgroup(path string) error {
	if !dirExists(path) {
		return nil
	}
	// cgroup.kill needs Linux 5.14, which is below our floor.
	if err := os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("end processes of cgroup %s: %w", path, err)
	}
	var err error
	for range 100 {
		if err = removeCgroupTree(path); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // the kernel reaps asynchronously
	}
	return fmt.Errorf("remove cgroup %s: %w", path, err)
}

func removeCgroupTree(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(path)
}

// Namespace is a network namespace of the lab.
type Namespace struct {
	// Name as `ip netns` shows it.
	Name   string
	handle netns.NsHandle
}

// Namespace makes a network namespace with its loopback up.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	ns := &Namespace{Name: prefix + l.name + "-" + name}
	err := inOwnThread(func() (err error) {
		ns.handle, err = netns.NewNamed(ns.Name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	l.onClose(func() error {
		return errors.Join(ns.handle.Close(), netns.DeleteNamed(ns.Name))
	})
	return ns, ns.Do(func() error {
		// Link-local addresses of new devices are usable at once; without one
		// the node cannot ask for a pod's neighbour entry for a second.
		for _, scope := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/accept_dad", []byte("0"), 0); err != nil {
				return fmt.Errorf("namespace %s: %w", name, err)
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("namespace %s: lo: %w", name, err)
		}
		return netlink.LinkSetUp(lo)
	})
}

// Do runs f in the namespace. Goroutines that f starts are not in it; sockets
// that f opens stay in it.
func (n *Namespace) Do(f func() error) error {
	return inOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return f()
	})
}

// EnterThread moves the calling thread into the namespace for good; the caller
// has locked its goroutine to it (runtime.LockOSThread).
func (n *Namespace) EnterThread() error {
	if err := netns.Set(n.handle); err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	return nil
}

// inOwnThread runs f on a thread that ends with it, so that a changed
// namespace never leaks into other goroutines.
func inOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies with us
		result <- f()
	}()
	return <-result
}

// Connect joins two namespaces by a veth pair whose ends are named as given.
func Connect(a *Namespace, aName string, b *Namespace, bName string) error {
	err := a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: aName},
			PeerName:      bName,
			PeerNamespace: netlink.NsFd(b.handle),
		})
	})
	if err != nil {
		return fmt.Errorf("veth %s@%s - %s@%s: %w", aName, a.Name, bName, b.Name, err)
	}
	return errors.Join(a.Up(aName), b.Up(bName))
}

// Up sets a device up.
func (n *Namespace) Up(dev string) error {
	return n.withLink(dev, netlink.LinkSetUp)
}

// Address gives a device an address in CIDR notation, usable at once.
func (n *Namespace) Address(dev, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("address %s: %w", cidr, err)
	}
	addr.Flags |= unix.IFA_F_NODAD // do not wait for duplicate detection
	return n.withLink(dev, func(link netlink.Link) error {
		return netlink.AddrAdd(link, addr)
	})
}

// Bridge makes a bridge and puts devices into it.
func (n *Namespace) Bridge(name string, ports ...string) error {
	err := n.Do(func() error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
	})
	if err != nil {
		return fmt.Errorf("bridge %s in %s: %w", name, n.Name, err)
	}
	for _, port := range ports {
		if err := n.Enslave(port, name); err != nil {
			return err
		}
	}
	return n.Up(name)
}

// RemoveLink removes a device; of a veth pair both ends go.
func (n *Namespace) RemoveLink(dev string) error {
	return n.withLink(dev, netlink.LinkDel)
}

// Enslave puts a device into a bridge.
func (n *Namespace) Enslave(dev, bridge string) error {
	return n.withLink(dev, func(link netlink.Link) error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, br)
	})
}

// Hairpin lets a bridge send packets back through the port they came from, as
// CNI plugins set their bridges' ports up.
func (n *Namespace) Hairpin(port string) error {
	return n.withLink(port, func(link netlink.Link) error { return netlink.LinkSetHairpin(link, true) })
}

// Sysctl sets a kernel parameter of the namespace, as "net/ipv4/ip_forward".
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
}

// Route sends a destination in CIDR notation to a gateway.
func (n *Namespace) Route(dst, via string) error {
	err := n.Do(func() error {
		to, err := netlink.ParseIPNet(dst)
		if err != nil {
			return err
		}
		gw, err := netlink.ParseAddr(via + hostMask(via))
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: gw.IP})
	})
	if err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", dst, via, n.Name, err)
	}
	return nil
}

func hostMask(addr string) string {
	if strings.Contains(addr, ":") {
		return "/128"
	}
	return "/32"
}

// Forward lets the namespace route packets of both families.
func (n *Namespace) Forward() error {
	return n.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
}

func (n *Namespace) withLink(dev string, f func(netlink.Link) error) error {
	err := n.Do(func() error {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		return f(link)
	})
	if err != nil {
		return fmt.Errorf("device %s in %s: %w", dev, n.Name, err)
	}
	return nil
}

// Start starts a command in the namespace and cgroup; either may be nil. The
// child is killed when ctx ends.
func Start(cmd *exec.Cmd, ns *Namespace, cg *Cgroup) error {
	if cg != nil {
		dir, err := os.Open(cg.Path)
		if err != nil {
			return fmt.Errorf("start %s: %w", cmd.Path, err)
		}
		defer func() { _ = dir.Close() }()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &unix.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	start := cmd.Start
	if ns != nil {
		start = func() error { return ns.Do(cmd.Start) }
	}
	if err := start(); err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

// Output runs a command in the namespace and cgroup and returns what it wrote
// to both outputs.
func Output(ctx context.Context, ns *Namespace, cg *Cgroup, name string, args ...string) (string, error) {
	var out strings.Builder
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := Start(cmd, ns, cg); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
