// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
)

// IP protocol numbers.
const (
	TCP    = 6
	UDP    = 17
	SCTP   = 132
	ICMP   = 1
	ICMPv6 = 58
)

// TCP flags.
const (
	FIN = 1
	SYN = 2
	RST = 4
	ACK = 16
)

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherVLAN   = 0x8100
)

// Frame is a packet as its parts mean it; what is zero has its usual value.
type Frame struct {
	// NoLink: it starts with the IP header.
	NoLink bool
	// DstMAC and SrcMAC of the link header.
	DstMAC, SrcMAC [6]byte
	// VLANs are the tags inside the packet, outermost first.
	VLANs []uint16

	Src, Dst netip.AddrPort
	Proto    uint8
	// TTL, or hop limit; 0 stands for 64.
	TTL uint8
	// TOS, or traffic class.
	TOS uint8
	// Options of IPv4, a multiple of 4 bytes.
	Options []byte
	// Extensions of IPv6 before the transport header.
	Extensions []Extension
	// ID, Offset (bytes), More and Whole describe a fragment. Whole is what the
	// transport checksum of a fragment covers: the entire payload.
	ID        uint32
	Offset    int
	More      bool
	DontFrag  bool
	Fragment6 bool

	// Flags of TCP; chunk type of SCTP.
	Flags uint8
	// NoChecksum leaves UDP's checksum 0.
	NoChecksum bool
	// ICMPType, ICMPCode and ICMPRest (the second word) of ICMP.
	ICMPType, ICMPCode uint8
	ICMPRest           uint32
	// Payload follows the transport header. Of a later fragment it is all that
	// follows the IP header.
	Payload []byte
	// Checksum, if not nil, replaces the transport checksum: fragments.
	Checksum *uint16
}

// Extension is an IPv6 extension header: hop-by-hop (0), routing (43),
// destination options (60), or authentication (51).
type Extension struct {
	Type uint8
	// Data is what follows the next-header and length bytes.
	Data []byte
}

// Is4 reports the family.
func (f Frame) Is4() bool { return f.Dst.Addr().Is4() }

// Bytes builds the frame with right lengths and checksums.
func (f Frame) Bytes() []byte {
	if f.TTL == 0 {
		f.TTL = 64
	}
	body := f.Payload
	if f.Offset == 0 {
		body = f.transport()
	}
	var ip []byte
	if f.Is4() {
		ip = f.ipv4(body)
	} else {
		ip = f.ipv6(body)
	}
	return append(f.link(), ip...)
}

func (f Frame) link() []byte {
	if f.NoLink {
		return nil
	}
	b := append(slices.Clone(f.DstMAC[:]), f.SrcMAC[:]...)
	for _, tag := range f.VLANs {
		b = binary.BigEndian.AppendUint16(b, etherVLAN)
		b = binary.BigEndian.AppendUint16(b, tag)
	}
	if f.Is4() {
		return binary.BigEndian.AppendUint16(b, etherIPv4)
	}
	return binary.BigEndian.AppendUint16(b, etherIPv6)
}

func (f Frame) ipv4(body []byte) []byte {
	h := make([]byte, 20, 20+len(f.Options)+len(body))
	h = append(h, f.Options...)
	h[0] = 0x40 | uint8(len(h)/4)
	h[1] = f.TOS
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(body)))
	binary.BigEndian.PutUint16(h[4:], uint16(f.ID))
	frag := uint16(f.Offset / 8)
	if f.More {
		frag |= 0x2000
	}
	if f.DontFrag {
		frag |= 0x4000
	}
	binary.BigEndian.PutUint16(h[6:], frag)
	h[8], h[9] = f.TTL, f.Proto
	copy(h[12:], f.Src.Addr().AsSlice())
	copy(h[16:], f.Dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
	return append(h, body...)
}

func (f Frame) ipv6(body []byte) []byte {
	var ext []byte
	next := f.Proto
	if f.Fragment6 {
		h := make([]byte, 8)
		h[0] = next
		at := uint16(f.Offset)
		if f.More {
			at |= 1
		}
		binary.BigEndian.PutUint16(h[2:], at)
		binary.BigEndian.PutUint32(h[4:], f.ID)
		ext, next = h, 44
	}
	for _, e := range slices.Backward(f.Extensions) {
		h := append([]byte{next, 0}, e.Data...)
		if e.Type == 51 {
			h[1] = uint8(len(h)/4 - 2)
		} else {
			h[1] = uint8(len(h)/8 - 1)
		}
		ext, next = append(h, ext...), e.Type
	}
	h := make([]byte, 40, 40+len(ext)+len(body))
	h[0] = 0x60 | f.TOS>>4
	h[1] = f.TOS << 4
	binary.BigEndian.PutUint16(h[4:], uint16(len(ext)+len(body)))
	h[6], h[7] = next, f.TTL
	copy(h[8:], f.Src.Addr().AsSlice())
	copy(h[24:], f.Dst.Addr().AsSlice())
	return append(append(h, ext...), body...)
}

func (f Frame) transport() []byte {
	var h []byte
	at := 0
	switch f.Proto {
	case TCP:
		h, at = make([]byte, 20), 16
		binary.BigEndian.PutUint32(h[4:], 1000)
		h[12], h[13] = 5<<4, f.Flags
		binary.BigEndian.PutUint16(h[14:], 0xffff)
	case UDP:
		h, at = make([]byte, 8), 6
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(f.Payload)))
	case SCTP:
		h = make([]byte, 16)
		h[12] = f.Flags
		binary.BigEndian.PutUint16(h[14:], uint16(4+len(f.Payload)))
	case ICMP, ICMPv6:
		h, at = make([]byte, 8), 2
		h[0], h[1] = f.ICMPType, f.ICMPCode
		binary.BigEndian.PutUint32(h[4:], f.ICMPRest)
	default:
		return f.Payload
	}
	if f.Proto == TCP || f.Proto == UDP || f.Proto == SCTP {
		binary.BigEndian.PutUint16(h[0:], f.Src.Port())
		binary.BigEndian.PutUint16(h[2:], f.Dst.Port())
	}
	b := append(h, f.Payload...)
	switch {
	case f.Checksum != nil:
		binary.BigEndian.PutUint16(b[at:], *f.Checksum)
	case f.Proto == SCTP:
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	case f.NoChecksum:
	default:
		c := ^sum(f.pseudo(len(b)), b)
		if c == 0 && f.Proto == UDP {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(b[at:], c)
	}
	return b
}

// pseudo is the sum of the pseudo-header; ICMP over IPv4 has none.
func (f Frame) pseudo(length int) uint32 {
	if f.Proto == ICMP {
		return 0
	}
	s := uint32(sum(0, f.Src.Addr().AsSlice())) + uint32(sum(0, f.Dst.Addr().AsSlice()))
	return s + uint32(f.Proto) + uint32(length)>>16 + uint32(length)&0xffff
}

// sum is the one's complement sum of big-endian words.
func sum(start uint32, b []byte) uint16 {
	s := uint64(start)
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
