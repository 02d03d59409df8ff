// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
)

// world is three namespaces in a row: client, node, server. Sockets for both
// ends are opened by the one measuring thread.
type world struct {
	lab      *lab.Lab
	client   *lab.Namespace
	direct   *lab.Cgroup // nothing attached
	tcp, udp int         // the server's sockets
	closers  []func() error
}

var (
	clientAddr = netip.MustParseAddr("10.244.1.2")
	podAddr    = netip.MustParseAddr("10.244.2.2")
	vipAddr    = netip.MustParseAddr("10.96.100.1")
)

const (
	podPort     = 8080
	servicePort = 80
)

func newWorld() (*world, error) {
	l, err := lab.New(fmt.Sprintf("bench%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	w := &world{lab: l}
	if err := w.build(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func (w *world) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	return errors.Join(append(errs, w.lab.Close())...)
}

func (w *world) build() (err error) {
	if w.direct, err = w.lab.Cgroup("direct"); err != nil {
		return err
	}
	leave, err := w.direct.Enter()
	if err != nil {
		return err
	}
	w.closers = append(w.closers, leave)
	var node, server *lab.Namespace
	for _, ns := range []struct {
		name string
		to   **lab.Namespace
	}{{"client", &w.client}, {"node", &node}, {"server", &server}} {
		if *ns.to, err = w.lab.Namespace(ns.name); err != nil {
			return err
		}
	}
	err = errors.Join(
		lab.Connect(node, "to-client", w.client, "eth0"),
		lab.Connect(node, "to-server", server, "eth0"),
		node.Address("to-client", "10.244.1.1/24"), w.client.Address("eth0", clientAddr.String()+"/24"),
		node.Address("to-server", "10.244.2.1/24"), server.Address("eth0", podAddr.String()+"/24"),
		w.client.Route("0.0.0.0/0", "10.244.1.1"), server.Route("0.0.0.0/0", "10.244.2.1"),
		node.Forward())
	if err != nil {
		return err
	}
	return server.Do(w.listen)
}

func (w *world) listen() (err error) {
	at := &unix.SockaddrInet4{Addr: podAddr.As4(), Port: podPort}
	if w.tcp, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
		return err
	}
	if w.udp, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
		return err
	}
	return errors.Join(unix.Bind(w.tcp, at), unix.Listen(w.tcp, 128), unix.Bind(w.udp, at))
}

// served makes a cgroup with Beeline on it and `services` Services, of which
// the one that is measured is one.
func (w *world) served(name string, services int, peerNames bool) (*lab.Cgroup, error) {
	cg, err := w.lab.Cgroup(name)
	if err != nil {
		return nil, err
	}
	bpffs, err := w.lab.BPFFS()
	if err != nil {
		return nil, err
	}
	dp, err := datapath.Open(datapath.Options{
		BPFFS:              bpffs,
		CgroupRoot:         cg.Path,
		RefuseUnknownPorts: true,
		TCPPeerNames:       peerNames,
		Log:                slog.Default(),
	})
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, dp.Close)
	return cg, fill(dp, services)
}

// fill writes the measured Service and others around it, one backend each.
func fill(dp *datapath.Datapath, services int) error {
	m := dp.Maps()
	var bits = map[uint32]uint64{}
	for i := range uint32(services) {
		vip := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})
		if int(i) == services/2 {
			vip = vipAddr
		}
		backend := abi.Backend{Addr: abi.Addr(podAddr), Port: abi.Port(podPort), State: uint8(abi.BackendActive),
			Sets: 1 << abi.SetCluster, Service: i, Generation: 1}
		bit := abi.FilterBit(abi.Addr(vip))
		bits[bit/64] |= 1 << (bit % 64)
		err := errors.Join(
			m[abi.MapBackends].Put(i, backend),
			m[abi.MapSlots].Put(i, abi.Slot{Backend: i}),
			m[abi.MapSets].Put(abi.SetIndex(i, abi.SetCluster), abi.SetWord(i, 1)),
			m[abi.MapVIPFilter].Put(bit/64, bits[bit/64]),
			m[abi.MapFrontends].Put(abi.NewFrontendKey(vip, servicePort, unix.IPPROTO_TCP), abi.Frontend{Service: i, Flags: abi.FlagClusterIP}),
			m[abi.MapFrontends].Put(abi.NewFrontendKey(vip, servicePort, unix.IPPROTO_UDP), abi.Frontend{Service: i, Flags: abi.FlagClusterIP}))
		if err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// scenarios lists what is measured.
