// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// A family as a client sees it: how it names an IPv4 or IPv6 destination.
var families = []struct {
	name   string
	family int
	vip    netip.Addr
	// dest is how the client's socket names vip.
	dest netip.Addr
	// domain of the client's socket.
	domain int
}{
	{"IPv4", 4, netip.MustParseAddr("10.96.0.80"), netip.MustParseAddr("10.96.0.80"), unix.AF_INET},
	{"IPv6", 6, netip.MustParseAddr("fd00:96::80"), netip.MustParseAddr("fd00:96::80"), unix.AF_INET6},
	{"IPv4-mapped IPv6", 4, netip.MustParseAddr("10.96.0.80"), netip.MustParseAddr("::ffff:10.96.0.80"), unix.AF_INET6},
}

func sockaddr(a netip.Addr, port int) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: port}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: port}
}

// addrPort converts back, as the application sees it (mapped stays mapped).
func addrPort(t *testing.T, sa unix.Sockaddr) netip.AddrPort {
	t.Helper()
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	t.Fatalf("unexpected socket address %T", sa)
	return netip.AddrPort{}
}

// socket opens a client socket with a receive timeout.
func (w *world) socket(domain, typ int) int {
	w.t.Helper()
	var fd int
	check(w.t, w.client.Do(func() (err error) {
		fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	w.t.Cleanup(func() { _ = unix.Close(fd) })
	check(w.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}))
	return fd
}

func read(t *testing.T, fd int) string {
	t.Helper()
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	check(t, err)
	return string(buf[:n])
}

func (w *world) bothPods(family int) []netip.Addr {
	return []netip.Addr{w.pods[0].addr(family), w.pods[1].addr(family)}
}

func TestTCPConnectsToABackendAndSeesTheVIP(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w.publish(frontend{service: uint32(i), vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(f.family)})
			seen := map[string]int{}
			for range 40 {
				fd := w.socket(f.domain, unix.SOCK_STREAM)
				check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
				seen[read(t, fd)]++
				peer, err := unix.Getpeername(fd)
				check(t, err)
				if got, want := addrPort(t, peer), netip.AddrPortFrom(f.dest, 80); got != want {
					t.Fatalf("getpeername: got %v, want %v", got, want)
				}
				check(t, unix.Close(fd))
			}
			if seen["a"] == 0 || seen["b"] == 0 {
				t.Errorf("40 connections went to %v, want both backends", seen)
			}
		})
	}
}

func TestTCPPeerRecordsGoWithTheirSockets(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
	check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
	if n := mapLen(t, w.dp, abi.MapPeers); n != 1 {
		t.Fatalf("records with one connected socket: %d, want 1", n)
	}
	check(t, unix.Close(fd))
	if n := mapLen(t, w.dp, abi.MapPeers); n != 0 {
		t.Fatalf("records after close: %d, want 0", n)
	}
}

// A socket may be disconnected and then connected to a pod as such. For TCP
// that is another pod: the record of the first connect tells no difference
// between a pod and a Service that leads to it.
func TestPeerNameAfterASecondConnectIsWhatWasAskedForThen(t *testing.T) {
	w := newWorld(t)
	w.open()
	service := uint32(0)
	for _, p := range []struct {
		name          string
		typ           int
		protocol      uint8
		backend, then *pod
	}{
		{"TCP", unix.SOCK_STREAM, unix.IPPROTO_TCP, w.pods[0], w.pods[1]},
		{"UDP", unix.SOCK_DGRAM, unix.IPPROTO_UDP, w.pods[0], w.pods[0]},
	} {
		for _, f := range families {
			t.Run(p.name+" "+f.name, func(t *testing.T) {
				w.publish(frontend{service: service, vip: f.vip, port: 80, protocol: p.protocol, backends: []netip.Addr{p.backend.addr(f.family)}})
				service++
				then := p.then.addr(f.family)
				if f.dest.Is4In6() {
					then = netip.AddrFrom16(then.As16())
				}
				fd := w.socket(f.domain, p.typ)
				for _, dest := range []netip.AddrPort{netip.AddrPortFrom(f.dest, 80), netip.AddrPortFrom(then, podPort)} {
					check(t, disconnect(fd))
					check(t, unix.Connect(fd, sockaddr(dest.Addr(), int(dest.Port()))))
					peer, err := unix.Getpeername(fd)
					check(t, err)
					if got := addrPort(t, peer); got != dest {
						t.Errorf("connected to %v, getpeername tells %v", dest, got)
					}
				}
			})
		}
	}
}

