// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
)

// tun is a device without a link header on node 1, as tunnels and WireGuard
// have, and its other end is in the test's hands.
type tun struct {
	w     *wired
	file  *os.File
	progs *datapath.PacketPrograms
}

func (w *wired) tun(name string) *tun {
	w.t.Helper()
	d := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1,
		Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_ONE_QUEUE,
	}
	check(w.t, w.node1.Do(func() error { return netlink.LinkAdd(d) }))
	check(w.t, w.node1.Up(name))
	w.t.Cleanup(func() { _ = d.Fds[0].Close() })
	progs, err := datapath.LoadPacketPrograms(w.maps, datapath.PacketOptions{NoLinkHeader: true})
	check(w.t, err)
	w.t.Cleanup(func() { _ = progs.Close() })
	w.attach(name, progs)
	return &tun{w, d.Fds[0], progs}
}

func (d *tun) send(f Frame) {
	d.w.t.Helper()
	f.NoLink = true
	_, err := d.file.Write(f.Bytes())
	check(d.w.t, err)
}

// receive waits for a packet from an address; what else the kernel sends is
// passed over.
func (d *tun) receive(from netip.Addr) Frame {
	d.w.t.Helper()
	b := make([]byte, 4096)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(d.file.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 200); n <= 0 || err != nil {
			continue
		}
		n, err := unix.Read(int(d.file.Fd()), b)
		check(d.w.t, err)
		if f, err := Read(bytes.Clone(b[:n]), true); err == nil && f.Src.Addr() == from {
			return f
		}
	}
	d.w.t.Fatalf("nothing came from %v; counters %v", from, d.w.counters())
	return Frame{}
}

// B7: clients behind a device without a link header, backends on this node and
// behind one that has it; replies come back.
func TestTunnelDevice(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	d := w.tun("tun0")
	for _, s := range wires {
		peer, own := addr("10.9.0.2"), "10.9.0.1/24"
		if s.family == 6 {
			peer, own = addr("fd09::2"), "fd09::1/64"
		}
		check(t, w.node1.Address("tun0", own))
		for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
			at := w.nodePortService(s.side, UDP, 0, e)
			d.send(Frame{Src: port(peer, 4000), Dst: at, Proto: UDP, Payload: []byte("hello")})
			if got := d.receive(s.node); got.Src != at || got.Dst != port(peer, 4000) || !bytes.HasPrefix(got.Payload, []byte(e.at.String())) {
				t.Errorf("IPv%d, local=%v: %v -> %v: %q", s.family, e.local, got.Src, got.Dst, got.Payload)
			}
			none := w.nodePortService(s.side, UDP, 0)
			d.send(Frame{Src: port(peer, 4000), Dst: none, Proto: UDP, Payload: []byte("hello")})
			if got := d.receive(s.node); got.Proto != ICMP && got.Proto != ICMPv6 {
				t.Errorf("IPv%d: no endpoint: got protocol %d", s.family, got.Proto)
			}
		}
	}
}

// Clients on Ethernet, and a backend behind a device without a link header.
func TestBackendBehindTunnel(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	d := w.tun("tun0")
	for _, s := range wires {
		pod, own := addr("10.9.0.2"), "10.9.0.1/24"
		if s.family == 6 {
			pod, own = addr("fd09::2"), "fd09::1/64"
		}
		check(t, w.node1.Address("tun0", own))
		at := w.nodePortService(s.side, UDP, 0, &endpoint{at: port(pod, podPort)})
		answers := make(chan error, 1)
		go func() {
			_, _, err := w.exchange("udp", at, []byte("hello"))
			answers <- err
		}()
		got := d.receive(s.node)
		if got.Dst != port(pod, podPort) || string(got.Payload) != "hello" {
			t.Errorf("IPv%d: %v -> %v: %q", s.family, got.Src, got.Dst, got.Payload)
		}
		d.send(Frame{Src: got.Dst, Dst: got.Src, Proto: UDP, Payload: []byte(fmt.Sprintf("%s %s\nhello", got.Dst, got.Src))})
		if err := <-answers; err != nil {
			t.Errorf("IPv%d: %v; counters %v", s.family, err, w.counters())
		}
	}
}

