// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/beeline-net/beeline/internal/abi"
)

// PacketOptions are the settings of the programs of one kind of device. The
// zero value of a field leaves the default of bpf/lib/packet_config.h, unless
// said otherwise.
type PacketOptions struct {
	// NoLinkHeader: packets start with the IP header (tunnels, WireGuard).
	NoLinkHeader bool
	// PodDevice: whatever comes in was sent by a pod.
	PodDevice bool
	// LeaveTagged: packets with a VLAN tag are another device's to see.
	LeaveTagged bool

	// RefuseUnknownPorts: a VIP's unknown port is refused, not passed on.
	RefuseUnknownPorts bool
	// DetectLocal4 and DetectLocal6: pods can be told from others, so that a
	// ClusterIP masquerades the others.
	DetectLocal4, DetectLocal6 bool
	// MasqueradeAll: every ClusterIP translates the source.
	MasqueradeAll bool
	// MasqueradeLocal: so does an external frontend for backends of this node.
	MasqueradeLocal bool
	// CloseClusterIPs: clients outside the cluster may not use ClusterIPs.
	CloseClusterIPs bool
	// RedirectLocal: packets to backends of this node skip the stack.
	RedirectLocal bool
	// LeaveUnknown: packets in the middle of connections that are not in the
	// flow table are left to the stack. Every Handover implies it.
	LeaveUnknown bool
	// CutByLoopback: the loopback device takes packets from the node's own
	// addresses (net.ipv4.conf.lo.accept_local), so what is too big for its way
	// and may be cut can go to the stack that way.
	CutByLoopback bool
	// EchoReply: a VIP with a backend answers pings.
	EchoReply bool
	// Clsact: attach by tc filters although the kernel has tcx.
	Clsact bool
	// Handover is that of the Datapath.
	Handover Handover

	// ServiceRanges are where ClusterIPs are taken from: connections to an
	// address there that no Service has are dropped. At most eight.
	ServiceRanges []netip.Prefix
	// ServiceCounts: what each Service has had is counted.
	ServiceCounts bool

	// SNATPorts are the first and last port of source NAT.
	SNATPorts [2]uint16
	// ICMPRate is how many ICMP messages a CPU may send in a second, ICMPBurst
	// how many at once.
	ICMPRate, ICMPBurst uint32
	// FlowSeed makes the flow hash unpredictable. Flows are found only with the
	// seed they were made with: keep it as long as the maps.
	FlowSeed uint64
	// Timeouts of silent flows, in whole seconds.
	Timeouts map[abi.FlowTimeout]time.Duration
}

// PacketPrograms are the two programs of a device.
type PacketPrograms struct {
	Ingress, Egress *ebpf.Program
}

// Close gives them up; attached, they go on.
func (p *PacketPrograms) Close() error {
	return errors.Join(p.Ingress.Close(), p.Egress.Close())
}

// LoadPacketPrograms loads the packet path's programs against open maps, named
// as in package abi. The flow table must have a power of two entries, at least
// four, its index half as many.
func LoadPacketPrograms(maps map[string]*ebpf.Map, opts PacketOptions) (*PacketPrograms, error) {
	return LoadEditedPacketPrograms(maps, opts, func(*ebpf.CollectionSpec) error { return nil })
}

// LoadEditedPacketPrograms is LoadPacketPrograms for who measures the programs:
// edit gets them last, with their settings.
func LoadEditedPacketPrograms(maps map[string]*ebpf.Map, opts PacketOptions, edit func(*ebpf.CollectionSpec) error) (*PacketPrograms, error) {
	spec, err := loadTc()
	if err != nil {
		return nil, fmt.Errorf("read packet programs: %w", err)
	}
	for name, s := range spec.Maps {
		if m := maps[name]; m != nil {
			s.MaxEntries = m.MaxEntries()
		}
	}
	if err := opts.apply(spec, maps); err != nil {
		return nil, fmt.Errorf("settings of the packet programs: %w", err)
	}
	if err := edit(spec); err != nil {
		return nil, fmt.Errorf("edit the packet programs: %w", err)
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: used(spec, maps)})
	if err != nil {
		return nil, fmt.Errorf("load packet programs: %w", explain(err))
	}
	defer coll.Close()
	return &PacketPrograms{
		Ingress: coll.DetachProgram(tcProgBeelineIngress),
		Egress:  coll.DetachProgram(tcProgBeelineEgress),
	}, nil
}

// used are those of the maps that the programs know.
func used(spec *ebpf.CollectionSpec, all map[string]*ebpf.Map) map[string]*ebpf.Map {
	some := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if m := all[name]; m != nil {
			some[name] = m
		}
	}
	return some
}