// disconnect takes a socket's peer away: connect(2) with AF_UNSPEC, which
// package unix has no address for.
func disconnect(fd int) error {
	var unspec [unix.SizeofSockaddrInet4]byte
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), uintptr(len(unspec)))
	if errno != 0 {
		return errno
	}
	return nil
}

// The subflows of MPTCP are sockets of the kernel's own, and nobody tells when
// they are released.
func TestMPTCPLeavesNoPeerRecords(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		w.publish(frontend{service: uint32(i), vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(f.family)})
		var fd int
		err := w.client.Do(func() (err error) {
			fd, err = unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
			return err
		})
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT) {
			t.Skip("this kernel has no MPTCP")
		}
		check(t, err)
		check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
		if name := read(t, fd); name != "a" && name != "b" {
			t.Errorf("%s: reached %q", f.name, name)
		}
		check(t, unix.Close(fd))
	}
	time.Sleep(20 * time.Millisecond)
	if n := mapLen(t, w.dp, abi.MapPeers); n != 0 {
		t.Errorf("%d records are left of closed sockets", n)
	}
}

func TestFullPeerMapNeverFailsAConnect(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.MapSizes = map[string]uint32{abi.MapPeers: 1}
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	var fds []int
	for range 3 {
		fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
		check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
		fds = append(fds, fd)
	}
	first, err := unix.Getpeername(fds[0])
	check(t, err)
	if got := addrPort(t, first).Addr(); got != f.vip {
		t.Errorf("the first socket's record was evicted: its peer is %v", got)
	}
	if n := counter(t, dp, "tcp_peer_map_full"); n != 2 {
		t.Errorf("counted %d sockets without a record, want 2", n)
	}
}

func TestUDPUnconnectedRepliesComeFromTheVIP(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w.publish(frontend{service: uint32(i), vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)})
			fd := w.socket(f.domain, unix.SOCK_DGRAM)
			seen := map[string]int{}
			for range 20 {
				name, from := exchange(t, fd, f.dest, 53)
				seen[name]++
				if want := netip.AddrPortFrom(f.dest, 53); from != want {
					t.Fatalf("reply from %v, want %v", from, want)
				}
			}
			if len(seen) != 1 {
				t.Errorf("one socket was spread over %v, want one backend (pains A20)", seen)
			}
		})
	}
}

func TestUDPConnectedSeesTheVIP(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w.publish(frontend{service: uint32(i), vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)})
			fd := w.socket(f.domain, unix.SOCK_DGRAM)
			check(t, unix.Connect(fd, sockaddr(f.dest, 53)))
			_, err := unix.Write(fd, []byte("hello"))
			check(t, err)
			buf := make([]byte, 64)
			_, from, err := unix.Recvfrom(fd, buf, 0)
			check(t, err)
			peer, err := unix.Getpeername(fd)
			check(t, err)
			want := netip.AddrPortFrom(f.dest, 53)
			if got := addrPort(t, from); got != want {
				t.Errorf("recvfrom: got %v, want %v", got, want)
			}
			if got := addrPort(t, peer); got != want {
				t.Errorf("getpeername: got %v, want %v", got, want)
			}
		})
	}
}

// Pains A1: the socket must leave a backend that is gone with its next datagram.
func TestUDPUnconnectedLeavesADeadBackend(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	front := frontend{vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: []netip.Addr{w.pods[0].v4}}
	w.publish(front)
	fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if name, _ := exchange(t, fd, f.dest, 53); name != "a" {
		t.Fatalf("answer from %q, want a", name)
	}
	w.kill(0, 0)
	other := front
	other.service, other.backends = 1, []netip.Addr{w.pods[1].v4}
	w.publish(other)
	if name, from := exchange(t, fd, f.dest, 53); name != "b" || from.Addr() != f.vip {
		t.Errorf("after the change: answer from %q as %v, want b as the VIP", name, from)
	}
}

// Pains A19: an answer of a pod that was asked directly keeps the pod's address.
func TestUDPDirectAnswersAreNotTranslated(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: []netip.Addr{w.pods[0].v4}})
	service := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	exchange(t, service, f.dest, 53)
	direct := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if _, from := exchange(t, direct, w.pods[0].v4, podPort); from.Addr() != w.pods[0].v4 {
		t.Errorf("a direct answer came from %v, want the pod %v", from, w.pods[0].v4)
	}
}

func TestUDPOneSocketTwoServices(t *testing.T) {
	w := newWorld(t)
	w.open()
	fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	for round := range 3 {
		for i, p := range w.pods {
			vip := netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})
			if round == 0 {
				w.publish(frontend{service: uint32(i), vip: vip, port: 53, protocol: unix.IPPROTO_UDP, backends: []netip.Addr{p.v4}})
			}
			name, from := exchange(t, fd, vip, 53)
			if name != p.name || from.Addr() != vip {
				t.Errorf("round %d: Service %v answered as %v by %q", round, vip, from, name)
			}
		}
	}
}