// secondUplink gives node 1 another way to the router: eth1.
func (w *wired) secondUplink(routes func(s side, gateway netip.Addr) []*netlink.Route) {
	t := w.t
	check(t, lab.Connect(w.node1, "eth1", w.router, "second"))
	for _, s := range wires {
		own, gateway := "172.20.0.1/24", "172.20.0.254/24"
		if s.family == 6 {
			own, gateway = "fd20::1/64", "fd20::fe/64"
		}
		check(t, w.node1.Address("eth1", own))
		check(t, w.router.Address("second", gateway))
		w.localAddr(netip.MustParsePrefix(own).Addr(), abi.LocalAddrHere)
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(w.index("eth1"), s.family == 6), abi.Addr(netip.MustParsePrefix(own).Addr()))
		check(t, w.node1.Do(func() error {
			for _, r := range routes(s.side, netip.MustParsePrefix(gateway).Addr()) {
				if err := netlink.RouteAdd(r); err != nil {
					return fmt.Errorf("route %v: %w", r, err)
				}
			}
			return nil
		}))
	}
	w.attach("eth1", w.progs)
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// A36 and multi-homed nodes: requests come in by one device and replies leave
// by another; what goes to a backend by the second device has its address, and
// what comes back there is known.
func TestA36MultiHomed(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	w.secondUplink(func(s side, gateway netip.Addr) []*netlink.Route {
		return []*netlink.Route{
			{Dst: ipNet(whole(s.client)), Gw: gateway.AsSlice()},    // to the client
			{Dst: ipNet(whole(s.remotePod)), Gw: gateway.AsSlice()}, // to the other node's pod
		}
	})
	for _, s := range wires {
		check(t, w.router.Route(whole(s.remotePod).String(), s.node2.String()))
		second := addr("172.20.0.1")
		if s.family == 6 {
			second = addr("fd20::1")
		}
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			for _, c := range []struct {
				to   *endpoint
				sees netip.Addr
			}{
				{&endpoint{at: port(s.localPod, podPort), local: true}, s.client},
				{&endpoint{at: port(s.remotePod, podPort)}, second},
			} {
				at := w.nodePortService(s.side, proto, 0, c.to)
				backend, seen, err := w.exchange(network, at, []byte("hello"))
				if err != nil || backend != c.to.at || seen.Addr() != c.sees {
					t.Errorf("IPv%d %s: answered by %v, which saw %v, want %v: %v; counters %v", s.family, network, backend, seen, c.sees, err, w.counters())
				}
			}
		}
	}
}

// A36: the way to a backend is that of the node's routing rules, not only that
// of its main table.
func TestA36PolicyRouting(t *testing.T) {
	const table = 100
	w := newWired(t, datapath.PacketOptions{})
	w.secondUplink(func(s side, gateway netip.Addr) []*netlink.Route {
		return []*netlink.Route{{Dst: ipNet(whole(s.remotePod)), Gw: gateway.AsSlice(), Table: table}}
	})
	for _, s := range wires {
		check(t, w.router.Route(whole(s.remotePod).String(), s.node2.String()))
		check(t, w.node1.Do(func() error {
			rule := netlink.NewRule()
			rule.IifName, rule.Table, rule.Priority, rule.Family = "eth0", table, 50, netlink.FAMILY_V4
			if s.family == 6 {
				rule.Family = netlink.FAMILY_V6
			}
			return netlink.RuleAdd(rule)
		}))
		want := addr("172.20.0.1")
		if s.family == 6 {
			want = addr("fd20::1")
		}
		e := &endpoint{at: port(s.remotePod, podPort)}
		at := w.nodePortService(s.side, TCP, 0, e)
		backend, seen, err := w.exchange("tcp", at, []byte("hello"))
		if err != nil || backend != e.at || seen.Addr() != want {
			t.Errorf("IPv%d: answered by %v, which saw %v, want %v: %v; counters %v", s.family, backend, seen, want, err, w.counters())
		}
	}
}

// A28: whatever the devices leave to one another of checksums and segments, what
// arrives is whole. Without offloads every checksum is real, and looked at.
func TestA28OffloadsOnAndOff(t *testing.T) {
	for _, off := range [][]string{nil, {"client"}, {"client", "router", "node1", "pod1", "pod2", "node2"}} {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			w := newWired(t, datapath.PacketOptions{})
			spaces := map[string]*lab.Namespace{
				"client": w.client, "router": w.router, "node1": w.node1, "node2": w.node2, "pod1": w.pod1, "pod2": w.pod2,
			}
			for _, name := range off {
				check(t, spaces[name].Do(noOffloads))
			}
			for _, s := range wires {
				for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
					for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
						data := megabyte()
						if proto == UDP {
							data = data[:1200]
						}
						at := w.nodePortService(s.side, proto, 0, e)
						if _, _, err := w.exchange(network, at, data); err != nil {
							t.Errorf("IPv%d %s, local=%v: %v; counters %v", s.family, network, e.local, err, w.counters())
						}
					}
					w.sendSegments(s.side, e)
				}
			}
			for name, ns := range spaces {
				check(t, ns.Do(func() error { return noChecksumErrors(name) }))
			}
		})
	}
}

// noOffloads switches off what ethtool can, on all devices of the namespace.
func noOffloads() error {
	const stxcsum, ssg, stso, sgso, sgro = 0x17, 0x19, 0x1f, 0x24, 0x2c // linux/ethtool.h
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		for _, cmd := range []uint32{sgro, stso, sgso, ssg, stxcsum} {
			value := struct{ cmd, data uint32 }{cmd, 0}
			req := struct {
				name [unix.IFNAMSIZ]byte
				data unsafe.Pointer
				_    [16]byte
			}{data: unsafe.Pointer(&value)}
			copy(req.name[:], l.Attrs().Name)
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); e != 0 {
				return fmt.Errorf("ethtool %s %#x: %w", l.Attrs().Name, cmd, e)
			}
		}
	}
	return nil
}

