// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
)

// What a tc program may return.
const (
	pass     = -1 // TC_ACT_UNSPEC: next program, then the stack
	shot     = 2  // TC_ACT_SHOT
	redirect = 7  // TC_ACT_REDIRECT
)

// The world's addresses: a node with one uplink, its pods, and others.
var (
	macNode   = [6]byte{2, 0, 0, 0, 0, 1}
	macRouter = [6]byte{2, 0, 0, 0, 0, 2}
)

// side holds one family's addresses.
type side struct {
	family                     int
	client, node, vip          netip.Addr
	localPod, remotePod, other netip.Addr
	podGateway                 netip.Addr // the node's, on the device of its pods
}

var sides = []side{
	{
		family: 4, client: addr("203.0.113.7"), node: addr("192.0.2.1"), vip: addr("198.51.100.10"),
		localPod: addr("10.1.0.5"), remotePod: addr("10.2.0.6"), other: addr("192.0.2.99"),
		podGateway: addr("10.1.0.1"),
	},
	{
		family: 6, client: addr("2001:db8:7::7"), node: addr("2001:db8:1::1"), vip: addr("2001:db8:ffff::10"),
		localPod: addr("fd00:1::5"), remotePod: addr("fd00:2::6"), other: addr("2001:db8:1::99"),
		podGateway: addr("fd00:1::1"),
	},
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func port(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// world is a node's kernel state, without anything attached to a device.
type world struct {
	t       *testing.T
	ns      *lab.Namespace
	maps    map[string]*ebpf.Map
	progs   *datapath.PacketPrograms
	uplink  int // its ifindex
	service uint32
	backend uint32
	slot    uint32
}

const testFlows = 1024

func newWorld(t *testing.T, opts datapath.PacketOptions) *world {
	t.Helper()
	return newWorldOf(t, testFlows, opts)
}

// newWorldOf is newWorld with a flow table of the given size, a power of two.
func newWorldOf(t *testing.T, flows uint32, opts datapath.PacketOptions) *world {
	t.Helper()
	lab.RequireRoot(t)
	net := sharedNetwork(t)
	w := &world{
		t: t, ns: net.ns, uplink: net.uplink,
		maps: newMaps(t, flows), service: 10, backend: 100, slot: 1000,
	}
	for _, s := range sides {
		w.localAddr(s.node, abi.LocalAddrHere|abi.LocalAddrNodePort)
		w.localAddr(s.podGateway, abi.LocalAddrHere)
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(w.uplink, s.family == 6), abi.Addr(s.node))
		w.put(abi.MapEgressAddrs, abi.NewEgressKey(net.pods, s.family == 6), abi.Addr(s.podGateway))
	}
	if opts.ICMPRate == 0 { // tests run faster than anybody needs errors
		opts.ICMPRate, opts.ICMPBurst = 1000000, 1000000
	}
	w.load(opts)
	return w
}

// newMaps makes the kernel's tables with a flow table of the given size.
func newMaps(t testing.TB, flows uint32) map[string]*ebpf.Map {
	t.Helper()
	specs, err := abi.MapSpecs()
	check(t, err)
	specs[abi.MapFlows].MaxEntries = flows
	specs[abi.MapFlowIndex].MaxEntries = flows / 2
	maps := map[string]*ebpf.Map{}
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		check(t, err)
		t.Cleanup(func() { _ = m.Close() })
		maps[name] = m
	}
	return maps
}

// network is where the programs run: a namespace with an uplink, through which
// outsiders and other nodes' pods are reached by a router, and a device for the
// node's own pods. No program changes it, so all tests share one.
type network struct {
	ns           *lab.Namespace
	uplink, pods int // ifindexes
}