// A socket that talks to more Services than its record holds forgets its own
// oldest, is counted, and every exchange still works.
func TestUDPOneSocketTooManyServices(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	const services = 10
	for i := range services {
		vip := netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})
		p := w.pods[i%2]
		w.publish(frontend{service: uint32(i), vip: vip, port: 53, protocol: unix.IPPROTO_UDP, backends: []netip.Addr{p.v4}})
		time.Sleep(10 * time.Millisecond) // the coarse clock tells the Services of a pod apart
		if name, from := exchange(t, fd, vip, 53); name != p.name || from.Addr() != vip {
			t.Errorf("Service %v answered as %v by %q", vip, from, name)
		}
	}
	if n := counter(t, dp, "udp_peer_evicted"); n != services-8 {
		t.Errorf("counted %d forgotten Services, want %d", n, services-8)
	}
}

func TestA22NoEndpointsRefusesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		for _, proto := range []struct {
			name     string
			typ      int
			protocol uint8
		}{{"TCP", unix.SOCK_STREAM, unix.IPPROTO_TCP}, {"UDP", unix.SOCK_DGRAM, unix.IPPROTO_UDP}} {
			t.Run(f.name+" "+proto.name, func(t *testing.T) {
				w.publish(frontend{service: uint32(i), vip: f.vip, port: 80, protocol: proto.protocol})
				fd := w.socket(f.domain, proto.typ)
				start := time.Now()
				if err := unix.Connect(fd, sockaddr(f.dest, 80)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("connect: %v, want ECONNREFUSED", err)
				}
				if proto.typ == unix.SOCK_DGRAM {
					if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(f.dest, 80)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Errorf("sendto: %v, want ECONNREFUSED", err)
					}
				}
				if d := time.Since(start); d > time.Second {
					t.Errorf("took %v, want at once", d)
				}
			})
		}
	}
}

func TestNoLocalEndpointsLooksLikeSilence(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		w.publish(frontend{vip: f.vip, port: 80, protocol: protocol, flags: abi.FlagInternalLocal, empty: abi.EmptyDrop})
	}
	tcp := w.socket(unix.AF_INET, unix.SOCK_STREAM)
	if err := unix.Connect(tcp, sockaddr(f.dest, 80)); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("connect: %v, want ETIMEDOUT", err)
	}
	udp := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	if err := unix.Sendto(udp, []byte("x"), 0, sockaddr(f.dest, 80)); !errors.Is(err, unix.EPERM) {
		t.Errorf("sendto: %v, want EPERM", err)
	}
}

// A13: a socket is inside the cluster, whatever its address: the external policy
// does not bind it, the internal one binds it at ClusterIPs only.
func TestA13SocketsAreInsideTheCluster(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		for j, c := range []struct {
			name  string
			flags uint32
			local bool // local backends only, of which there are none
		}{
			{"ClusterIP, external policy Local", abi.FlagClusterIP | abi.FlagExternalLocal, false},
			{"ClusterIP, internal policy Local", abi.FlagClusterIP | abi.FlagInternalLocal, true},
			{"load balancer, external policy Local", abi.FlagLoadBalancer | abi.FlagExternalLocal, false},
			{"external IP, external policy Local", abi.FlagExternalIP | abi.FlagExternalLocal, false},
		} {
			t.Run(f.name+", "+c.name, func(t *testing.T) {
				service, port := uint32(4*i+j), uint16(100+4*i+j)
				w.publish(frontend{service: service, vip: f.vip, port: port, protocol: unix.IPPROTO_TCP, flags: c.flags, backends: w.bothPods(f.family)})
				put(t, w.dp.Maps()[abi.MapSets], abi.SetIndex(service, abi.SetLocal), abi.EmptySetWord(abi.EmptyDrop))
				fd := w.socket(f.domain, unix.SOCK_STREAM)
				err := unix.Connect(fd, sockaddr(f.dest, int(port)))
				if c.local {
					if !errors.Is(err, unix.ETIMEDOUT) {
						t.Errorf("connect: %v, want ETIMEDOUT", err)
					}
					return
				}
				check(t, err)
				if name := read(t, fd); name != "a" && name != "b" {
					t.Errorf("%q answered", name)
				}
			})
		}
	}
}

