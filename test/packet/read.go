// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
)

// Read is the inverse of Frame.Bytes. It fails on any wrong length or checksum.
// Checksums of fragments cannot be verified and are returned instead.
func Read(b []byte, noLink bool) (Frame, error) { return read(b, reader{Frame: Frame{NoLink: noLink}}) }

// ReadHeaders is Read without a look at the transport checksum.
func ReadHeaders(b []byte) (Frame, error) { return read(b, reader{anySum: true}) }

// ReadQuoted reads what an ICMP error quotes: an IP packet cut short. Its
// transport checksum is not verified.
func ReadQuoted(b []byte) (Frame, error) {
	return read(b, reader{Frame: Frame{NoLink: true}, cut: true})
}

func read(b []byte, r reader) (f Frame, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("packet ends early: %v", r)
		}
	}()
	if err := r.link(b); err != nil {
		return Frame{}, err
	}
	return r.Frame, nil
}

type reader struct {
	Frame
	cut    bool // the end is missing
	anySum bool // transport checksums may be wrong
}

func (r *reader) link(b []byte) error {
	if r.NoLink {
		if b[0]>>4 == 4 {
			return r.ipv4(b)
		}
		return r.ipv6(b)
	}
	copy(r.DstMAC[:], b)
	copy(r.SrcMAC[:], b[6:])
	b = b[12:]
	for {
		switch typ := binary.BigEndian.Uint16(b); typ {
		case etherVLAN:
			r.VLANs = append(r.VLANs, binary.BigEndian.Uint16(b[2:]))
			b = b[4:]
		case etherIPv4:
			return r.ipv4(b[2:])
		case etherIPv6:
			return r.ipv6(b[2:])
		default:
			return fmt.Errorf("EtherType %#x", typ)
		}
	}
}

func (r *reader) ipv4(b []byte) error {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if !r.cut && total != len(b) {
		return fmt.Errorf("IPv4 total length %d of %d bytes", total, len(b))
	}
	if s := sum(0, b[:header]); s != 0xffff {
		return fmt.Errorf("IPv4 header checksum: sum %#x", s)
	}
	frag := binary.BigEndian.Uint16(b[6:])
	r.TOS, r.TTL, r.Proto = b[1], b[8], b[9]
	r.ID = uint32(binary.BigEndian.Uint16(b[4:]))
	r.Offset = int(frag&0x1fff) * 8
	r.More, r.DontFrag = frag&0x2000 != 0, frag&0x4000 != 0
	if header > 20 {
		r.Options = slices.Clone(b[20:header])
	}
	return r.transport(b[12:16], b[16:20], b[header:])
}

func (r *reader) ipv6(b []byte) error {
	if length := 40 + int(binary.BigEndian.Uint16(b[4:])); !r.cut && length != len(b) {
		return fmt.Errorf("IPv6 length %d of %d bytes", length, len(b))
	}
	r.TOS = b[0]<<4 | b[1]>>4
	r.TTL = b[7]
	next, rest := b[6], b[40:]
	for next == 0 || next == 43 || next == 60 || next == 51 || next == 44 {
		n := (int(rest[1]) + 1) * 8
		switch next {
		case 51:
			n = (int(rest[1]) + 2) * 4
		case 44:
			n = 8
			r.Fragment6 = true
			at := binary.BigEndian.Uint16(rest[2:])
			r.Offset, r.More = int(at&^7), at&1 != 0
			r.ID = binary.BigEndian.Uint32(rest[4:])
		}
		if next != 44 {
			r.Extensions = append(r.Extensions, Extension{next, slices.Clone(rest[2:n])})
		}
		next, rest = rest[0], rest[n:]
		if r.Offset > 0 {
			break
		}
	}
	r.Proto = next
	return r.transport(b[8:24], b[24:40], rest)
}

func (r *reader) transport(src, dst, b []byte) error {
	s, _ := netip.AddrFromSlice(src)
	d, _ := netip.AddrFromSlice(dst)
	r.Src, r.Dst = netip.AddrPortFrom(s, 0), netip.AddrPortFrom(d, 0)
	if r.Offset > 0 {
		r.Payload = clone(b)
		return nil
	}
	header, at := 0, 0
	switch r.Proto {
	case TCP:
		header, at = 20, 16
	case UDP:
		header, at = 8, 6
	case SCTP:
		header = 16
	case ICMP, ICMPv6:
		header, at = 8, 2
		r.ICMPType, r.ICMPCode, r.ICMPRest = b[0], b[1], binary.BigEndian.Uint32(b[4:])
	default:
		r.Payload = clone(b)
		return nil
	}
	if r.Proto != ICMP && r.Proto != ICMPv6 {
		r.Src = netip.AddrPortFrom(s, binary.BigEndian.Uint16(b))
		r.Dst = netip.AddrPortFrom(d, binary.BigEndian.Uint16(b[2:]))
	}
	if r.cut || r.anySum {
		return nil
	}
	switch r.Proto {
	case TCP:
		r.Flags = b[13]
	case SCTP:
		r.Flags = b[12]
	}
	r.Payload = clone(b[header:])
	return r.checksum(b, at)
}

// clone keeps "no payload" nil, so that frames compare.
func clone(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return slices.Clone(b)
}

func (r *reader) checksum(b []byte, at int) error {
	if r.Proto == SCTP {
		want := binary.LittleEndian.Uint32(b[8:])
		zeroed := slices.Clone(b)
		clear(zeroed[8:12])
		if got := crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)); got != want && !r.More {
			return fmt.Errorf("SCTP CRC32c %#x, computed %#x", want, got)
		}
		return nil
	}
	c := binary.BigEndian.Uint16(b[at:])
	switch {
	case r.More:
		r.Checksum = &c
		return nil
	case c == 0 && r.Proto == UDP:
		r.NoChecksum = true
		return nil
	}
	if s := sum(r.pseudo(len(b)), b); s != 0xffff {
		return fmt.Errorf("transport checksum %#x: sum %#x", c, s)
	}
	return nil
}
