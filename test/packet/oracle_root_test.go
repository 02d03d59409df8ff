// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// Random Services and random first packets: the programs do what the oracle
// says, down to whom the backend sees. Two minds, one set of rules.
func TestProgramsAgreeWithOracle(t *testing.T) {
	dice := rand.New(rand.NewPCG(10, 4))
	for _, masqueradeAll := range []bool{false, true} {
		for _, detect := range []bool{false, true} {
			t.Run(fmt.Sprintf("masqueradeAll=%v detect=%v", masqueradeAll, detect), func(t *testing.T) {
				d := newDuel(t, masqueradeAll, detect)
				for range 40 {
					d.addService(dice)
				}
				o := oracle.New(d.view)
				for range 3000 {
					d.ask(o, d.packet(dice))
				}
				t.Logf("%v", d.verdicts)
			})
		}
	}
}

// duel is a world and the oracle's view of the same.
type duel struct {
	*world
	view     oracle.View
	services []*svc // in the order of the view's
	vips     int
	port     uint16 // of the next client
	verdicts map[oracle.Verdict]int
}

func newDuel(t *testing.T, masqueradeAll, detect bool) *duel {
	d := &duel{port: 1024, verdicts: map[oracle.Verdict]int{}}
	// Room for every flow: the oracle knows of no full table.
	d.world = newWorldOf(t, 8192, datapath.PacketOptions{
		RefuseUnknownPorts: true, MasqueradeLocal: true, MasqueradeAll: masqueradeAll,
		DetectLocal4: detect, DetectLocal6: detect,
	})
	d.view.Config = plan.Config{RefuseUnknownPorts: true, MasqueradeAll: masqueradeAll}
	for _, s := range sides {
		d.view.Local = append(d.view.Local, s.node, s.podGateway)
		d.view.Node.Addresses = append(d.view.Node.Addresses, s.node)
		if detect {
			pods := netip.PrefixFrom(s.localPod, s.localPod.BitLen()-8).Masked()
			d.put(abi.MapPodRanges, abi.NewPodRangeKey(pods), uint32(1))
			d.view.Config.DetectLocal.Mode = plan.DetectClusterCIDR
			d.view.Config.DetectLocal.ClusterCIDRs = append(d.view.Config.DetectLocal.ClusterCIDRs, pods)
		}
	}
	return d
}

// addService writes a random Service port into both.
func (d *duel) addService(dice *rand.Rand) {
	s := sides[dice.IntN(2)]
	proto := []uint8{TCP, UDP, SCTP}[dice.IntN(3)]
	d.vips++
	k := &svc{proto: proto}
	p := plan.Port{ID: plan.PortID{
		Service: model.Name{Namespace: "test", Name: fmt.Sprint("s", d.vips)}, Protocol: model.Protocol(proto), Family: model.FamilyOf(s.vip),
	}}
	for i := range dice.IntN(4) {
		e := &endpoint{at: port(s.remotePod, uint16(5000+100*d.vips+i)), local: dice.IntN(2) == 0}
		if e.local {
			e.at = port([]netip.Addr{s.localPod, s.localPod, s.node}[dice.IntN(3)], e.at.Port())
		}
		k.endpoints = append(k.endpoints, e)
		p.Backends = append(p.Backends, plan.Backend{Addr: e.at, Local: e.local})
		p.Cluster.Members = append(p.Cluster.Members, i)
		if e.local {
			p.Local.Members = append(p.Local.Members, i)
		}
	}
	if len(k.endpoints) > 0 {
		k.emptyLocal, p.Local.Empty = abi.EmptyDrop, plan.Drop
	}
	internal, external := dice.IntN(3) == 0, dice.IntN(2) == 0
	any := netip.IPv4Unspecified()
	if s.family == 6 {
		any = netip.IPv6Unspecified()
	}
	vip := s.vip
	for range d.vips {
		vip = vip.Next()
	}
	for kind, at := range []netip.AddrPort{
		plan.ClusterIP: port(vip, 80), plan.NodePort: port(any, uint16(30000+d.vips)),
		plan.LoadBalancer: port(vip, 81), plan.ExternalIP: port(vip, 82),
	} {
		f := plan.Frontend{
			FrontendKey: plan.FrontendKey{Addr: at.Addr(), Port: at.Port(), Protocol: p.ID.Protocol},
			Kind:        plan.Kind(kind), InternalLocal: internal, ExternalLocal: external,
		}
		flags := []uint32{abi.FlagClusterIP, abi.FlagNodePort, abi.FlagLoadBalancer, abi.FlagExternalIP}[kind]
		if f.Kind == plan.ClusterIP {
			f.ExternalLocal = internal
		}
		if dice.IntN(4) == 0 {
			f.AffinityTimeout = 100 * time.Second
		}
		if f.Kind == plan.LoadBalancer && dice.IntN(2) == 0 {
			f.SourceRanges = []netip.Prefix{netip.PrefixFrom(s.client, s.client.BitLen()-8).Masked()}
			flags |= abi.FlagSourceRanges
		}
		if f.InternalLocal {
			flags |= abi.FlagInternalLocal
		}
		if f.ExternalLocal {
			flags |= abi.FlagExternalLocal
		}
		k.frontends, k.flags, k.affinity = []netip.AddrPort{at}, flags, uint32(f.AffinityTimeout/time.Second)
		d.world.addService(k)
		for _, r := range f.SourceRanges {
			d.put(abi.MapSourceRanges, abi.NewSourceRangeKey(k.index, r), uint32(1))
		}
		p.Frontends = append(p.Frontends, f)
	}
	d.world.addService(&svc{frontends: []netip.AddrPort{port(vip, 0)}, flags: abi.FlagAddress})
	d.services = append(d.services, k)
	d.view.Services = append(d.view.Services, plan.Service{
		Name: p.ID.Service, Ports: []plan.Port{p}, Addresses: []netip.Addr{vip},
	})
}