func TestUnknownPortOfAVIP(t *testing.T) {
	for _, refuse := range []bool{true, false} {
		t.Run(fmt.Sprintf("refuse=%v", refuse), func(t *testing.T) {
			w := newWorld(t)
			opts := w.options()
			opts.RefuseUnknownPorts = refuse
			dp, err := Open(opts)
			check(t, err)
			defer func() { _ = dp.Close() }()
			w.dp = dp
			f := families[0]
			w.filter(f.vip)
			put(t, dp.Maps()[abi.MapFrontends], abi.NewFrontendKey(f.vip, 0, 0),
				abi.Frontend{Service: ^uint32(0), Flags: abi.FlagClusterIP | abi.FlagAddress})
			fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
			err = unix.Sendto(fd, []byte("x"), 0, sockaddr(f.dest, 81))
			if refuse && !errors.Is(err, unix.ECONNREFUSED) || !refuse && err != nil {
				t.Errorf("sendto an unknown port: %v", err)
			}
		})
	}
}

func TestWhatIsNoServicePasses(t *testing.T) {
	w := newWorld(t)
	w.open()
	w.publish(frontend{vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	for _, family := range []int{4, 6} {
		p := w.pods[1]
		var name []byte
		check(t, w.client.Do(func() error {
			c, err := net.Dial("tcp", netip.AddrPortFrom(p.addr(family), podPort).String())
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if got := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != p.addr(family) {
				t.Errorf("peer %v, want %v", got, p.addr(family))
			}
			name, err = io.ReadAll(c)
			return err
		}))
		if string(name) != p.name {
			t.Errorf("reached %q, want %q", name, p.name)
		}
	}
}

func TestSessionAffinityHoldsAndMoves(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, affinity: 2, backends: w.bothPods(4)})
	dial := func() string {
		fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
		check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
		return read(t, fd)
	}
	first := dial()
	for range 20 {
		if got := dial(); got != first {
			t.Fatalf("pinned to %q, but went to %q", first, got)
		}
	}
	pinned := 0
	if first == "b" {
		pinned = 1
	}
	w.kill(0, pinned)
	put(t, w.dp.Maps()[abi.MapSlots], uint32(pinned), abi.Slot{Backend: uint32(1 - pinned)})
	if got := dial(); got == first {
		t.Errorf("still at %q, which is gone (pains A21)", got)
	}
}

// Of two clients in one pod, one may read its clock before the other renews
// their pin: a pin from the future is a fresh one.
func TestSessionAffinityHoldsWhileClocksTick(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, affinity: 2, backends: w.bothPods(4)})
	dial := func() string {
		fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
		check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
		return read(t, fd)
	}
	first := dial()
	for range 20 {
		w.pinsInTheFuture()
		if got := dial(); got != first {
			t.Fatalf("pinned to %q, but went to %q", first, got)
		}
	}
}

// pinsInTheFuture dates every affinity a second ahead.
func (w *world) pinsInTheFuture() {
	w.t.Helper()
	var now unix.Timespec
	check(w.t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	pins := map[abi.AffinityKey]abi.Affinity{}
	var key abi.AffinityKey
	var pin abi.Affinity
	it := w.dp.Maps()[abi.MapAffinities].Iterate()
	for it.Next(&key, &pin) {
		pin.SeenNs = uint64(now.Nano() + time.Second.Nanoseconds())
		pins[key] = pin
	}
	check(w.t, it.Err())
	for key, pin := range pins {
		put(w.t, w.dp.Maps()[abi.MapAffinities], key, pin)
	}
}

// exchange sends one datagram and returns the answer and whom it came from.
func exchange(t *testing.T, fd int, to netip.Addr, port int) (string, netip.AddrPort) {
	t.Helper()
	check(t, unix.Sendto(fd, []byte("hello"), 0, sockaddr(to, port)))
	buf := make([]byte, 64)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	check(t, err)
	return string(buf[:n]), addrPort(t, from)
}

func mapLen(t *testing.T, dp *Datapath, name string) int {
	t.Helper()
	n := 0
	var key, value []byte
	it := dp.Maps()[name].Iterate()
	for it.Next(&key, &value) {
		n++
	}
	check(t, it.Err())
	return n
}

func counter(t *testing.T, dp *Datapath, name string) (sum uint64) {
	t.Helper()
	for i := range abi.Counters {
		if abi.Counter(i).String() != name {
			continue
		}
		var perCPU []uint64
		check(t, dp.Maps()[abi.MapCounters].Lookup(uint32(i), &perCPU))
		for _, n := range perCPU {
			sum += n
		}
		return sum
	}
	t.Fatalf("no counter %q", name)
	return 0
}
