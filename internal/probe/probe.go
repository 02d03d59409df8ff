// SPDX-License-Identifier: Apache-2.0

// Package probe asks the live kernel what an explanation needs: tables, hooks,
// routes, and the packet program's own answer from a dry run. Nothing that it
// does leaves a trace.
package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/frame"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/source/link"
)

// Kernel is an open view of the kernel.
type Kernel struct {
	pins    datapath.Pins
	maps    map[string]*ebpf.Map
	tables  *maps.Tables
	live    *inspect.Live
	network model.Network
	devices []datapath.DeviceProgram
}

// Open reads what does not depend on the question. It returns fs.ErrNotExist if
// Beeline has never run here.
func Open(pins datapath.Pins) (_ *Kernel, err error) {
	k := &Kernel{pins: pins}
	defer func() {
		if err != nil {
			_ = k.Close()
		}
	}()
	if k.maps, err = datapath.OpenMaps(pins); err != nil {
		return nil, err
	}
	if k.tables, err = maps.NewReadOnly(k.maps); err != nil {
		return nil, err
	}
	if k.live, err = inspect.Plans(k.tables); err != nil {
		return nil, err
	}
	if k.network, err = link.Look(); err != nil {
		return nil, err
	}
	if k.devices, err = datapath.DevicePrograms(pins); err != nil {
		return nil, err
	}
	return k, nil
}

// Close ends the view.
func (k *Kernel) Close() error {
	var err error
	if k.tables != nil {
		err = k.tables.Close()
	}
	datapath.CloseMaps(k.maps)
	return err
}

// Services are the plans in the kernel.
func (k *Kernel) Services() []plan.Service { return k.live.Services }

// Addresses are the node's own.
func (k *Kernel) Addresses() []netip.Addr { return k.network.Addresses() }

