// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

const podUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"

// enter moves this process into a cgroup below the served one until the test
// ends.
func (w *world) enter(path string) {
	w.t.Helper()
	cgroup, err := w.lab.Cgroup("node/" + path)
	check(w.t, err)
	leave, err := cgroup.Enter()
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, leave()) })
}

// translated tells whether a connect() of UDP to the VIP goes to a backend.
func (w *world) translated(f int) bool {
	w.t.Helper()
	family := families[f]
	fd := w.socket(family.domain, unix.SOCK_DGRAM)
	check(w.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 700_000}))
	check(w.t, unix.Connect(fd, sockaddr(family.dest, 53)))
	peer, err := unix.Getpeername(fd)
	check(w.t, err)
	if got := addrPort(w.t, peer); got != netip.AddrPortFrom(family.dest, 53) {
		w.t.Errorf("getpeername: %v", got)
	}
	_, err = unix.Write(fd, []byte("?"))
	check(w.t, err)
	_, err = unix.Read(fd, make([]byte, 8))
	return err == nil
}

// Pains A17: a pod that has opted out keeps the VIP in its packets, in every
// container that it has or will have; its neighbours do not.
func TestA17PodThatOptsOutIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.OptOuts = true
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	for i, f := range families {
		w.publish(frontend{service: uint32(i), vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)})
	}
	all := func(where string, want bool) {
		t.Helper()
		for i, f := range families {
			if got := w.translated(i); got != want {
				t.Errorf("%s, %s: translated %v, want %v", where, f.name, got, want)
			}
		}
	}
	if missing, err := dp.SetOptOuts([]string{podUID}); err != nil || len(missing) != 1 {
		t.Errorf("before kubelet has made its cgroup: missing %v, %v", missing, err)
	}
	w.enter("kubepods/burstable/pod" + podUID + "/first")
	all("not known yet", true)
	if missing, err := dp.SetOptOuts([]string{podUID}); err != nil || len(missing) != 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
	all("first container", false)
	w.enter("kubepods/burstable/pod" + podUID + "/later/inner")
	all("a later container", false)
	w.enter("kubepods/burstable/pod1b4e28ba-2fa1-11d2-883f-0016d3cca428/c")
	all("another pod", true)
	w.enter("kubepods/burstable/pod" + podUID + "/first")
	_, err = dp.SetOptOuts(nil)
	check(t, err)
	all("opted in again", true)
}

// Only the sockets of the agent's own network namespace are balanced.
func TestA17OnlyTheHostIsBalanced(t *testing.T) {
	w := newWorld(t)
	for _, want := range []bool{true, false} {
		opts := w.options()
		opts.NodeOnly = true
		open := func() (err error) { w.dp, err = Open(opts); return err }
		if want {
			check(t, w.client.Do(open)) // so that this is the node's
		} else {
			check(t, open())
		}
		dp := w.dp
		w.publish(frontend{vip: families[0].vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(4)})
		if got := w.translated(0); got != want {
			t.Errorf("client's namespace is the one that is balanced: %v; translated %v", want, got)
		}
		check(t, dp.Close())
	}
}

// Pains A17: a sidecar's REDIRECT sees what the application asked for.
func TestA17OriginalDestinationIsTheClusterIP(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		lab.SkipOrFail(t, "needs nft")
	}
	w := newWorld(t)
	opts := w.options()
	opts.OptOuts = true
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	vip := netip.AddrPortFrom(families[0].vip, 80)
	w.publish(frontend{vip: vip.Addr(), port: vip.Port(), protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	check(t, w.client.Do(func() error {
		return exec.Command("nft", "add table ip mesh; add chain ip mesh out { type nat hook output priority -100; };"+
			" add rule ip mesh out ip daddr != 127.0.0.0/8 tcp dport { 80, 8080 } redirect to :15001").Run()
	}))
	w.enter("kubepods/pod" + podUID + "/app")
	for _, out := range []bool{false, true} {
		var pods []string
		if out {
			pods = []string{podUID}
		}
		_, err := dp.SetOptOuts(pods)
		check(t, err)
		got := w.originalDestination(vip)
		if (got == vip) != out {
			t.Errorf("opted out %v: the proxy is told %v", out, got)
		}
	}
}

// originalDestination connects to an address and returns what SO_ORIGINAL_DST
// tells the proxy at port 15001.
func (w *world) originalDestination(to netip.AddrPort) netip.AddrPort {
	w.t.Helper()
	var listener net.Listener
	check(w.t, w.client.Do(func() (err error) {
		listener, err = net.Listen("tcp4", ":15001")
		return err
	}))
	defer func() { _ = listener.Close() }()
	fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
	check(w.t, unix.Connect(fd, sockaddr(to.Addr(), int(to.Port()))))
	conn, err := listener.Accept()
	check(w.t, err)
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	check(w.t, err)
	const soOriginalDst = 80
	var addr unix.RawSockaddrInet4
	size := uint32(unsafe.Sizeof(addr))
	var errno unix.Errno
	check(w.t, raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_IP, soOriginalDst,
			uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)), 0)
	}))
	if errno != 0 {
		w.t.Fatal(errors.New("SO_ORIGINAL_DST"), errno)
	}
	port := addr.Port>>8 | addr.Port<<8
	return netip.AddrPortFrom(netip.AddrFrom4(addr.Addr), port)
}