// packet is the first of a flow, mostly to a Service.
func (d *duel) packet(dice *rand.Rand) Frame {
	p := d.view.Services[dice.IntN(len(d.view.Services))].Ports[0]
	at := p.Frontends[dice.IntN(len(p.Frontends))].FrontendKey
	s := sides[0]
	if p.ID.Family == model.IPv6 {
		s = sides[1]
	}
	if at.Addr.IsUnspecified() {
		at.Addr = s.node
	}
	if dice.IntN(6) == 0 {
		at.Port++
	}
	proto := uint8(at.Protocol)
	if dice.IntN(8) == 0 {
		proto = UDP
	}
	d.port++
	clients := []netip.Addr{s.client, s.other, s.localPod, s.localPod.Next(), s.podGateway, s.node}
	return opening(proto, port(clients[dice.IntN(len(clients))], d.port), port(at.Addr, at.Port))
}

// ask asks both and compares.
func (d *duel) ask(o *oracle.Oracle, f Frame) {
	d.t.Helper()
	if f.Src.Addr() == f.Dst.Addr() {
		return // the node to itself: no device sees that
	}
	pinned := d.pinned(o, f)
	a := o.Ask(oracle.Packet{Protocol: model.Protocol(f.Proto), Source: f.Src.Addr(), Destination: f.Dst, Pinned: pinned})
	d.verdicts[a.Verdict]++
	r := d.in(f)
	fail := func(format string, args ...any) {
		d.t.Helper()
		d.t.Fatalf("%v -> %v, protocol %d: %s\noracle: %v %v\n%q\ncounters %v",
			f.Src, f.Dst, f.Proto, fmt.Sprintf(format, args...), a.Verdict, a.Backends, a.Steps, d.counters())
	}
	switch a.Verdict {
	case oracle.Drop:
		if r.verdict != shot {
			fail("verdict %d", r.verdict)
		}
		return
	case oracle.Pass:
		if r.verdict != pass {
			fail("verdict %d", r.verdict)
		}
		d.wantUntouched("not ours", r, d.frame(f).Bytes())
		return
	}
	got, err := Read(r.bytes, false)
	check(d.t, err)
	if a.Verdict == oracle.Reject {
		if r.verdict != redirect || got.Proto != ICMP && got.Proto != ICMPv6 {
			fail("verdict %d, became %v -> %v", r.verdict, got.Src, got.Dst)
		}
		return
	}
	i := slices.IndexFunc(a.Backends, func(b oracle.Backend) bool { return b.Addr == got.Dst })
	if i < 0 {
		fail("verdict %d, became %v -> %v", r.verdict, got.Src, got.Dst)
	}
	node := slices.Contains(d.view.Local, got.Src.Addr())
	if a.Backends[i].SourceNAT && !node || !a.Backends[i].SourceNAT && got.Src.Addr() != f.Src.Addr() {
		fail("the backend sees %v", got.Src)
	}
}

// pinned reads the affinity table for the oracle.
func (d *duel) pinned(o *oracle.Oracle, f Frame) netip.AddrPort {
	d.t.Helper()
	a := o.Ask(oracle.Packet{Protocol: model.Protocol(f.Proto), Source: f.Src.Addr(), Destination: f.Dst})
	if a.Affinity == nil {
		return netip.AddrPort{}
	}
	var frontend abi.Frontend
	key := a.Frontend.FrontendKey
	check(d.t, d.maps[abi.MapFrontends].Lookup(abi.NewFrontendKey(key.Addr, key.Port, f.Proto), &frontend))
	var pin abi.Affinity
	if d.maps[abi.MapAffinities].Lookup(abi.AffinityKey{Client: abi.Addr(f.Src.Addr()), Service: frontend.Service}, &pin) != nil {
		return netip.AddrPort{}
	}
	var b abi.Backend
	check(d.t, d.maps[abi.MapBackends].Lookup(pin.Backend, &b))
	return netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port))
}