// apply writes the settings into the programs' constants.
func (o PacketOptions) apply(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) error {
	var v tcVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return err
	}
	mask, err := flowMask(maps)
	if err != nil {
		return err
	}
	return errors.Join(
		v.ConfigFlowMask.Set(mask),
		v.ConfigNoLinkHeader.Set(flag(o.NoLinkHeader)),
		v.ConfigPodDevice.Set(flag(o.PodDevice)),
		v.ConfigLeaveTagged.Set(flag(o.LeaveTagged)),
		v.ConfigRefuseUnknownPorts.Set(flag(o.RefuseUnknownPorts)),
		v.ConfigDetectLocal4.Set(flag(o.DetectLocal4)),
		v.ConfigDetectLocal6.Set(flag(o.DetectLocal6)),
		v.ConfigMasqueradeAll.Set(flag(o.MasqueradeAll)),
		v.ConfigMasqueradeLocal.Set(flag(o.MasqueradeLocal)),
		v.ConfigClusterIpOutside.Set(flag(!o.CloseClusterIPs)),
		v.ConfigRedirectLocal.Set(flag(o.RedirectLocal)),
		v.ConfigLeaveUnknown.Set(flag(o.LeaveUnknown || o.Handover != Handover{})),
		v.ConfigCutByLoopback.Set(flag(o.CutByLoopback)),
		v.ConfigConntrack.Set(flag(asksConntrack())),
		v.ConfigEchoReply.Set(flag(o.EchoReply)),
		v.ConfigKeepFlows.Set(flag(o.Handover.KeepFlows)),
		v.ConfigRefuseNew.Set(flag(o.Handover.RefuseNew)),
		o.applyServiceRanges(&v),
		v.ConfigServiceCounts.Set(flag(o.ServiceCounts)),
		setUnlessZero(v.ConfigSnatPortMin, o.SNATPorts[0]),
		setUnlessZero(v.ConfigSnatPortMax, o.SNATPorts[1]),
		setUnlessZero(v.ConfigIcmpRate, o.ICMPRate),
		setUnlessZero(v.ConfigIcmpBurst, o.ICMPBurst),
		setUnlessZero(v.ConfigFlowSeed, o.FlowSeed),
		o.applyTimeouts(v.ConfigFlowTimeoutSecs),
	)
}

// asksConntrack reports whether programs may ask the kernel's connection
// tracking, which may be a module that is not there yet.
func asksConntrack() bool {
	const function, module = "bpf_skb_ct_lookup", "nf_conntrack"
	has := func(spec *btf.Spec, err error) bool {
		var f *btf.Func
		return err == nil && spec.TypeByName(function, &f) == nil
	}
	return has(btf.LoadKernelSpec()) || has(btf.LoadKernelModuleSpec(module))
}

// serviceRanges is how many ranges the programs have room for.
const serviceRanges = 8

func (o PacketOptions) applyServiceRanges(v *tcVariableSpecs) error {
	if len(o.ServiceRanges) > serviceRanges {
		return fmt.Errorf("%d Service ranges: there is room for %d", len(o.ServiceRanges), serviceRanges)
	}
	var base, mask [serviceRanges]abi.IP
	for i, p := range o.ServiceRanges {
		bits := p.Bits() + 128 - p.Addr().BitLen()
		var m [16]byte
		for b := range bits {
			m[b/8] |= 0x80 >> (b % 8)
		}
		base[i], mask[i] = abi.Addr(p.Masked().Addr()), abi.Addr(netip.AddrFrom16(m))
	}
	return errors.Join(
		v.ConfigServiceRangeBase.Set(base),
		v.ConfigServiceRangeMask.Set(mask),
		v.ConfigServiceRangeCount.Set(uint32(len(o.ServiceRanges))),
	)
}

func setUnlessZero[T comparable](v *ebpf.VariableSpec, value T) error {
	var zero T
	if value == zero {
		return nil
	}
	return v.Set(value)
}

func (o PacketOptions) applyTimeouts(v *ebpf.VariableSpec) error {
	var secs [abi.Timeouts]uint32
	if err := v.Get(&secs); err != nil {
		return err
	}
	for which, d := range o.Timeouts {
		secs[which] = uint32(d / time.Second)
	}
	return v.Set(secs)
}

// flowMask is the size of the flow table minus 1.
func flowMask(maps map[string]*ebpf.Map) (uint32, error) {
	flows, index := maps[abi.MapFlows], maps[abi.MapFlowIndex]
	if flows == nil || index == nil {
		return 0, errors.New("there is no flow table among the maps")
	}
	n := flows.MaxEntries()
	if n < 4 || bits.OnesCount32(n) != 1 || index.MaxEntries() != n/2 {
		return 0, fmt.Errorf("flow table of %d entries with %d lines of index: needs a power of two, 4 at least, and half as many lines",
			n, index.MaxEntries())
	}
	return n - 1, nil
}