// Source is the address that the node itself has for a target.
func (k *Kernel) Source(target netip.Addr) (netip.Addr, error) {
	w, err := link.WayTo(target)
	if err == nil && w.Source.IsValid() {
		return w.Source, nil
	}
	for _, a := range k.network.Addresses() {
		if model.FamilyOf(a) == model.FamilyOf(target) && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("the node has no %v address to send from", model.FamilyOf(target))
}

// Client is a client as far as this node can tell.
type Client struct {
	explain.Client
	// Port is where its packets come from; 0: any.
	Port uint16
	// Device is where they come in; empty: where the routes say.
	Device string
	// Netns is the client's network namespace, as a path; empty: found by its
	// address.
	Netns string
	// PacketsOnly: its sockets are not to be asked.
	PacketsOnly bool
}

// Ask fills in what the kernel knows about a question.
func (k *Kernel) Ask(protocol model.Protocol, target netip.AddrPort, c *Client) (explain.Kernel, error) {
	ns, here := k.place(c)
	if c.PacketsOnly {
		c.ElsewhereSockets = true
	}
	out := explain.Kernel{Sockets: k.sockets(ns, here)}
	packet, settings, dev := k.packetPath(target, c)
	out.Packet = packet
	var err error
	if out.View, err = k.view(settings); err != nil {
		return out, err
	}
	if err := k.affinity(&out, protocol, target, c, ns.Cookie, here); err != nil {
		return out, err
	}
	if out.Packet.Off == "" {
		k.run(&out, protocol, target, c, dev)
	}
	return out, nil
}

// place finds out where the client is, unless it is known: on this node if one of
// its network namespaces has the address.
func (k *Kernel) place(c *Client) (ns link.Namespace, here bool) {
	switch {
	case slices.Contains(k.network.Addresses(), c.Addr) || c.Addr.IsLoopback():
		c.Scope = oracle.Node
		cookie, err := link.OwnCookie()
		return link.Namespace{Cookie: cookie}, err == nil
	case c.Scope == oracle.External:
		c.ElsewhereSockets = true
		return ns, false
	}
	if ns, here = link.NamespaceOf(c.Addr, c.Netns); here {
		c.Scope = oracle.Pod
		return ns, true
	}
	switch {
	case c.Scope != oracle.Unknown:
	case k.podHere(c.Addr):
		c.Scope = oracle.Pod
	default:
		c.ElsewhereSockets = true
	}
	return ns, false
}

// podHere guesses whether an address is a pod's of this node where namespaces may
// not be looked at, as in the agent's own container: no router is in between, and
// it is in a range of pods, or, where those are not known, not on the way out.
func (k *Kernel) podHere(addr netip.Addr) bool {
	w, err := link.WayTo(addr)
	if err != nil || w.Gateway {
		return false
	}
	ranges, err := k.live.PodRanges()
	if err == nil && len(ranges) > 0 {
		return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	// Of the ranges for documentation (RFC 5737, RFC 3849): nobody's.
	out := netip.MustParseAddr("203.0.113.1")
	if addr.Is6() {
		out = netip.MustParseAddr("2001:db8::1")
	}
	def, err := link.WayTo(out)
	return err == nil && def.Ifindex != w.Ifindex
}

// sockets tells whether the hooks serve a client, whose network namespace is
// known if it was found here.
func (k *Kernel) sockets(ns link.Namespace, here bool) (s explain.Sockets) {
	if _, err := datapath.Attachments(k.pins); err != nil {
		s.Broken = firstLine(err)
		return s
	}
	settings, err := datapath.SocketSettings(k.pins)
	if err != nil {
		s.Unsure = err.Error()
		return s
	}
	only := settings["config_node_only"] != 0
	switch {
	case settings["config_refuse_new"] != 0:
		s.Broken = "the node is being handed back: new connections are left to the other proxy"
	case only && here && ns.Cookie != settings["config_node_netns"]:
		s.LeftAlone = "only the host's own sockets are balanced on this node (datapath.socketBalancing)"
	case only && !here:
		s.Unsure = "only the host's own sockets are balanced here, and where the client's is was not found"
	case settings["config_opt_out"] != 0:
		k.optedOut(&s, ns)
	}
	return s
}

func firstLine(err error) string {
	text := err.Error()
	for i := range text {
		if text[i] == '\n' {
			return text[:i]
		}
	}
	return text
}

// packetPath finds the program that sees the client's packets first.
func (k *Kernel) packetPath(target netip.AddrPort, c *Client) (p explain.Packet, o datapath.PacketOptions, dev datapath.DeviceProgram) {
	off := func(format string, args ...any) (explain.Packet, datapath.PacketOptions, datapath.DeviceProgram) {
		return explain.Packet{Off: fmt.Sprintf(format, args...)}, o, dev
	}
	if len(k.devices) == 0 || k.tables.Packet == nil {
		return off("it is switched off on this node")
	}
	p.Direction = "ingress"
	towards := c.Addr
	if c.Scope == oracle.Node {
		p.Direction, towards = "egress", target.Addr()
	}
	index, err := k.device(c.Device, towards, target.Addr())
	if err != nil {
		return off("%v", err)
	}
	i := slices.IndexFunc(k.devices, func(d datapath.DeviceProgram) bool { return d.Direction == p.Direction && k.same(d.Ifindex, index) })
	if i < 0 {
		return off("no program is on %s of device %s, where the client's packets pass", p.Direction, k.name(index))
	}
	dev = k.devices[i]
	p.Device = k.name(dev.Ifindex)
	if o, err = dev.Settings(); err != nil {
		p.NotRun = err.Error()
	}
	p.ClosedClusterIPs, p.MasqueradeLocal, p.ServiceRanges = o.CloseClusterIPs, o.MasqueradeLocal, o.ServiceRanges
	if o.PodDevice {
		p.Scope = oracle.Pod
	}
	return p, o, dev
}

// device is where packets from an address come in: by that name, or where the
// routes lead back, or, without a route, where the target is.
func (k *Kernel) device(name string, from, target netip.Addr) (int, error) {
	if name == "" {
		w, err := link.WayTo(from)
		for _, d := range k.network.Devices {
			if err != nil && slices.Contains(d.Addresses, target) {
				return d.Index, nil
			}
		}
		return w.Ifindex, err
	}
	for _, d := range k.network.Devices {
		if d.Name == name {
			return d.Index, nil
		}
	}
	return 0, fmt.Errorf("there is no device %s", name)
}

// same reports whether a program's device is the one that the routes name, or a
// port of it.
func (k *Kernel) same(program, route int) bool {
	if program == route {
		return true
	}
	for _, d := range k.network.Devices {
		if d.Index == program {
			return d.Master == route
		}
	}
	return false
}

func (k *Kernel) name(ifindex int) string {
	for _, d := range k.network.Devices {
		if d.Index == ifindex {
			return d.Name
		}
	}
	return fmt.Sprintf("%d", ifindex)
}

// view is what the oracle has to know, all of it read from the kernel.
func (k *Kernel) view(o datapath.PacketOptions) (oracle.View, error) {
	v := oracle.View{Services: k.live.Services, Local: k.network.Addresses()}
	local, nodePorts, err := k.live.NodeAddresses()
	if err != nil {
		return v, err
	}
	if len(local) > 0 {
		v.Local = local
	}
	v.Node.Addresses = v.Local
	v.Config.MasqueradeAll = o.MasqueradeAll
	for _, a := range nodePorts {
		v.Config.NodePortAddresses.Ranges = append(v.Config.NodePortAddresses.Ranges, netip.PrefixFrom(a, a.BitLen()))
		v.Config.NodePortAddresses.IPv4Loopback = v.Config.NodePortAddresses.IPv4Loopback || a.IsLoopback()
	}
	// A family without any serves none; without ranges it would serve all.
	for _, none := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		v.Config.NodePortAddresses.Ranges = append(v.Config.NodePortAddresses.Ranges, netip.PrefixFrom(none, none.BitLen()))
	}
	ranges, err := k.live.PodRanges()
	if err != nil {
		return v, err
	}
	switch {
	case len(ranges) > 0:
		v.Config.DetectLocal = plan.DetectLocal{Mode: plan.DetectClusterCIDR, ClusterCIDRs: ranges}
	case o.DetectLocal4 || o.DetectLocal6: // by device: which, the device's program knows
		v.Config.DetectLocal.Mode = plan.DetectBridgeInterface
	}
	return v, nil
}

// affinity looks up whom session affinity holds for the client, at the socket and at
// the packet.
func (k *Kernel) affinity(out *explain.Kernel, protocol model.Protocol, target netip.AddrPort, c *Client, cookie uint64, here bool) error {
	o := oracle.New(out.View)
	a := o.Ask(oracle.Packet{Protocol: protocol, Source: c.Addr, Destination: target, Scope: c.Scope})
	if a.Frontend == nil {
		return nil
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	now := uint64(ts.Nano())
	var err error
	if out.Packet.Pinned, err = k.live.Pinned(a.Port, abi.Addr(c.Addr), a.Frontend.AffinityTimeout, now); err != nil {
		return err
	}
	out.Sockets.PinUnknown = !here
	if here {
		out.Sockets.Pinned, err = k.live.Pinned(a.Port, inspect.ByNamespace(cookie), a.Frontend.AffinityTimeout, now)
	}
	return err
}

// anyPort is what clients are asked with that say none: out of the range of
// NodePorts and SNAT.
const anyPort = 45678

// run asks the program.
func (k *Kernel) run(out *explain.Kernel, protocol model.Protocol, target netip.AddrPort, c *Client, dev datapath.DeviceProgram) {
	if out.Packet.NotRun != "" {
		return
	}
	r, err := k.dryRun(protocol, target, c, dev)
	if err != nil {
		out.Packet.NotRun = err.Error()
		return
	}
	out.Packet.Run = r
}

func (k *Kernel) dryRun(protocol model.Protocol, target netip.AddrPort, c *Client, dev datapath.DeviceProgram) (_ *explain.Run, err error) {
	settings, err := dev.Settings()
	if err != nil {
		return nil, err
	}
	port := c.Port
	if port == 0 {
		port = anyPort
	}
	var header *frame.Link
	if !settings.NoLinkHeader {
		i, err := net.InterfaceByIndex(dev.Ifindex)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", dev.Ifindex, err)
		}
		header = &frame.Link{Source: [6]byte{2}}
		copy(header.Destination[:], i.HardwareAddr) // else the packet is not for this node
	}
	d, err := datapath.DryRunOf(k.maps, dev)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	sent := frame.Packet{Source: netip.AddrPortFrom(c.Addr, port), Destination: target, Protocol: protocol}
	var r *explain.Run
	if c.Port != 0 { // it may be a connection's that there is
		if r, err = k.runOne(d, dev, header, frame.Midway, sent); err != nil {
			return nil, err
		}
	}
	if r == nil || !r.Established {
		if r, err = k.runOne(d, dev, header, frame.Opening, sent); err != nil {
			return nil, err
		}
	}
	if r.Verdict == oracle.Pass && settings.Handover.RefuseNew {
		r.Note = "the node is being handed back: new flows are left to the other proxy"
		r.Reasons = append(r.Reasons, "handed_back")
	}
	r.Program, r.Tag = "beeline_"+dev.Direction, d.Tags[dev.Direction]
	r.OtherThanLive = r.Tag != dev.Tag
	return r, nil
}

// builder makes a packet.
type builder func(*frame.Link, model.Protocol, netip.AddrPort, netip.AddrPort) ([]byte, error)

func (k *Kernel) runOne(d *datapath.DryRun, dev datapath.DeviceProgram, header *frame.Link, build builder, sent frame.Packet) (*explain.Run, error) {
	packet, err := build(header, sent.Protocol, sent.Source, sent.Destination)
	if err != nil {
		return nil, err
	}
	result, err := d.Run(dev.Direction, dev.Ifindex, packet)
	if err != nil {
		return nil, err
	}
	got, err := frame.Read(result.Packet, header != nil)
	if err != nil {
		return nil, fmt.Errorf("dry run: what the packet became: %w", err)
	}
	return k.read(result, sent, got), nil
}

// read turns what the program returned into what it means.
func (k *Kernel) read(result datapath.DryResult, sent, got frame.Packet) *explain.Run {
	r := &explain.Run{}
	for _, c := range result.Counters {
		r.Reasons = append(r.Reasons, c.String())
	}
	stage := abi.TraceStage(result.Trace.Stage)
	switch {
	case result.Verdict == datapath.DryDrop:
		r.Verdict = oracle.Drop
	case got.Error == "port unreachable":
		r.Verdict, r.Note = oracle.Reject, "answered with ICMP "+got.Error
	case got.Error != "":
		r.Verdict, r.Note = oracle.Drop, "answered with ICMP "+got.Error
	case got != sent || result.Verdict == datapath.DryRedirect:
		r.Verdict, r.Backend, r.Source = oracle.Translate, got.Destination, got.Source
		r.Established = stage == abi.TraceNothing
	default:
		r.Verdict = oracle.Pass
		r.Note = map[abi.TraceStage]string{
			abi.TraceNothing:    "its address is in no table",
			abi.TraceNoFrontend: "no frontend has its destination",
			abi.TraceOddSource:  "its source is no address of a single sender",
			abi.TraceMidFlow:    "it opens no connection, and there is no flow",
		}[stage]
	}
	if stage >= abi.TraceRefused {
		r.Scope = map[abi.Scope]oracle.Scope{
			abi.ScopeExternal: oracle.External, abi.ScopePod: oracle.Pod, abi.ScopeNode: oracle.Node,
		}[abi.Scope(result.Trace.Scope)]
	}
	if stage == abi.TraceChosen {
		r.Backend = k.live.Backend(result.Trace.Backend)
	}
	return r
}
