// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Way is how packets go to, and come from, an address.
type Way struct {
	Ifindex int
	// Source is the node's address on that way; not valid if it has none.
	Source netip.Addr
	// Gateway: a router is in between.
	Gateway bool
}

// WayTo asks the routes.
func WayTo(addr netip.Addr) (Way, error) {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil {
		return Way{}, fmt.Errorf("route to %v: %w", addr, err)
	}
	if len(routes) == 0 {
		return Way{}, fmt.Errorf("route to %v: none", addr)
	}
	w := Way{Ifindex: routes[0].LinkIndex, Gateway: routes[0].Gw != nil || routes[0].Via != nil}
	if src, ok := netip.AddrFromSlice(routes[0].Src); ok {
		w.Source = src.Unmap()
	}
	return w, nil
}

// OwnCookie is the kernel's name for the network namespace of the calling thread.
func OwnCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	return cookie, nil
}

// Namespace is a network namespace of this machine.
type Namespace struct {
	// Cookie is the kernel's name for it, Inode the number of its file.
	Cookie, Inode uint64
}

// NamespaceOf finds the network namespace on this machine that has an address, by
// the processes in it and the names that ip-netns gives; false if there is none
// that the caller may look at. A path is looked at instead of all of these.
func NamespaceOf(addr netip.Addr, path string) (ns Namespace, ok bool) {
	patterns := []string{"/proc/[0-9]*/ns/net", "/run/netns/*", "/var/run/netns/*"}
	if path != "" {
		patterns = []string{path}
	}
	found := make(chan Namespace, 1)
	go func() {
		defer close(found)
		// The thread goes with the goroutine: nobody else gets it in another
		// namespace.
		runtime.LockOSThread()
		if ns, ok := search(addr, patterns); ok {
			found <- ns
		}
	}()
	ns, ok = <-found
	return ns, ok
}

func search(addr netip.Addr, patterns []string) (Namespace, bool) {
	seen := map[uint64]bool{}
	for _, pattern := range patterns {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || seen[st.Ino] {
				continue
			}
			seen[st.Ino] = true
			if enter(path) != nil || !has(addr) {
				continue
			}
			if cookie, err := OwnCookie(); err == nil {
				return Namespace{cookie, st.Ino}, true
			}
		}
	}
	return Namespace{}, false
}

func enter(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
}

// has reports whether the present namespace has an address.
func has(addr netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}