// sendSegments sends many datagrams in one piece (UDP_SEGMENT), as QUIC does.
func (w *wired) sendSegments(s side, e *endpoint) {
	const udpSegment, size, count = 103, 1000, 20
	w.t.Helper()
	at := w.nodePortService(s, UDP, 0, e)
	var c net.Conn
	check(w.t, w.client.Do(func() (err error) { c, err = net.Dial("udp", at.String()); return err }))
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.UDPConn).SyscallConn()
	check(w.t, err)
	check(w.t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, udpSegment, size) }))
	check(w.t, err)
	var all []byte
	for i := range count {
		all = append(all, bytes.Repeat([]byte{byte('a' + i)}, size)...)
	}
	_, err = c.Write(all)
	check(w.t, err)
	check(w.t, c.SetReadDeadline(time.Now().Add(3*time.Second)))
	b := make([]byte, 2*size)
	seen := map[byte]bool{}
	for range count {
		n, err := c.Read(b)
		if err != nil {
			w.t.Errorf("IPv%d, local=%v: %d of %d datagrams came back: %v; counters %v", s.family, e.local, len(seen), count, err, w.counters())
			return
		}
		_, data, _ := bytes.Cut(b[:n], []byte("\n"))
		if len(data) != size || !bytes.Equal(data, bytes.Repeat(data[:1], size)) {
			w.t.Errorf("IPv%d, local=%v: a datagram of %d bytes", s.family, e.local, len(data))
			return
		}
		seen[data[0]] = true
	}
	if len(seen) != count {
		w.t.Errorf("IPv%d, local=%v: %d different datagrams, want %d", s.family, e.local, len(seen), count)
	}
}

// noChecksumErrors reads what the namespace's stack refused.
func noChecksumErrors(name string) error {
	for _, file := range []string{"snmp", "snmp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		lines := bytes.Split(text, []byte("\n"))
		for i, line := range lines {
			fields := bytes.Fields(line)
			if file == "snmp6" {
				if len(fields) == 2 && bytes.HasSuffix(fields[0], []byte("InCsumErrors")) && string(fields[1]) != "0" {
					return fmt.Errorf("%s: %s", name, line)
				}
				continue
			}
			for j, field := range fields {
				if string(field) == "InCsumErrors" && string(bytes.Fields(lines[i+1])[j]) != "0" {
					return fmt.Errorf("%s: %s%s: wrong checksums", name, fields[0], field)
				}
			}
		}
	}
	return nil
}

// A32: an address that the node gets later serves NodePorts once the table has
// it; one that is taken away does not any more.
func TestA32NodePortOnLateAddress(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{})
	for _, s := range sides {
		any := netip.IPv4Unspecified()
		if s.family == 6 {
			any = netip.IPv6Unspecified()
		}
		at := port(s.localPod, 8080)
		w.addService(&svc{
			proto: TCP, frontends: []netip.AddrPort{port(any, 30053)}, flags: abi.FlagNodePort,
			endpoints: []*endpoint{{at: at, local: true}},
		})
		late := s.node.Next()
		f := opening(TCP, port(s.client, 40000), port(late, 30053))
		w.wantUntouched("not yet", w.in(f), w.frame(f).Bytes())
		w.localAddr(late, abi.LocalAddrHere|abi.LocalAddrNodePort)
		want := f
		want.Dst = at
		w.want("now", w.in(f), pass, want)
		check(t, w.maps[abi.MapLocalAddrs].Delete(abi.Addr(late)))
		f.Src = port(s.client, 40001)
		w.wantUntouched("not any more", w.in(f), w.frame(f).Bytes())
	}
}

// A34: one number is two NodePorts, of TCP and of UDP, and none on loopback: what
// comes from outside and names it is dropped.
func TestA34OneNumberForTwoProtocols(t *testing.T) {
	w := newWorld(t, datapath.PacketOptions{})
	for _, s := range sides {
		any, loopback := netip.IPv4Unspecified(), addr("127.0.0.1")
		if s.family == 6 {
			any, loopback = netip.IPv6Unspecified(), netip.IPv6Loopback()
		}
		pods := map[uint8]netip.AddrPort{TCP: port(s.localPod, 8080), UDP: port(s.localPod, 5353)}
		for proto, at := range pods {
			w.addService(&svc{
				proto: proto, frontends: []netip.AddrPort{port(any, 30053)}, flags: abi.FlagNodePort,
				endpoints: []*endpoint{{at: at, local: true}},
			})
		}
		for proto, at := range pods {
			f := opening(proto, port(s.client, 40000), port(s.node, 30053))
			want := f
			want.Dst = at
			w.want("NodePort", w.in(f), pass, want)
			w.wantDrop("on loopback", w.in(opening(proto, port(s.client, 40000), port(loopback, 30053))), "martian")
		}
	}
}
