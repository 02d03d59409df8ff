// SPDX-License-Identifier: Apache-2.0

// Package conntrack reads the flows that netfilter tracks in this network
// namespace, over netlink (nf_conntrack).
package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/model"
)

// Tuple is one direction of a flow, as its packets show it before netfilter has
// changed them.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Flow is one flow.
type Flow struct {
	Protocol model.Protocol
	// Request is what the client sends, Reply what comes back to it.
	Request, Reply Tuple
	// Opening: TCP whose handshake is not complete.
	Opening bool
	// Over: TCP that both sides have ended, or that was reset; its record lingers.
	Over bool
}

// Translated reports whether netfilter changes the flow's destination.
func (f Flow) Translated() bool { return f.Reply.Src != f.Request.Dst }

// SourceNAT reports whether netfilter changes the flow's source.
func (f Flow) SourceNAT() bool { return f.Reply.Dst != f.Request.Src }

// States of a TCP flow (linux/netfilter/nf_conntrack_tcp.h).
const (
	tcpSynSent  = 1
	tcpSynRecv  = 2
	tcpTimeWait = 7
	tcpClose    = 8
	tcpSynSent2 = 9
)

// dumps is how often a dump is begun that the kernel could not do in one piece.
const dumps = 5

// Translated returns the flows whose destination netfilter changes, of both
// families. A kernel without connection tracking has none.
func Translated() ([]Flow, error) {
	var all []Flow
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		records, err := dump(family)
		if err != nil {
			return nil, fmt.Errorf("list the flows of netfilter: %w", err)
		}
		for _, r := range records {
			if f, ok := flowOf(r); ok && f.Translated() {
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// dump tries again when the table changed so much meanwhile that the kernel
// calls the dump incomplete; the last one has to do then.
func dump(family netlink.InetFamily) (records []*netlink.ConntrackFlow, err error) {
	for range dumps {
		records, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	switch {
	case errors.Is(err, netlink.ErrDumpInterrupted):
		return records, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return nil, nil // no connection tracking here
	}
	return records, err
}

// flowOf leaves out what has no ports.
func flowOf(r *netlink.ConntrackFlow) (f Flow, ok bool) {
	f = Flow{Protocol: model.Protocol(r.Forward.Protocol), Request: tupleOf(r.Forward), Reply: tupleOf(r.Reverse)}
	switch f.Protocol {
	case model.TCP, model.UDP, model.SCTP:
	default:
		return Flow{}, false
	}
	if tcp, ok := r.ProtoInfo.(*netlink.ProtoInfoTCP); ok {
		switch tcp.State {
		case tcpSynSent, tcpSynRecv, tcpSynSent2:
			f.Opening = true
		case tcpTimeWait, tcpClose:
			f.Over = true
		}
	}
	return f, f.Request.Src.IsValid() && f.Reply.Src.IsValid()
}

func tupleOf(t netlink.IPTuple) Tuple {
	return Tuple{Src: addrPort(t.SrcIP, t.SrcPort), Dst: addrPort(t.DstIP, t.DstPort)}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// Forget ends netfilter's record of a flow, so that its next packet begins
// another. One that is gone is no error.
func Forget(f Flow) error {
	family := netlink.InetFamily(unix.AF_INET)
	if f.Request.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	filter := &netlink.ConntrackFilter{}
	if err := errors.Join(
		filter.AddProtocol(uint8(f.Protocol)),
		filter.AddIP(netlink.ConntrackOrigSrcIP, f.Request.Src.Addr().AsSlice()),
		filter.AddIP(netlink.ConntrackOrigDstIP, f.Request.Dst.Addr().AsSlice()),
		filter.AddPort(netlink.ConntrackOrigSrcPort, f.Request.Src.Port()),
		filter.AddPort(netlink.ConntrackOrigDstPort, f.Request.Dst.Port()),
	); err != nil {
		return fmt.Errorf("forget flow of %v: %w", f.Request.Src, err)
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter); err != nil {
		return fmt.Errorf("forget flow of %v: %w", f.Request.Src, err)
	}
	return nil
}
