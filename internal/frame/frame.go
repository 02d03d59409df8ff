// SPDX-License-Identifier: Apache-2.0

// Package frame makes the first packet of a connection, and reads what became of
// one. It knows as much of packets as a dry run needs and no more.
package frame

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"

	"github.com/beeline-net/beeline/internal/model"
)

// Packet is a packet as far as it matters here.
type Packet struct {
	Source, Destination netip.AddrPort
	Protocol            model.Protocol
	// Error is set for an ICMP error: what it tells its receiver.
	Error string
}

// Link is an Ethernet header; nil for devices whose packets begin with the IP
// header.
type Link struct {
	Source, Destination [6]byte
}

const (
	etherIPv4, etherIPv6 = 0x0800, 0x86dd
	hops                 = 64
	icmpv4, icmpv6       = 1, 58
)

// Opening is the first packet of a connection: a SYN, an INIT, or an empty
// datagram. Source and destination are of one family.
func Opening(link *Link, protocol model.Protocol, source, destination netip.AddrPort) ([]byte, error) {
	const syn = 2
	return build(link, protocol, syn, source, destination)
}

// Midway is a packet in the middle of a connection: for TCP an acknowledgement,
// else the same as Opening.
func Midway(link *Link, protocol model.Protocol, source, destination netip.AddrPort) ([]byte, error) {
	const ack = 16
	return build(link, protocol, ack, source, destination)
}

func build(link *Link, protocol model.Protocol, tcpFlags byte, source, destination netip.AddrPort) ([]byte, error) {
	src, dst := source.Addr().Unmap(), destination.Addr().Unmap()
	if src.Is4() != dst.Is4() {
		return nil, fmt.Errorf("packet from %v to %v: of two address families", src, dst)
	}
	l4, err := transport(protocol, tcpFlags, source.Port(), destination.Port())
	if err != nil {
		return nil, err
	}
	seal(protocol, src, dst, l4)
	var b []byte
	if link != nil {
		b = append(append(b, link.Destination[:]...), link.Source[:]...)
		b = binary.BigEndian.AppendUint16(b, map[bool]uint16{true: etherIPv4, false: etherIPv6}[src.Is4()])
	}
	return append(append(b, header(protocol, src, dst, len(l4))...), l4...), nil
}

// transport is the header without its checksum.
func transport(protocol model.Protocol, tcpFlags byte, from, to uint16) ([]byte, error) {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from), to)
	switch protocol {
	case model.TCP:
		const dataOffset, window = 5 << 4, 64
		b := append(ports, make([]byte, 16)...)
		b[12], b[13], b[14] = dataOffset, tcpFlags, window
		return b, nil
	case model.UDP:
		return append(ports, 0, 8, 0, 0), nil
	case model.SCTP:
		const initChunk, length = 1, 20
		b := append(ports, make([]byte, 8+length)...)
		b[12], b[15] = initChunk, length
		b[16], b[20], b[25], b[27] = 1, 1, 1, 1 // tag, window, one stream each way
		return b, nil
	}
	return nil, fmt.Errorf("packet of %v: only TCP, UDP and SCTP have ports", protocol)
}

// seal writes the checksum.
func seal(protocol model.Protocol, src, dst netip.Addr, l4 []byte) {
	switch protocol {
	case model.SCTP:
		binary.LittleEndian.PutUint32(l4[8:], crc32.Checksum(l4, crc32.MakeTable(crc32.Castagnoli)))
	case model.TCP:
		binary.BigEndian.PutUint16(l4[16:], ^sum(pseudo(protocol, src, dst, len(l4)), l4))
	case model.UDP:
		c := ^sum(pseudo(protocol, src, dst, len(l4)), l4)
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(l4[6:], c)
	}
}

func header(protocol model.Protocol, src, dst netip.Addr, payload int) []byte {
	if src.Is4() {
		const versionAndLength, dontFragment, size = 0x45, 0x40, 20
		h := make([]byte, size)
		h[0], h[6], h[8], h[9] = versionAndLength, dontFragment, hops, byte(protocol)
		binary.BigEndian.PutUint16(h[2:], uint16(size+payload))
		copy(h[12:], src.AsSlice())
		copy(h[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^sum(0, h))
		return h
	}
	const version, size = 0x60, 40
	h := make([]byte, size)
	h[0], h[6], h[7] = version, byte(protocol), hops
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	copy(h[8:], src.AsSlice())
	copy(h[24:], dst.AsSlice())
	return h
}

func pseudo(protocol model.Protocol, src, dst netip.Addr, length int) uint32 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	return uint32(sum(0, b)) + uint32(protocol) + uint32(length)
}

// sum is the ones' complement sum of RFC 1071.
func sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// Read reads a packet that Opening's may have been turned into.
func Read(b []byte, linkHeader bool) (Packet, error) {
	const etherHeader = 14
	if linkHeader {
		if len(b) < etherHeader {
			return Packet{}, fmt.Errorf("packet of %d bytes: too short", len(b))
		}
		b = b[etherHeader:]
	}
	const min4, min6 = 20, 40
	switch {
	case len(b) >= min4 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		return read(model.Protocol(b[9]), netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[int(b[0]&15)*4:])
	case len(b) >= min6 && b[0]>>4 == 6:
		return read(model.Protocol(b[6]), netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[min6:])
	}
	return Packet{}, fmt.Errorf("packet of %d bytes: not IP", len(b))
}

func read(protocol model.Protocol, src, dst netip.Addr, l4 []byte) (Packet, error) {
	p := Packet{Protocol: protocol, Source: netip.AddrPortFrom(src, 0), Destination: netip.AddrPortFrom(dst, 0)}
	const least = 4
	if len(l4) < least {
		return p, fmt.Errorf("packet of %v: its transport header is cut", protocol)
	}
	if protocol == icmpv4 || protocol == icmpv6 {
		p.Error = icmp(protocol, l4[0], l4[1])
		return p, nil
	}
	p.Source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(l4))
	p.Destination = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(l4[2:]))
	return p, nil
}

func icmp(protocol model.Protocol, typ, code byte) string {
	switch [3]byte{byte(protocol), typ, code} {
	case [3]byte{icmpv4, 3, 3}, [3]byte{icmpv6, 1, 4}:
		return "port unreachable"
	case [3]byte{icmpv4, 3, 4}, [3]byte{icmpv6, 2, 0}:
		return "packet too big"
	case [3]byte{icmpv4, 11, 0}, [3]byte{icmpv6, 3, 0}:
		return "time exceeded"
	}
	return fmt.Sprintf("ICMP type %d, code %d", typ, code)
}
