// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// narrow gives node 1 a way to an address with a smaller MTU than that of its
// device.
func (w *wired) narrow(to, via netip.Addr, mtu int) {
	w.t.Helper()
	check(w.t, w.node1.Do(func() error {
		return netlink.RouteReplace(&netlink.Route{Dst: ipNet(whole(to)), Gw: via.AsSlice(), MTU: mtu, MTULock: true})
	}))
}

// mayBeCut sends a datagram that every router may cut, and waits for its echo.
func (w *wired) mayBeCut(to netip.AddrPort, size int) error {
	var c net.Conn
	if err := w.client.Do(func() (err error) { c, err = net.Dial("udp", to.String()); return err }); err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	if err := errors.Join(err, set); err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	n, err := c.Read(make([]byte, 65536))
	if err == nil && n < size {
		err = fmt.Errorf("%d bytes came back", n)
	}
	return err
}

// A router cuts an IPv4 datagram that is too big for its way and allows it. So
// does the stack of the node, wherever the packet goes and whatever its source has
// become; without the loopback device it has no way there, and it is counted.
func TestTooBigAndMayBeCut(t *testing.T) {
	const size, mtu = 1460, 1300
	s := wires[0]
	gateway := addr("192.0.2.254")
	for _, loopback := range []bool{true, false} {
		for _, toClient := range []bool{true, false} {
			t.Run(fmt.Sprintf("loopback=%v reply=%v", loopback, toClient), func(t *testing.T) {
				w := newWired(t, datapath.PacketOptions{CutByLoopback: loopback})
				if loopback {
					check(t, w.node1.Sysctl("net/ipv4/conf/lo/accept_local", "1"))
				}
				if toClient {
					w.narrow(s.client, gateway, mtu)
				} else {
					w.narrow(s.remotePod, s.node2, mtu)
				}
				e := &endpoint{at: port(s.remotePod, podPort)}
				at := w.nodePortService(s.side, UDP, 0, e)
				if err := w.mayBeCut(at, 100); err != nil {
					t.Fatalf("a small one: %v; counters %v", err, w.counters())
				}
				err, n := w.mayBeCut(at, size), w.counters()["too_big"]
				if loopback && (err != nil || n != 0) || !loopback && (err == nil || n != 1) {
					t.Errorf("%v; counters %v", err, w.counters())
				}
				// A reply that comes from a Service's own address needs nothing.
				w.addService(&svc{
					proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer, endpoints: []*endpoint{e},
				})
				err = w.mayBeCut(port(s.vip, 80), size)
				if served := loopback || toClient; served != (err == nil) {
					t.Errorf("by the load balancer's address: %v; counters %v", err, w.counters())
				}
			})
		}
	}
}
