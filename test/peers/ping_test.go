// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// icmp is what differs between the two ICMPs.
type icmp struct {
	network      string
	request      byte
	reply        byte
	unreachable  byte
	port         byte // code of "port unreachable"
	quotedHeader func(quoted []byte) int
}

func icmpOf(to netip.Addr) icmp {
	if to.Is4() {
		return icmp{"ip4:icmp", 8, 0, 3, 3, func(q []byte) int { return int(q[0]&15) * 4 }}
	}
	return icmp{"ip6:ipv6-icmp", 128, 129, 1, 4, func([]byte) int { return 40 }}
}

// echo sends an ICMP echo request and tells what comes of it.
func echo(to netip.Addr) string {
	k := icmpOf(to)
	c, err := net.ListenPacket(k.network, "")
	if err != nil {
		return what(err)
	}
	defer func() { _ = c.Close() }()
	m := make([]byte, 16)
	m[0] = k.request
	_, _ = binary.Encode(m[4:], binary.BigEndian, rand.Uint64()) // identifier, sequence, data
	mark := string(m[4:12])
	binary.BigEndian.PutUint16(m[2:], checksum(m)) // IPv6's is the kernel's to fill
	if _, err := c.WriteTo(m, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return what(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(udpPatience))
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return what(err)
		}
		if says := k.read(b[:n], mark); says != "" {
			if from.String() != to.String() {
				says += " from " + from.String()
			}
			return says
		}
	}
}

// read tells what a message says about the request with this mark, if anything.
func (k icmp) read(m []byte, mark string) string {
	if len(m) >= 12 && m[0] == k.reply && string(m[4:12]) == mark {
		return "echo"
	}
	if len(m) < 8+20 || m[0] != k.unreachable {
		return ""
	}
	quoted := m[8:]
	header := k.quotedHeader(quoted)
	// Of the quoted message eight bytes are certain.
	if len(quoted) < header+8 || string(quoted[header+4:header+8]) != mark[:4] {
		return ""
	}
	if m[1] == k.port {
		return refused
	}
	return fmt.Sprintf("%s (code %d)", unreachable, m[1])
}

func checksum(m []byte) uint16 {
	var sum uint32
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
