// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
)

// wired is a small cluster of namespaces: a client behind a router, and two
// nodes with a pod each. The programs are attached on the first node only.
//
//	client --- router === node1 (programs) --- pod1
//	                   \= node2 ------------- pod2
type wired struct {
	*world
	client, router, node1, node2, pod1, pod2 *lab.Namespace
	podProgs                                 *datapath.PacketPrograms // on the pod's device
	nodePort                                 uint16
	clsact                                   bool // attach by tc filters
}

const podPort = 8080

// wires are the addresses of the cluster, per family.
var wires = []struct {
	side
	clientNet, nodeNet, pod1Net, pod2Net string // gateways in CIDR notation
	node2                                netip.Addr
}{
	{sides[0], "203.0.113.1/24", "192.0.2.254/24", "10.1.0.1/24", "10.2.0.1/24", addr("192.0.2.2")},
	{sides[1], "2001:db8:7::1/64", "2001:db8:1::fe/64", "fd00:1::1/64", "fd00:2::1/64", addr("2001:db8:1::2")},
}

func newWired(t *testing.T, opts datapath.PacketOptions) *wired {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("wired%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	w := &wired{world: &world{t: t, maps: newMaps(t, testFlows), service: 10, backend: 100, slot: 1000}, nodePort: 30000, clsact: opts.Clsact}
	for name, ns := range map[string]**lab.Namespace{
		"client": &w.client, "router": &w.router, "node1": &w.node1, "node2": &w.node2, "pod1": &w.pod1, "pod2": &w.pod2,
	} {
		*ns, err = l.Namespace(name)
		check(t, err)
	}
	w.ns = w.node1
	w.connect()
	for _, r := range []*lab.Namespace{w.router, w.node1, w.node2} {
		check(t, r.Forward())
	}
	for _, s := range wires {
		w.addresses(s.side, s.clientNet, s.nodeNet, s.pod1Net, s.pod2Net, s.node2)
		w.localAddr(s.node, abi.LocalAddrHere|abi.LocalAddrNodePort)
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(0, s.family == 6), abi.Addr(s.node))
		w.serve(w.pod1, s.localPod)
		w.serve(w.pod2, s.remotePod)
	}
	w.load(opts)
	w.attach("eth0", w.progs)
	opts.PodDevice = true
	w.podProgs, err = datapath.LoadPacketPrograms(w.maps, opts)
	check(t, err)
	t.Cleanup(func() { _ = w.podProgs.Close() })
	w.attach("pod", w.podProgs)
	return w
}

func (w *wired) connect() {
	for _, pair := range []struct {
		a     *lab.Namespace
		aName string
		b     *lab.Namespace
		bName string
	}{
		{w.client, "eth0", w.router, "client"},
		{w.node1, "eth0", w.router, "node1"},
		{w.node2, "eth0", w.router, "node2"},
		{w.pod1, "eth0", w.node1, "pod"},
		{w.pod2, "eth0", w.node2, "pod"},
	} {
		check(w.t, lab.Connect(pair.a, pair.aName, pair.b, pair.bName))
	}
	check(w.t, w.router.Bridge("nodes", "node1", "node2"))
}

func (w *wired) addresses(s side, clientNet, nodeNet, pod1Net, pod2Net string, node2 netip.Addr) {
	t := w.t
	gateway := func(cidr string) string { a, _, _ := strings.Cut(cidr, "/"); return a }
	with := func(a netip.Addr, cidr string) string { _, n, _ := strings.Cut(cidr, "/"); return a.String() + "/" + n }
	all := "0.0.0.0/0"
	if s.family == 6 {
		all = "::/0"
	}
	check(t, w.router.Address("client", clientNet))
	check(t, w.router.Address("nodes", nodeNet))
	check(t, w.node1.Address("pod", pod1Net))
	check(t, w.node2.Address("pod", pod2Net))
	for _, h := range []struct {
		ns  *lab.Namespace
		a   netip.Addr
		net string
	}{
		{w.client, s.client, clientNet},
		{w.node1, s.node, nodeNet},
		{w.node2, node2, nodeNet},
		{w.pod1, s.localPod, pod1Net},
		{w.pod2, s.remotePod, pod2Net},
	} {
		check(t, h.ns.Address("eth0", with(h.a, h.net)))
		check(t, h.ns.Route(all, gateway(h.net)))
	}
	masked := netip.MustParsePrefix(pod2Net).Masked().String()
	check(t, w.node1.Route(masked, node2.String()))
	check(t, w.node2.Route(netip.MustParsePrefix(pod1Net).Masked().String(), s.node.String()))
	// The router knows the way to node 1's pods, and takes VIPs there, too.
	check(t, w.router.Route(netip.MustParsePrefix(pod1Net).Masked().String(), s.node.String()))
	check(t, w.router.Route(netip.PrefixFrom(s.vip, s.vip.BitLen()).String(), s.node.String()))
}

