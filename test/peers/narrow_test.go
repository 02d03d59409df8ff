// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// What fits through the router between client and nodes, and through what lies
// between a node and the other node's pods, as an overlay does. All devices take
// 1500 bytes, so that hosts only learn of this by ICMP.
const (
	routerMTU  = 1400
	overlayMTU = 1300
)

// large is a probe with packets that may not fit.
type large struct {
	network string
	// ask and answer are sizes in bytes, of payload.
	ask, answer int
	// whole: the request may not be fragmented.
	whole bool
}

// Of UDP, 1450 bytes of payload fit through nothing, 1320 through the router.
const (
	tcpLarge = "tcp, 256 KiB there and back"
	udpLarge = "udp, 3000 bytes there and back, in fragments"
	udpWide  = "udp, 1450 bytes back"
	udpWhole = "udp, 1450 bytes there, not to be fragmented"
	udpFits  = "udp, 1320 bytes there, not to be fragmented"
)

var larges = map[string]large{
	tcpLarge: {tcp, 256 << 10, 256 << 10, false},
	udpLarge: {udp, 3000, 3000, false},
	udpWide:  {udp, 100, 1450, false},
	udpWhole: {udp, 1450, 100, true},
	udpFits:  {udp, 1320, 100, true},
}

// largePatience is for TCP too, which finds a smaller MTU by what it sends again.
const largePatience = 6 * time.Second

func (l large) once(to netip.AddrPort) string {
	c, err := open(l.network, to)
	if err != nil {
		return what(err)
	}
	defer func() { _ = c.Close() }()
	if l.network == udp {
		if err := fragmented(c, to, l.whole); err != nil {
			return err.Error()
		}
	}
	ask := fmt.Sprintf("%d ", l.answer)
	ask += strings.Repeat("x", l.ask-len(ask)-1) + "\n"
	r := bufio.NewReaderSize(c, 1<<16)
	for deadline := time.Now().Add(largePatience); ; {
		_ = c.SetDeadline(deadline)
		if _, err := c.Write([]byte(ask)); errors.Is(err, syscall.EMSGSIZE) {
			return tooBig(c, to)
		} else if err != nil {
			return what(err)
		}
		if l.network == udp {
			_ = c.SetReadDeadline(time.Now().Add(askAgain))
		}
		got, err := r.ReadString('\n')
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(deadline) {
			continue
		}
		if errors.Is(err, syscall.EMSGSIZE) {
			return tooBig(c, to)
		}
		if err != nil {
			return what(err)
		}
		if len(got) < l.answer {
			return fmt.Sprintf("%d bytes of %d", len(got), l.answer)
		}
		return strings.Join(strings.Fields(got)[:3], " ") // "local sees 192.0.2.1"
	}
}

// fragmented says whether datagrams may be, on the way or at all.
func fragmented(c net.Conn, to netip.AddrPort, whole bool) error {
	level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if whole {
		value = unix.IP_PMTUDISC_DO
	}
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, level, option, value) })
}

// tooBig tells how much fits, as the client has learnt.
func tooBig(c net.Conn, to netip.AddrPort) string {
	level, option, mtu := unix.IPPROTO_IP, unix.IP_MTU, 0
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	err := control(c, func(fd int) (err error) { mtu, err = unix.GetsockoptInt(fd, level, option); return err })
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("too big for %d", mtu)
}

func control(c net.Conn, f func(fd int) error) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// narrow makes the router's ways smaller, and those of nodes to the other's pods.
func (w *world) narrow() {
	w.t.Helper()
	check(w.t, narrowRoutes(w.wire, routerMTU, func(*netlink.Route) bool { return true }))
	for _, n := range w.nodes {
		check(w.t, narrowRoutes(n.NS, overlayMTU, func(r *netlink.Route) bool {
			return r.Gw != nil && r.Dst != nil && !r.Dst.IP.IsUnspecified()
		}))
	}
}

func narrowRoutes(ns *lab.Namespace, mtu int, which func(*netlink.Route) bool) error {
	return ns.Do(func() error {
		all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Dst == nil || r.Dst.IP.IsLinkLocalUnicast() || r.Dst.IP.IsMulticast() || !which(&r) {
				continue
			}
			r.MTU, r.MTULock = mtu, true
			if err := netlink.RouteReplace(&r); err != nil {
				return fmt.Errorf("route %v: %w", r, err)
			}
		}
		return nil
	})
}

// holdNarrow holds both worlds against each other where packets do not fit.
// Hosts remember what fits to an address, so what fits least comes last, and
// what says how much fits is asked where an address has one backend.
func (p *pair) holdNarrow(t *testing.T, s settings, services []*service) {
	for _, w := range []*world{p.theirs, p.ours} {
		w.narrow()
	}
	ask := func(networks ...string) []cell { return cells(p.ours, []string{client}, networks, services...) }
	var fits []cell
	for _, c := range ask(udpFits) {
		if c.Frontend != nodePort1 && c.Frontend != nodePort2 {
			fits = append(fits, c)
		}
	}
	p.hold(t, s, ask(udpWhole), fits, ask(tcpLarge, udpLarge, udpWide))
}
