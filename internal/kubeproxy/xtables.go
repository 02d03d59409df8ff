// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// Of the kernel's structures for iptables' extensions what is not in package xt:
// where fields are, in bytes.
const (
	recentFlagsAt = 8 // struct xt_recent_mtinfo, check_set
	recentSet     = 2 // XT_RECENT_SET
	markLen       = 8 // struct xt_mark_tginfo2: mark and mask
	// XT_ADDRTYPE_INVERT_SOURCE and ..._DEST
	addrtypeInvertSrc = 1
	addrtypeInvertDst = 2

	natAddrAt = 4 // struct nf_nat_range: flags, addresses, ports
	natPortAt = 36
	natLen    = 40
)

// match runs an extension of iptables. perhaps: it throws dice.
func (m *machine) match(e *expr.Match) (matches, perhaps bool, err error) {
	switch e.Name {
	case "comment":
		return true, false, nil
	case "statistic":
		return true, true, nil
	case "tcp", "udp":
		return m.ports(e), false, nil
	case "addrtype":
		return m.addrtype(e)
	case "conntrack":
		return true, false, nil // of the first packet; kube-proxy asks for NEW only
	case "recent":
		info, ok := e.Info.(*xt.Unknown)
		if !ok || len(*info) <= recentFlagsAt {
			return false, false, fmt.Errorf("match recent of %T", e.Info)
		}
		return (*info)[recentFlagsAt]&recentSet != 0, false, nil // nobody was here before
	}
	return false, false, fmt.Errorf("match %s", e.Name)
}

func (m *machine) ports(e *expr.Match) bool {
	within := func(port uint16, r [2]uint16, invert bool) bool { return (port >= r[0] && port <= r[1]) != invert }
	src, dst := m.packet.Src.Port(), m.packet.Dst.Port()
	switch info := e.Info.(type) {
	case *xt.Tcp:
		return m.packet.Protocol == unix.IPPROTO_TCP && within(src, info.SrcPorts, info.InvFlags&xt.TcpInvSrcPorts != 0) &&
			within(dst, info.DstPorts, info.InvFlags&xt.TcpInvDestPorts != 0)
	case *xt.Udp:
		return m.packet.Protocol == unix.IPPROTO_UDP && within(src, info.SrcPorts, info.InvFlags&xt.UdpInvSrcPorts != 0) &&
			within(dst, info.DstPorts, info.InvFlags&xt.UdpInvDestPorts != 0)
	}
	return false
}

func (m *machine) addrtype(e *expr.Match) (matches, perhaps bool, err error) {
	info, ok := e.Info.(*xt.AddrTypeV1)
	if !ok {
		return false, false, fmt.Errorf("match addrtype of %T", e.Info)
	}
	is := func(types uint16, local, invert bool) bool {
		kind := uint16(xt.AddrTypeUnicast)
		if local {
			kind = uint16(xt.AddrTypeLocal)
		}
		return types == 0 || (types&kind != 0) != invert
	}
	return is(info.Source, m.packet.SrcLocal, info.Flags&addrtypeInvertSrc != 0) &&
		is(info.Dest, m.packet.DstLocal, info.Flags&addrtypeInvertDst != 0), false, nil
}

// target runs a target of iptables.
func (m *machine) target(e *expr.Target, s *state) (goesOn, decided bool, err error) {
	switch e.Name {
	case "LOG", "MASQUERADE":
		return true, false, nil
	case "REJECT":
		m.decide(Reject)
		return false, true, nil
	case "MARK":
		info, ok := e.Info.(*xt.Unknown)
		if !ok || len(*info) < markLen {
			return false, false, fmt.Errorf("target MARK of %T", e.Info)
		}
		mark, mask := binary.NativeEndian.Uint32(*info), binary.NativeEndian.Uint32((*info)[4:])
		s.mark = s.mark&^mask ^ mark
		return true, false, nil
	case "DNAT":
		to, err := dnatTo(e.Info)
		if err == nil {
			m.translate(to, *s)
		}
		return false, true, err
	}
	return false, false, fmt.Errorf("target %s", e.Name)
}

// dnatTo is the one address and port of a DNAT target, whichever revision.
func dnatTo(info xt.InfoAny) (netip.AddrPort, error) {
	of := func(ip []byte, port uint16) (netip.AddrPort, error) {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return netip.AddrPort{}, fmt.Errorf("target DNAT to %v", ip)
		}
		return netip.AddrPortFrom(addr.Unmap(), port), nil
	}
	switch info := info.(type) {
	case *xt.NatRange2:
		return of(info.MinIP, info.MinPort)
	case *xt.NatRange:
		return of(info.MinIP, info.MinPort)
	case *xt.NatIPv4MultiRangeCompat:
		if len(*info) == 1 {
			return of((*info)[0].MinIP, (*info)[0].MinPort)
		}
	case *xt.Unknown:
		if b := *info; len(b) >= natLen {
			ip := b[natAddrAt : natAddrAt+16]
			if binary.NativeEndian.Uint32(ip[4:])|binary.NativeEndian.Uint32(ip[8:])|binary.NativeEndian.Uint32(ip[12:]) == 0 {
				ip = ip[:4]
			}
			return of(ip, binary.BigEndian.Uint16(b[natPortAt:]))
		}
	}
	return netip.AddrPort{}, fmt.Errorf("target DNAT of %T", info)
}
