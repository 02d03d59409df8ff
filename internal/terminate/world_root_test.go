// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
)

// family is how a client sees the world: how it names a destination, and the
// domain of its sockets.
type family struct {
	name   string
	family model.Family
	domain int
	mapped bool
}

var families = []family{
	{"IPv4", model.IPv4, unix.AF_INET, false},
	{"IPv6", model.IPv6, unix.AF_INET6, false},
	{"IPv4-mapped IPv6", model.IPv4, unix.AF_INET6, true},
}

func (f family) dest(a netip.AddrPort) unix.Sockaddr {
	if f.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Addresses of the world: pods are numbered from 0, VIPs as well.
func pod(f model.Family, n int) netip.AddrPort {
	if f == model.IPv4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, byte(100 + n)}), 8080)
	}
	return netip.MustParseAddrPort(fmt.Sprintf("[fd00:244::%d]:8080", 100+n))
}

func vip(f model.Family, n int) netip.AddrPort {
	if f == model.IPv4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, 0, byte(n)}), 53)
	}
	return netip.MustParseAddrPort(fmt.Sprintf("[fd00:96::%d]:53", n))
}

const pods = 4

// world is a node with the real programs and a real reconciler, a namespace of
// clients and one with pods that listen, UDP and TCP.
type world struct {
	t              *testing.T
	lab            *lab.Lab
	bpffs, cgroup  string
	client, server *lab.Namespace
	dp             *datapath.Datapath
	tables         *maps.Tables
	rec            *reconcile.Reconciler
	freed          int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("end%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	w := &world{t: t, lab: l}
	cgroup, err := l.Cgroup("node")
	check(t, err)
	leave, err := cgroup.Enter()
	check(t, err)
	t.Cleanup(func() { check(t, leave()) })
	w.cgroup = cgroup.Path
	w.bpffs, err = l.BPFFS()
	check(t, err)
	w.server, err = l.Namespace("server")
	check(t, err)
	check(t, w.server.Bridge("pods"))
	w.client = w.namespace("client", 1)
	w.serve()
	w.start()
	return w
}

// namespace makes one whose packets reach the pods.
func (w *world) namespace(name string, number int) *lab.Namespace {
	w.t.Helper()
	ns, err := w.lab.Namespace(name)
	check(w.t, err)
	check(w.t, lab.Connect(w.server, "veth-"+name, ns, "eth0"))
	check(w.t, w.server.Enslave("veth-"+name, "pods"))
	check(w.t, ns.Address("eth0", fmt.Sprintf("10.244.0.%d/24", number)))
	check(w.t, ns.Address("eth0", fmt.Sprintf("fd00:244::%d/64", number)))
	return ns
}

func (w *world) serve() {
	for n := range pods {
		for _, f := range model.Families {
			at := pod(f, n)
			bits := 24
			if f == model.IPv6 {
				bits = 64
			}
			check(w.t, w.server.Address("pods", netip.PrefixFrom(at.Addr(), bits).String()))
			check(w.t, w.server.Do(func() error {
				u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
				if err != nil {
					return err
				}
				w.t.Cleanup(func() { _ = u.Close() })
				go answer(u, n)
				l, err := net.Listen("tcp", at.String())
				if err != nil {
					return err
				}
				w.t.Cleanup(func() { _ = l.Close() })
				return nil // the kernel accepts for it
			}))
		}
	}
}

// answer tells the number of the pod.
func answer(u *net.UDPConn, n int) {
	buf := make([]byte, 64)
	for {
		_, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = u.WriteTo([]byte{byte(n)}, from)
	}
}

// start does what a new agent does; called again, it takes over.
func (w *world) start() {
	w.t.Helper()
	dp, err := datapath.Open(datapath.Options{
		BPFFS: w.bpffs, CgroupRoot: w.cgroup, RefuseUnknownPorts: true, TCPPeerNames: true,
		Log: slog.New(slog.DiscardHandler),
	})
	check(w.t, err)
	tables, err := maps.New(dp.Maps())
	check(w.t, err)
	rec := reconcile.New(tables, reconcile.Options{Freed: func() { w.freed++ }})
	check(w.t, rec.Restore(context.Background()))
	w.dp, w.tables, w.rec = dp, tables, rec
	w.t.Cleanup(func() { _ = dp.Close() })
}

func (w *world) stop() {
	w.rec.Close()
	check(w.t, w.tables.Close())
	check(w.t, w.dp.Close())
}

// terminator makes one, closed with the test.
func (w *world) terminator(o Options) *Terminator {
	w.t.Helper()
	o.Kernel, o.Tables = w.dp.Maps(), w.tables
	o.Log = slog.New(slog.DiscardHandler)
	term, err := New(o)
	check(w.t, err)
	w.t.Cleanup(func() { check(w.t, term.Close()) })
	return term
}

// service is one Service port with some pods behind it.
type service struct {
	name     string // of the Service
	port     string // of its port
	protocol model.Protocol
	family   model.Family
	vip      int
	pods     []int
	draining []int // pods that keep what they have
}

// apply makes it so and waits until what is gone has no generation any more.
func (w *world) apply(services ...service) {
	w.t.Helper()
	var plans []plan.Service
	for _, s := range services {
		plans = append(plans, s.plan())
	}
	w.rec.Apply(context.Background(), plans)
	if p := w.rec.Pending(); len(p) > 0 {
		w.t.Fatalf("not written: %v", p)
	}
	check(w.t, w.rec.Drain(context.Background()))
}

func (s service) plan() plan.Service {
	name := model.Name{Namespace: "default", Name: s.name}
	if s.protocol == 0 {
		s.protocol = model.UDP
	}
	at := vip(s.family, s.vip)
	p := plan.Port{
		ID:        plan.PortID{Service: name, Port: s.port, Protocol: s.protocol, Family: s.family},
		Frontends: []plan.Frontend{{FrontendKey: plan.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: s.protocol}}},
	}
	all := slices.Sorted(slices.Values(append(slices.Clone(s.pods), s.draining...)))
	for i, n := range all {
		b := plan.Backend{Addr: pod(s.family, n)}
		if slices.Contains(s.draining, n) {
			b.State = plan.Draining
		} else {
			p.Cluster.Members = append(p.Cluster.Members, i)
		}
		p.Backends = append(p.Backends, b)
	}
	return plan.Service{Name: name, Ports: []plan.Port{p}}
}

