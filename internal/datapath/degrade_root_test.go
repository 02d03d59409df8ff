// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Pains A42: where a hook of IPv6 cannot be had and the host has no IPv6, IPv4
// works; where it has, that is an error.
func TestA42IPv4WorksWithoutAHookOfIPv6(t *testing.T) {
	w := newWorld(t)
	// The kernel takes 64 programs at a hook of a cgroup, and no more.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet6Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	check(t, err)
	defer func() { _ = prog.Close() }()
	for range 64 {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: w.cgroup.Path, Attach: ebpf.AttachCGroupInet6Connect, Program: prog})
		check(t, err)
		defer func() { _ = l.Close() }()
	}
	if dp, err := Open(w.options()); err == nil {
		_ = dp.Close()
		t.Error("a host with IPv6 goes without a hook of IPv6")
	}
	opts := w.options()
	opts.NoIPv6 = true
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	fd := w.socket(f.domain, unix.SOCK_STREAM)
	check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
	if name := read(t, fd); name != "a" && name != "b" {
		t.Errorf("reached %q", name)
	}
	check(t, dp.Check())
}

// Pains A18: a kernel that overwrites what its own clients connect to is not
// given the chance. The subflows of MPTCP are such sockets, and at hand.
func TestA18KernelSocketsCanBeLeftAlone(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.LeaveKernelSockets = true
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	fd := w.socket(f.domain, unix.SOCK_STREAM)
	check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
	var kernels int
	err = w.client.Do(func() (err error) {
		kernels, err = unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_MPTCP)
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("this kernel has no MPTCP")
	}
	check(t, err)
	defer func() { _ = unix.Close(kernels) }()
	if err := unix.Connect(kernels, sockaddr(f.dest, 80)); !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	ready, err := unix.Poll([]unix.PollFd{{Fd: int32(kernels), Events: unix.POLLOUT}}, 500)
	if err != nil || ready != 0 {
		t.Errorf("a socket of the kernel's own came through: %d, %v", ready, err)
	}
}