func (w *world) scenarios() ([]*scenario, error) {
	pod := &unix.SockaddrInet4{Addr: podAddr.As4(), Port: podPort}
	vip := &unix.SockaddrInet4{Addr: vipAddr.As4(), Port: servicePort}
	var all []*scenario
	connect := w.scenario("TCP connect", "straight to the pod", w.direct, w.connect(pod))
	udp := w.scenario("UDP round trip, unconnected", "straight to the pod", w.direct, w.roundTrip(pod))
	all = append(all, connect, udp)
	add := func(base *scenario, name string, cg *lab.Cgroup, op func() (time.Duration, error), gated bool) {
		s := w.scenario(base.operation, name, cg, op)
		s.base, s.gated = base, gated
		all = append(all, s)
	}
	for _, n := range []int{1, 1000, 10000} {
		cg, err := w.served(fmt.Sprintf("services-%d", n), n, true)
		if err != nil {
			return nil, err
		}
		add(connect, fmt.Sprintf("ClusterIP, Services: %d", n), cg, w.connect(vip), true)
		add(udp, fmt.Sprintf("ClusterIP, Services: %d", n), cg, w.roundTrip(vip), false)
		if n == 10000 {
			add(connect, "hooks on, no Service", cg, w.connect(pod), false)
			add(udp, "hooks on, no Service", cg, w.roundTrip(pod), false)
		}
	}
	cg, err := w.served("no-peer-names", 1, false)
	if err != nil {
		return nil, err
	}
	add(connect, "ClusterIP, Services: 1, TCP peer names off", cg, w.connect(vip), false)
	return all, nil
}

func (w *world) scenario(operation, name string, cg *lab.Cgroup, op func() (time.Duration, error)) *scenario {
	s := &scenario{operation: operation, name: name, op: op}
	s.base = s
	s.enter = func() error {
		if _, err := cg.Enter(); err != nil {
			return err
		}
		return w.client.EnterThread()
	}
	return s
}

// connect times connect() alone; the handshake runs inline on this thread.
// Both ends are closed with a reset, so that no TIME_WAIT piles up.
func (w *world) connect(to *unix.SockaddrInet4) func() (time.Duration, error) {
	reset := unix.Linger{Onoff: 1}
	return func() (time.Duration, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if err := unix.Connect(fd, to); err != nil {
			return 0, err
		}
		took := time.Since(start)
		peer, _, err := unix.Accept(w.tcp)
		if err != nil {
			return 0, err
		}
		return took, errors.Join(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &reset),
			unix.Close(fd), unix.Close(peer))
	}
}

// roundTrip times a datagram there and back on a socket that lives on.
func (w *world) roundTrip(to *unix.SockaddrInet4) func() (time.Duration, error) {
	fd := -1
	buf := make([]byte, 64)
	msg := []byte("x")
	return func() (_ time.Duration, err error) {
		if fd < 0 {
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
				return 0, err
			}
		}
		start := time.Now()
		if err := unix.Sendto(fd, msg, 0, to); err != nil {
			return 0, err
		}
		_, from, err := unix.Recvfrom(w.udp, buf, 0)
		if err != nil {
			return 0, err
		}
		if err := unix.Sendto(w.udp, msg, 0, from); err != nil {
			return 0, err
		}
		if _, _, err = unix.Recvfrom(fd, buf, 0); err != nil {
			return 0, err
		}
		return time.Since(start), nil
	}
}