func (w *world) remove(name string) {
	w.t.Helper()
	w.rec.Apply(context.Background(), []plan.Service{{Name: model.Name{Namespace: "default", Name: name}}})
	check(w.t, w.rec.Drain(context.Background()))
}

// socket opens one in a namespace, closed with the test.
func (w *world) socket(ns *lab.Namespace, domain, typ int) (fd int) {
	w.t.Helper()
	check(w.t, ns.Do(func() (err error) {
		fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	w.t.Cleanup(func() { _ = unix.Close(fd) })
	check(w.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2}))
	return fd
}

// connected is a UDP socket of the client that is connected to an address.
func (w *world) connected(f family, to netip.AddrPort) int {
	w.t.Helper()
	fd := w.socket(w.client, f.domain, unix.SOCK_DGRAM)
	check(w.t, unix.Connect(fd, f.dest(to)))
	return fd
}

// ask sends a datagram over a connected socket and tells which pod answered.
func ask(fd int) (pod int, err error) {
	if _, err := unix.Write(fd, []byte("?")); err != nil {
		return -1, err
	}
	var buf [1]byte
	if _, err := unix.Read(fd, buf[:]); err != nil {
		return -1, err
	}
	return int(buf[0]), nil
}

func (w *world) wantPod(fd, want int) {
	w.t.Helper()
	if got, err := ask(fd); err != nil || got != want {
		w.t.Errorf("answer from pod %d, %v; want pod %d", got, err, want)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
