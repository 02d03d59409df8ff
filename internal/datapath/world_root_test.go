// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/maps"
)

// world is a node with pods: `client` and two that serve, on one bridge, both
// families. The test process itself is in the cgroup that is served.
type world struct {
	t      *testing.T
	lab    *lab.Lab
	cgroup *lab.Cgroup
	bpffs  string
	dp     *Datapath
	client *lab.Namespace
	pods   []*pod
}

// pod answers every TCP connection and UDP datagram on port 8080 with its name.
type pod struct {
	name   string
	ns     *lab.Namespace
	v4, v6 netip.Addr
}

func (p *pod) addr(family int) netip.Addr {
	if family == 4 {
		return p.v4
	}
	return p.v6
}

const podPort = 8080

func newWorld(t *testing.T) *world {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("dp%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	w := &world{t: t, lab: l}
	w.cgroup, err = l.Cgroup("node")
	check(t, err)
	leave, err := w.cgroup.Enter()
	check(t, err)
	t.Cleanup(func() { check(t, leave()) })
	w.bpffs, err = l.BPFFS()
	check(t, err)
	w.network()
	return w
}

func (w *world) network() {
	node, err := w.lab.Namespace("node")
	check(w.t, err)
	check(w.t, node.Bridge("cni0"))
	check(w.t, node.Address("cni0", "10.244.0.1/24"))
	check(w.t, node.Address("cni0", "fd00:244::1/64"))
	for i, name := range []string{"client", "a", "b"} {
		ns, err := w.lab.Namespace(name)
		check(w.t, err)
		check(w.t, lab.Connect(node, "veth-"+name, ns, "eth0"))
		check(w.t, node.Enslave("veth-"+name, "cni0"))
		v4, v6 := fmt.Sprintf("10.244.0.%d", 10+i), fmt.Sprintf("fd00:244::%d", 10+i)
		check(w.t, ns.Address("eth0", v4+"/24"))
		check(w.t, ns.Address("eth0", v6+"/64"))
		check(w.t, ns.Route("0.0.0.0/0", "10.244.0.1"))
		check(w.t, ns.Route("::/0", "fd00:244::1"))
		if name == "client" {
			w.client = ns
			continue
		}
		p := &pod{name: name, ns: ns, v4: netip.MustParseAddr(v4), v6: netip.MustParseAddr(v6)}
		w.serve(p)
		w.pods = append(w.pods, p)
	}
}

func (w *world) serve(p *pod) {
	for _, addr := range []netip.Addr{p.v4, p.v6} {
		at := netip.AddrPortFrom(addr, podPort)
		check(w.t, p.ns.Do(func() error {
			l, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, p.name)
					_ = c.Close()
				}
			}()
			u, err := net.ListenPacket("udp", at.String())
			if err != nil {
				return err
			}
			w.t.Cleanup(func() { _ = u.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					_, from, err := u.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = u.WriteTo([]byte(p.name), from)
				}
			}()
			return nil
		}))
	}
}

func (w *world) options() Options {
	return Options{
		BPFFS:              w.bpffs,
		CgroupRoot:         w.cgroup.Path,
		RefuseUnknownPorts: true,
		TCPPeerNames:       true,
		Carrier:            &maps.Carrier{},
		Log:                slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	}
}

func (w *world) open() *Datapath {
	w.t.Helper()
	dp, err := Open(w.options())
	check(w.t, err)
	w.t.Cleanup(func() { _ = dp.Close() })
	w.dp = dp
	return dp
}

// frontend writes one Service port by hand: what reconcile does for real.
type frontend struct {
	service  uint32
	vip      netip.Addr
	port     uint16
	protocol uint8
	flags    uint32
	affinity uint32
	backends []netip.Addr
	empty    abi.EmptySet
}

func (w *world) publish(f frontend) {
	w.t.Helper()
	m := w.dp.Maps()
	first := f.service * 16
	for i, addr := range f.backends {
		index := first + uint32(i)
		put(w.t, m[abi.MapBackends], index, abi.Backend{
			Addr: abi.Addr(addr), Port: abi.Port(podPort), State: uint8(abi.BackendActive),
			Sets: 1<<abi.SetCluster | 1<<abi.SetLocal, Service: f.service, Generation: 1,
		})
		put(w.t, m[abi.MapSlots], index, abi.Slot{Backend: index})
	}
	word := abi.SetWord(first, uint32(len(f.backends)))
	if len(f.backends) == 0 {
		word = abi.EmptySetWord(f.empty)
	}
	put(w.t, m[abi.MapSets], abi.SetIndex(f.service, abi.SetCluster), word)
	put(w.t, m[abi.MapSets], abi.SetIndex(f.service, abi.SetLocal), word)
	w.filter(f.vip)
	put(w.t, m[abi.MapFrontends], abi.NewFrontendKey(f.vip, f.port, f.protocol),
		abi.Frontend{Service: f.service, Flags: f.flags, AffinitySecs: f.affinity})
}

// kill makes a backend dead, as reconcile does before it reuses the index.
func (w *world) kill(service uint32, backend int) {
	m := w.dp.Maps()[abi.MapBackends]
	index := service*16 + uint32(backend)
	var b abi.Backend
	check(w.t, m.Lookup(index, &b))
	b.Generation, b.Sets = 0, 0
	put(w.t, m, index, b)
}

func (w *world) filter(vip netip.Addr) {
	bit := abi.FilterBit(abi.Addr(vip))
	m := w.dp.Maps()[abi.MapVIPFilter]
	var word uint64
	check(w.t, m.Lookup(bit/64, &word))
	put(w.t, m, bit/64, word|1<<(bit%64))
}

func put(t *testing.T, m *ebpf.Map, key, value any) {
	t.Helper()
	check(t, m.Put(key, value))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