// shared is made by the first test that needs it and removed by TestMain.
var shared struct {
	lab *lab.Lab
	net *network
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.lab != nil {
		if err := shared.lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "remove the namespaces:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

func sharedNetwork(t *testing.T) *network {
	t.Helper()
	if shared.net == nil {
		l, err := lab.New(fmt.Sprintf("pkt%d", os.Getpid()))
		check(t, err)
		shared.lab = l
		shared.net = newNetwork(t, l)
	}
	return shared.net
}

func newNetwork(t *testing.T, l *lab.Lab) *network {
	t.Helper()
	node, err := l.Namespace("node")
	check(t, err)
	away, err := l.Namespace("away")
	check(t, err)
	n := &network{ns: node}
	for dev, index := range map[string]*int{"uplink": &n.uplink, "pods": &n.pods} {
		check(t, lab.Connect(node, dev, away, dev))
		check(t, node.Do(func() error {
			link, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			*index = link.Attrs().Index
			if dev != "uplink" {
				return nil
			}
			return netlink.LinkSetHardwareAddr(link, macNode[:])
		}))
	}
	check(t, node.Forward())
	for _, d := range []struct{ dev, cidr string }{
		{"uplink", "192.0.2.1/24"}, {"uplink", "2001:db8:1::1/64"},
		{"pods", "10.1.0.1/24"}, {"pods", "fd00:1::1/64"},
	} {
		check(t, node.Address(d.dev, d.cidr))
	}
	check(t, node.Route("0.0.0.0/0", "192.0.2.254"))
	check(t, node.Route("::/0", "2001:db8:1::fe"))
	return n
}

func (w *world) load(opts datapath.PacketOptions) {
	w.t.Helper()
	progs, err := datapath.LoadPacketPrograms(w.maps, opts)
	check(w.t, err)
	w.t.Cleanup(func() { _ = progs.Close() })
	w.progs = progs
}

func (w *world) put(name string, key, value any) {
	w.t.Helper()
	if err := w.maps[name].Put(key, value); err != nil {
		w.t.Fatalf("map %s: %v", name, err)
	}
}

// filter makes the programs look at packets to an address.
func (w *world) filter(a netip.Addr) {
	w.t.Helper()
	bit := abi.FilterBit(abi.Addr(a))
	var word uint64
	check(w.t, w.maps[abi.MapVIPFilter].Lookup(bit/64, &word))
	w.put(abi.MapVIPFilter, bit/64, word|1<<(bit%64))
}

func (w *world) localAddr(a netip.Addr, flags uint32) {
	w.filter(a)
	w.put(abi.MapLocalAddrs, abi.Addr(a), flags)
}

// endpoint is a backend of a test's Service.
type endpoint struct {
	at    netip.AddrPort
	local bool
	// index and generation are filled in by addService.
	index, generation uint32
	lost              uint16
}

// svc is a Service port to put into the kernel's tables.
type svc struct {
	proto     uint8
	frontends []netip.AddrPort
	flags     uint32
	affinity  uint32
	endpoints []*endpoint
	// emptyLocal is what the local set says while it is empty.
	emptyLocal abi.EmptySet
	index      uint32
}

// addService writes a Service's tables, bottom up.
func (w *world) addService(s *svc) {
	w.t.Helper()
	if s.index == 0 {
		w.service++
		s.index = w.service
	}
	var all, local []uint32
	for _, e := range s.endpoints {
		if e.index == 0 {
			w.backend++
			e.index, e.generation = w.backend, 7000+w.backend
		}
		w.putBackend(s.index, e)
		all = append(all, e.index)
		if e.local {
			local = append(local, e.index)
		}
	}
	w.putSet(abi.SetIndex(s.index, abi.SetCluster), all, abi.EmptyReject)
	w.putSet(abi.SetIndex(s.index, abi.SetLocal), local, s.emptyLocal)
	for _, at := range s.frontends {
		if !at.Addr().IsUnspecified() {
			w.filter(at.Addr())
		}
		proto := s.proto
		if s.flags&abi.FlagAddress != 0 {
			proto = 0
		}
		w.put(abi.MapFrontends, abi.NewFrontendKey(at.Addr(), at.Port(), proto),
			abi.Frontend{Service: s.index, Flags: s.flags, AffinitySecs: s.affinity})
	}
}

func (w *world) putBackend(service uint32, e *endpoint) {
	w.t.Helper()
	b := abi.Backend{
		Addr: abi.Addr(e.at.Addr()), Port: abi.Port(e.at.Port()), State: uint8(abi.BackendActive),
		Sets: 1 << abi.SetCluster, Service: service, Generation: e.generation, Lost: e.lost,
	}
	if e.local {
		b.Local = 1
		b.Sets |= 1 << abi.SetLocal
	}
	w.put(abi.MapBackends, e.index, b)
}

// removeBackend does what the agent does when an endpoint is gone.
func (w *world) removeBackend(e *endpoint) {
	w.t.Helper()
	w.put(abi.MapBackends, e.index, abi.Backend{})
}

func (w *world) putSet(set uint32, members []uint32, empty abi.EmptySet) {
	w.t.Helper()
	if len(members) == 0 {
		w.put(abi.MapSets, set, abi.EmptySetWord(empty))
		return
	}
	base := w.slot
	for _, m := range members {
		w.put(abi.MapSlots, w.slot, abi.Slot{Backend: m})
		w.slot++
	}
	w.put(abi.MapSets, set, abi.SetWord(base, uint32(len(members))))
}

// skb is the part of struct __sk_buff that a test may set.
type skb struct {
	_              [36]byte
	IngressIfindex uint32
	Ifindex        uint32
	_              [120]byte
	GSOSegs        uint32
	_              [8]byte
	GSOSize        uint32
	_              [12]byte
}

// result is what became of a packet.
type result struct {
	verdict int
	bytes   []byte
}

// run sends bytes through a program as if they had come to (or were about to
// leave by) the uplink. forwarded says that the node did not make the packet
// itself, which only the egress side asks.
func (w *world) run(prog *ebpf.Program, b []byte, forwarded bool) result {
	w.t.Helper()
	ctx := skb{Ifindex: uint32(w.uplink)}
	if forwarded {
		ctx.IngressIfindex = uint32(w.uplink)
	}
	return w.runAs(prog, b, ctx)
}

// runAs is run with what else the kernel knows of a packet.
func (w *world) runAs(prog *ebpf.Program, b []byte, ctx skb) result {
	w.t.Helper()
	var r result
	check(w.t, w.ns.Do(func() error {
		opts := ebpf.RunOptions{Data: b, DataOut: make([]byte, len(b)+256), Context: ctx, Repeat: 1}
		verdict, err := prog.Run(&opts)
		r = result{int(int32(verdict)), opts.DataOut}
		return err
	}))
	return r
}

// in runs a frame through the ingress program; out through the egress program,
// as a forwarded one; sent through the egress program as the node's own.
func (w *world) in(f Frame) result { return w.run(w.progs.Ingress, w.frame(f).Bytes(), false) }

func (w *world) out(f Frame) result { return w.run(w.progs.Egress, w.frame(f).Bytes(), true) }

func (w *world) sent(f Frame) result { return w.run(w.progs.Egress, w.frame(f).Bytes(), false) }

func (w *world) frame(f Frame) Frame {
	f.DstMAC, f.SrcMAC = macNode, macRouter
	return f
}

// want checks verdict and packet; the link header is looked at only where it
// must have changed.
func (w *world) want(what string, r result, verdict int, want Frame) Frame {
	w.t.Helper()
	got := w.read(what, r, verdict)
	got.DstMAC, got.SrcMAC = want.DstMAC, want.SrcMAC
	if diff := cmp.Diff(describe(want), describe(got)); diff != "" {
		w.t.Fatalf("%s: -want +got\n%s", what, diff)
	}
	return got
}

func (w *world) read(what string, r result, verdict int) Frame {
	w.t.Helper()
	if r.verdict != verdict {
		w.t.Fatalf("%s: verdict %d, want %d; counters %v", what, r.verdict, verdict, w.counters())
	}
	f, err := Read(r.bytes, false)
	if err != nil {
		w.t.Fatalf("%s: %v\n% x", what, err, r.bytes)
	}
	return f
}

// wantDrop checks that a packet was dropped for a reason.
func (w *world) wantDrop(what string, r result, reason string) {
	w.t.Helper()
	if r.verdict != shot {
		w.t.Fatalf("%s: verdict %d, want drop", what, r.verdict)
	}
	if n := w.counters()[reason]; n == 0 {
		w.t.Fatalf("%s: dropped, but not as %s: %v", what, reason, w.counters())
	}
}

// wantUntouched checks that a packet went on as it was.
func (w *world) wantUntouched(what string, r result, b []byte) {
	w.t.Helper()
	if r.verdict != pass || !cmp.Equal(r.bytes, b) {
		w.t.Fatalf("%s: verdict %d, changed %v; want it untouched; counters %v",
			what, r.verdict, !cmp.Equal(r.bytes, b), w.counters())
	}
}

// counters returns those that are not zero.
func (w *world) counters() map[string]uint64 {
	w.t.Helper()
	all := map[string]uint64{}
	for i := range abi.Counters {
		var perCPU []uint64
		check(w.t, w.maps[abi.MapCounters].Lookup(uint32(i), &perCPU))
		for _, n := range perCPU {
			if n != 0 {
				all[abi.Counter(i).String()] += n
			}
		}
	}
	return all
}

// flows returns the records in use.
func (w *world) flows() (used []abi.Flow) {
	w.t.Helper()
	for i := range w.maps[abi.MapFlows].MaxEntries() {
		var f abi.Flow
		check(w.t, w.maps[abi.MapFlows].Lookup(i, &f))
		if f.Flags&abi.FlowUsed != 0 {
			used = append(used, f)
		}
	}
	return used
}

// hints counts the index entries in use.
func (w *world) hints() (n int) {
	w.t.Helper()
	for i := range w.maps[abi.MapFlowIndex].MaxEntries() {
		var line abi.FlowLine
		check(w.t, w.maps[abi.MapFlowIndex].Lookup(i, &line))
		for _, h := range line.Hint {
			if h != 0 {
				n++
			}
		}
	}
	return n
}

// updateFlows changes every flow in use, to age it for example.
func (w *world) updateFlows(change func(*abi.Flow)) {
	w.t.Helper()
	for i := range w.maps[abi.MapFlows].MaxEntries() {
		var f abi.Flow
		check(w.t, w.maps[abi.MapFlows].Lookup(i, &f))
		if f.Flags&abi.FlowUsed != 0 {
			change(&f)
			w.put(abi.MapFlows, i, f)
		}
	}
}

// describe makes frames comparable: netip's types hide their fields.
func describe(f Frame) map[string]any {
	if f.TTL == 0 {
		f.TTL = 64
	}
	m := map[string]any{
		"src": f.Src.String(), "dst": f.Dst.String(), "proto": f.Proto, "ttl": f.TTL, "tos": f.TOS,
		"vlans": f.VLANs, "options": f.Options, "extensions": f.Extensions, "flags": f.Flags,
		"fragment": fmt.Sprint(f.ID, f.Offset, f.More, f.DontFrag, f.Fragment6),
		"icmp":     fmt.Sprint(f.ICMPType, f.ICMPCode, f.ICMPRest),
		"no sum":   f.NoChecksum, "payload": f.Payload,
	}
	return m
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