// serve answers on TCP and UDP with the client's address, and then echoes.
func (w *wired) serve(ns *lab.Namespace, a netip.Addr) {
	at := port(a, podPort).String()
	check(w.t, ns.Do(func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _, _ = l.Close(), u.Close() })
		go acceptAll(l)
		go answerAll(u)
		return nil
	}))
}

func acceptAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			if _, err := fmt.Fprintf(c, "%s %s\n", c.LocalAddr(), c.RemoteAddr()); err == nil {
				_, _ = io.Copy(c, c)
			}
		}()
	}
}

func answerAll(u net.PacketConn) {
	b := make([]byte, 65536)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = u.WriteTo(append([]byte(fmt.Sprintf("%s %s\n", u.LocalAddr(), from)), b[:n]...), from)
	}
}

// exchange is exchangeFrom the client.
func (w *wired) exchange(network string, to netip.AddrPort, data []byte) (backend, seen netip.AddrPort, err error) {
	return exchangeFrom(w.client, network, to, data)
}

// exchangeFrom connects and sends data through; it returns which backend
// answered, and whom that took for the client.
func exchangeFrom(from *lab.Namespace, network string, to netip.AddrPort, data []byte) (backend, seen netip.AddrPort, err error) {
	var c net.Conn
	err = from.Do(func() (err error) {
		c, err = net.DialTimeout(network, to.String(), 2*time.Second)
		return err
	})
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20*time.Second + time.Duration(len(data))*50)) // 20 MB/s at least
	if network == "udp" {
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	}
	sent := make(chan error, 1)
	go func() { _, err := c.Write(data); sent <- err }()
	r := bufio.NewReaderSize(c, 65536+100)
	line, err := r.ReadString('\n')
	if err != nil {
		return backend, seen, errors.Join(err, <-sent)
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(line), "%s %s", (*addrPort)(&backend), (*addrPort)(&seen)); err != nil {
		return backend, seen, err
	}
	back := make([]byte, len(data))
	if _, err := io.ReadFull(r, back); err != nil {
		return backend, seen, errors.Join(fmt.Errorf("echo: %w", err), <-sent)
	}
	if !bytes.Equal(back, data) {
		err = errors.New("what came back is not what was sent")
	}
	return backend, seen, errors.Join(err, <-sent)
}

// addrPort reads a netip.AddrPort.
type addrPort netip.AddrPort

func (a *addrPort) Scan(state fmt.ScanState, _ rune) error {
	token, err := state.Token(true, nil)
	if err != nil {
		return err
	}
	p, err := netip.ParseAddrPort(string(token))
	*a = addrPort(p)
	return err
}

// nodePortService makes a NodePort Service with those backends and returns
// where it is reached.
func (w *wired) nodePortService(s side, proto uint8, flags uint32, endpoints ...*endpoint) netip.AddrPort {
	w.nodePort++
	any := netip.IPv4Unspecified()
	if s.family == 6 {
		any = netip.IPv6Unspecified()
	}
	w.addService(&svc{
		proto: proto, frontends: []netip.AddrPort{port(any, w.nodePort)}, flags: abi.FlagNodePort | flags,
		endpoints: endpoints, emptyLocal: abi.EmptyDrop,
	})
	return port(s.node, w.nodePort)
}

func megabyte() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 1<<16) }

// NodePort in all its kinds, with real sockets and the devices' offloads: who
// answers, whom it sees, and a megabyte through it; attached either way.
func TestNodePortWithSockets(t *testing.T) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) { testNodePortWithSockets(t, newWired(t, datapath.PacketOptions{Clsact: clsact})) })
	}
}

