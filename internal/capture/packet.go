// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/beeline-net/beeline/internal/abi"
)

// Outcome is what a program makes of a packet.
type Outcome string

// The outcomes.
const (
	// Translated: it goes on with other addresses.
	Translated Outcome = "translated"
	// Dropped: it ends here, and nobody is told.
	Dropped Outcome = "dropped"
	// Answered: it ends here, and becomes the answer to its sender.
	Answered Outcome = "answered"
	// Left: it goes on as it came.
	Left Outcome = "left"
)

// Packet is one run of a program.
type Packet struct {
	// Nanoseconds on the kernel's monotonic clock.
	Nanoseconds uint64
	Ifindex     uint32
	// Outgoing: the device sends it; otherwise it has come in there.
	Outgoing bool
	Outcome  Outcome
	// Counted is what the program counted meanwhile, such as why it dropped it.
	Counted       []abi.Counter
	Before, After Side
}

// Ends are who a packet is from and for. Without ports, as a ping and a later
// fragment are, ports are 0.
type Ends struct {
	Src, Dst netip.AddrPort
	Protocol uint8 // IPPROTO_*
}

// Side is a packet at one end of a run.
type Side struct {
	Ends
	// Quoted is the packet that an ICMP error is about, nil otherwise.
	Quoted *Ends
	// ICMPType is that of ICMP or ICMPv6.
	ICMPType uint8
	// Length of the whole packet, of which Bytes is the beginning, from its
	// Ethernet header on; that of a device which has none is without addresses.
	// There are none After of a dropped packet, and of one that waits for the
	// address of its next hop.
	Length int
	Bytes  []byte
}

// What a program may return (linux/pkt_cls.h).
const (
	verdictNone     = -1
	verdictShot     = 2
	verdictRedirect = 7
)

// Numbers of protocols (IANA).
const (
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// rewritten is how much of a transport header may change: up to TCP's checksum.
const rewritten = 18

// newPacket reads a record and the bytes that follow it, which are those of the
// packet as it was left, and padding.
func newPacket(r *captureCaptureRecord, after []byte, snap int) Packet {
	p := Packet{
		Nanoseconds: r.TimeNs, Ifindex: r.Ifindex, Outgoing: r.Outgoing != 0,
		Before: newSide(&r.Before), After: newSide(&r.After),
	}
	for mask := r.Reasons; mask != 0; mask &= mask - 1 {
		p.Counted = append(p.Counted, abi.Counter(bits.TrailingZeros64(mask)))
	}
	p.Outcome = outcome(r)
	after = after[:min(len(after), snap, int(r.After.Len))]
	before := r.Head.Bytes[:min(int(r.Head.Stored), len(r.Head.Bytes), snap)]
	if p.Outcome != Answered {
		before = rest(before, &r.Before, after, &r.After)
	}
	p.Before.setBytes(before, r.Before.L3)
	if p.Outcome != Dropped {
		p.After.setBytes(after, r.After.L3)
	}
	return p
}

func newSide(s *captureCaptureSide) Side {
	v := Side{ICMPType: s.IcmpType, Length: int(s.Len)}
	if s.Tuple.Protocol != 0 {
		v.Ends = newEnds(&s.Tuple)
	}
	if s.QuotedL4 != 0 {
		quoted := newEnds(&s.Quoted)
		v.Quoted = &quoted
	}
	return v
}

func newEnds(t *captureFlowTuple) Ends {
	return Ends{
		Src:      netip.AddrPortFrom(abi.NetIP(abi.IP{Word: t.Src.Word}), abi.Port(t.Sport)),
		Dst:      netip.AddrPortFrom(abi.NetIP(abi.IP{Word: t.Dst.Word}), abi.Port(t.Dport)),
		Protocol: t.Protocol,
	}
}

func outcome(r *captureCaptureRecord) Outcome {
	before, after := &r.Before, &r.After
	switch {
	case r.Verdict == verdictShot:
		return Dropped
	case r.Verdict == verdictNone && before.Tuple == after.Tuple && before.Quoted == after.Quoted:
		return Left
	case r.Verdict == verdictRedirect && isICMP(after.Tuple.Protocol) &&
		(!isICMP(before.Tuple.Protocol) || before.IcmpType != after.IcmpType):
		return Answered
	}
	return Translated
}

func isICMP(protocol uint8) bool { return protocol == protocolICMP || protocol == protocolICMPv6 }

// rest completes the first bytes of a packet by those that follow in what it has
// become: programs change headers only.
func rest(head []byte, before *captureCaptureSide, now []byte, after *captureCaptureSide) []byte {
	headers := max(before.L4, before.QuotedL4)
	from := len(head) - int(before.L3) + int(after.L3)
	if len(head) < int(headers)+rewritten || len(head) >= int(before.Len) || from > len(now) {
		return head
	}
	return append(append([]byte(nil), head...), now[from:]...)
}

// ethernetHeader is how long it is.
const ethernetHeader = 14

// setBytes takes the bytes of a packet whose IP header starts at l3, and makes
// the Ethernet header whole: some devices have none, and one that a program has
// made room for is filled in by the kernel later.
func (s *Side) setBytes(b []byte, l3 uint16) {
	if len(b) == 0 || !s.Src.IsValid() {
		return
	}
	const ipv4, ipv6 = 0x0800, 0x86dd
	s.Bytes = append([]byte(nil), b...)
	if l3 == 0 {
		s.Bytes = append(make([]byte, ethernetHeader), s.Bytes...)
		s.Length += ethernetHeader
	}
	if len(s.Bytes) < ethernetHeader {
		return
	}
	if kind := s.Bytes[ethernetHeader-2 : ethernetHeader]; kind[0] == 0 && kind[1] == 0 {
		binary.BigEndian.PutUint16(kind, ipv4)
		if s.Src.Addr().Is6() {
			binary.BigEndian.PutUint16(kind, ipv6)
		}
	}
}