func testNodePortWithSockets(t *testing.T, w *wired) {
	for _, s := range wires {
		local := func() *endpoint { return &endpoint{at: port(s.localPod, podPort), local: true} }
		remote := func() *endpoint { return &endpoint{at: port(s.remotePod, podPort)} }
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			data := []byte("a datagram")
			if proto == TCP {
				data = megabyte()
			}
			for _, test := range []struct {
				name  string
				flags uint32
				to    *endpoint
				sees  netip.Addr // zero: nobody answers
			}{
				{"Cluster, local", 0, local(), s.client},
				{"Cluster, remote", 0, remote(), s.node},
				{"Local, local", abi.FlagExternalLocal, local(), s.client},
				{"Local, remote", abi.FlagExternalLocal, remote(), netip.Addr{}},
			} {
				t.Run(fmt.Sprintf("IPv%d %s %s", s.family, network, test.name), func(t *testing.T) {
					at := w.nodePortService(s.side, proto, test.flags, test.to)
					backend, seen, err := w.exchange(network, at, data)
					if !test.sees.IsValid() {
						var timeout net.Error
						if !errors.As(err, &timeout) || !timeout.Timeout() {
							t.Errorf("got %v, want no answer", err)
						}
						return
					}
					if err != nil {
						t.Fatalf("%v; counters %v", err, w.counters())
					}
					if backend != test.to.at || seen.Addr() != test.sees {
						t.Errorf("answered by %v, which saw %v", backend, seen)
					}
				})
			}
		}
	}
}

// A17: a pod whose sockets we do not see, such as a virtual machine's, by way of
// the programs on its device.
func TestA17PodClient(t *testing.T) {
	testPodClient(t, func(s side) (*endpoint, netip.Addr) { return &endpoint{at: port(s.remotePod, podPort)}, s.localPod })
}

// A25: such a pod reaches itself through its own Service.
func TestA25PodReachesItself(t *testing.T) {
	testPodClient(t, func(s side) (*endpoint, netip.Addr) {
		return &endpoint{at: port(s.localPod, podPort), local: true}, s.podGateway
	})
}

// testPodClient lets pod 1 ask for a backend, which sees somebody.
func testPodClient(t *testing.T, to func(side) (backend *endpoint, sees netip.Addr)) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(w.index("pod"), s.family == 6), abi.Addr(s.podGateway))
		w.localAddr(s.podGateway, abi.LocalAddrHere)
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			e, sees := to(s.side)
			w.nodePort++
			vip := port(s.vip, w.nodePort)
			w.addService(&svc{proto: proto, frontends: []netip.AddrPort{vip}, flags: abi.FlagClusterIP, endpoints: []*endpoint{e}})
			backend, seen, err := exchangeFrom(w.pod1, network, vip, []byte("hello"))
			if err != nil || backend != e.at || seen.Addr() != sees {
				t.Errorf("IPv%d %s: answered by %v, which saw %v: %v; counters %v", s.family, network, backend, seen, err, w.counters())
			}
		}
	}
}

// index returns a device's number on node 1.
func (w *wired) index(dev string) (index int) {
	w.t.Helper()
	check(w.t, w.node1.Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err == nil {
			index = l.Attrs().Index
		}
		return err
	}))
	return index
}

// A server that serves its node's own address (hostNetwork), next to and away
// from the node that is asked (pains A24).
func TestA24HostNetworkBackend(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		w.serve(w.node1, s.node)
		w.serve(w.node2, s.node2)
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			for _, test := range []struct {
				to   *endpoint
				sees netip.Addr
			}{
				{&endpoint{at: port(s.node, podPort), local: true}, s.client},
				{&endpoint{at: port(s.node2, podPort)}, s.node},
			} {
				at := w.nodePortService(s.side, proto, 0, test.to)
				backend, seen, err := w.exchange(network, at, []byte("hello"))
				if err != nil || backend != test.to.at || seen.Addr() != test.sees {
					t.Errorf("IPv%d %s: answered by %v, which saw %v: %v; counters %v", s.family, network, backend, seen, err, w.counters())
				}
			}
		}
	}
}

// A22: a Service without endpoints refuses at once, whatever is left of the
// checksum to the device. (All namespaces being in one machine, the refusal may
// come while connect() still holds the socket; then Linux believes it when it
// comes again, on the SYN that is sent again after a second.)
func TestA22RefusalReachesSockets(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		for network, proto := range map[string]uint8{"tcp": TCP, "udp": UDP} {
			at := w.nodePortService(s.side, proto, 0)
			start := time.Now()
			_, _, err := w.exchange(network, at, []byte("anybody there?"))
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > 2*time.Second {
				t.Errorf("IPv%d %s: %v after %v; counters %v", s.family, network, err, time.Since(start), w.counters())
			}
		}
	}
}

// A15: path MTU discovery through the translation. The way to the client takes
// less than the pods' devices, so the router refuses what the backends answer
// with. (Not by a smaller device: its peer, which does not know, would drop what
// the client sends without a word.)
func TestA15PathMTUDiscovery(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		check(t, w.router.Do(func() error { return narrowRoute(s.client, "client", netip.Addr{}) }))
		for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
			at := w.nodePortService(s.side, TCP, 0, e)
			if _, _, err := w.exchange("tcp", at, megabyte()); err != nil {
				t.Errorf("IPv%d, local=%v: %v; counters %v", s.family, e.local, err, w.counters())
			}
		}
	}
}

// The same towards the backends: the stack of either node finds the way to the
// pod too narrow, or the programs do, whose way leads past the stack.
func TestA15PathMTUDiscoveryTowardsBackends(t *testing.T) {
	for _, test := range []struct {
		name  string
		local bool
		node  func(*wired) *lab.Namespace // whose route is narrow
		via   bool                        // ... to the other node
	}{
		{"this node's stack", true, func(w *wired) *lab.Namespace { return w.node1 }, false},
		{"the programs", false, func(w *wired) *lab.Namespace { return w.node1 }, true},
		{"the other node's stack", false, func(w *wired) *lab.Namespace { return w.node2 }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWired(t, datapath.PacketOptions{})
			for _, s := range wires {
				e := &endpoint{at: port(s.remotePod, podPort), local: test.local}
				if test.local {
					e.at = port(s.localPod, podPort)
				}
				check(t, test.node(w).Do(func() error {
					if test.via {
						return narrowRoute(e.at.Addr(), "eth0", s.node2)
					}
					return narrowRoute(e.at.Addr(), "pod", netip.Addr{})
				}))
				at := w.nodePortService(s.side, TCP, 0, e)
				if _, _, err := w.exchange("tcp", at, megabyte()); err != nil {
					t.Errorf("IPv%d: %v; counters %v", s.family, err, w.counters())
				}
				if test.via && w.counters()["too_big"] == 0 {
					t.Errorf("IPv%d: nothing was too big: %v", s.family, w.counters())
				}
			}
		})
	}
}

// narrowRoute makes a route to one address over which less than usual fits.
func narrowRoute(to netip.Addr, dev string, via netip.Addr) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	r := &netlink.Route{
		LinkIndex: l.Attrs().Index, MTU: 1300, MTULock: true,
		Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())},
	}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	return netlink.RouteAdd(r)
}

// A27: datagrams larger than the MTU, there and back.
func TestA27LargeDatagrams(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
			at := w.nodePortService(s.side, UDP, 0, e)
			if _, _, err := w.exchange("udp", at, megabyte()[:4000]); err != nil {
				t.Errorf("IPv%d, local=%v: %v; counters %v", s.family, e.local, err, w.counters())
			}
		}
	}
}

// A26: the first packet to a neighbour that nobody has asked for yet arrives.
func TestA26UnknownNeighbour(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		at := w.nodePortService(s.side, UDP, 0, &endpoint{at: port(s.remotePod, podPort)})
		for range 3 {
			check(t, w.node1.Do(func() error { return flushNeighbours() }))
			if _, _, err := w.exchange("udp", at, []byte("hello")); err != nil {
				t.Errorf("IPv%d: %v; counters %v", s.family, err, w.counters())
			}
		}
	}
}

func flushNeighbours() error {
	all, err := netlink.NeighList(0, 0)
	if err != nil {
		return err
	}
	for _, n := range all {
		if n.State&netlink.NUD_PERMANENT == 0 && n.State&netlink.NUD_NOARP == 0 {
			_ = netlink.NeighDel(&n) // it may just have gone
		}
	}
	return nil
}

// A35: what the programs do not serve works as without them.
func TestA35OtherTrafficWorks(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{RefuseUnknownPorts: true})
	for _, s := range wires {
		for _, network := range []string{"tcp", "udp"} {
			for _, to := range []netip.AddrPort{port(s.localPod, podPort)} {
				backend, seen, err := w.exchange(network, to, []byte("straight"))
				if err != nil || backend != to || seen.Addr() != s.client {
					t.Errorf("IPv%d %s to %v: answered by %v, which saw %v: %v", s.family, network, to, backend, seen, err)
				}
			}
		}
		// A closed port of the node refuses by itself.
		_, _, err := w.exchange("tcp", port(s.node, 9), nil)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("IPv%d: closed port of the node: %v", s.family, err)
		}
	}
	if n := len(w.flows()); n != 0 {
		t.Errorf("%d flows were made", n)
	}
}
