// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/beeline-net/beeline/internal/abi"
)

// segment is a TCP packet with an Ethernet header, or without.
func segment(t *testing.T, src, dst string, payload []byte, link bool) []byte {
	t.Helper()
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: s.Addr().AsSlice(), DstIP: d.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(s.Port()), DstPort: layers.TCPPort(d.Port()), ACK: true}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	all := []gopacket.SerializableLayer{ip, tcp, gopacket.Payload(payload)}
	if link {
		eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
		all = append([]gopacket.SerializableLayer{eth}, all...)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func side(src, dst string, b []byte, l3 uint16) captureCaptureSide {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return captureCaptureSide{
		Tuple: captureFlowTuple{
			Src: captureIpAddr{Word: abi.Addr(s.Addr()).Word}, Dst: captureIpAddr{Word: abi.Addr(d.Addr()).Word},
			Sport: abi.Port(s.Port()), Dport: abi.Port(d.Port()), Protocol: 6,
		},
		Len: uint32(len(b)), L3: l3, L4: l3 + 20,
	}
}

// record is what a program tells of a run that turns one packet into another.
func record(before, after captureCaptureSide, head []byte, verdict int32) *captureCaptureRecord {
	r := &captureCaptureRecord{Before: before, After: after, Verdict: verdict}
	r.Head.Stored = uint32(copy(r.Head.Bytes[:], head))
	return r
}

const (
	client  = "203.0.113.7:40000"
	vip     = "10.96.0.10:80"
	backend = "10.244.1.5:8080"
)

// Only the first bytes of a packet are copied before a program changes it. The
// others are those of what it has become, wherever its headers begin now.
func TestThePayloadBeforeIsThatAfter(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789"), 100)
	for name, test := range map[string]struct{ linkBefore, linkAfter bool }{
		"Ethernet":              {true, true},
		"no header":             {false, false},
		"a header that is made": {false, true},
		"none where it ends":    {true, false},
	} {
		before, after := segment(t, client, vip, payload, test.linkBefore), segment(t, client, backend, payload, test.linkAfter)
		l3 := map[bool]uint16{true: ethernetHeader}
		r := record(side(client, vip, before, l3[test.linkBefore]), side(client, backend, after, l3[test.linkAfter]), before, verdictRedirect)
		p := newPacket(r, append(after, 0, 0, 0, 0), MaxSnap)
		for stage, s := range map[string]Side{vip: p.Before, backend: p.After} {
			read := gopacket.NewPacket(s.Bytes, layers.LayerTypeEthernet, gopacket.Default)
			tcp, ok := read.Layer(layers.LayerTypeTCP).(*layers.TCP)
			if !ok || !bytes.Equal(tcp.Payload, payload) || s.Dst.String() != stage || s.Length != len(s.Bytes) {
				t.Errorf("%s, to %s: %v, length %d: %v", name, stage, s.Ends, s.Length, read)
			}
		}
		if p.Outcome != Translated {
			t.Errorf("%s: %v", name, p.Outcome)
		}
	}
}

// A program that answers writes other bytes into the packet: they say nothing
// of how it came.
func TestNoPayloadOfAnAnswer(t *testing.T) {
	before := segment(t, client, vip, bytes.Repeat([]byte("x"), 1000), true)
	after := side(vip, client, make([]byte, 82), ethernetHeader)
	after.Tuple.Protocol, after.IcmpType = protocolICMP, 3
	p := newPacket(record(side(client, vip, before, ethernetHeader), after, before, verdictRedirect), make([]byte, 82), MaxSnap)
	if p.Outcome != Answered || len(p.Before.Bytes) != 256 || p.Before.Length != len(before) || len(p.After.Bytes) != 82 {
		t.Errorf("%v; %d of %d bytes before, %d after", p.Outcome, len(p.Before.Bytes), p.Before.Length, len(p.After.Bytes))
	}
}

func TestOutcomes(t *testing.T) {
	const reason = abi.Counter(5)
	b := segment(t, client, vip, nil, true)
	same := side(client, vip, b, ethernetHeader)
	for want, r := range map[Outcome]*captureCaptureRecord{
		Left:       record(same, same, b, verdictNone),
		Dropped:    record(same, same, b, verdictShot),
		Translated: record(same, side(client, backend, b, ethernetHeader), b, verdictNone),
	} {
		r.Reasons = 1 << reason
		p := newPacket(r, b, MaxSnap)
		if p.Outcome != want || len(p.Counted) != 1 || p.Counted[0] != reason {
			t.Errorf("%v for %v, want %v", p.Outcome, p.Counted, want)
		}
		if (len(p.After.Bytes) == 0) != (want == Dropped) {
			t.Errorf("%v: %d bytes after", want, len(p.After.Bytes))
		}
	}
}

func TestSnap(t *testing.T) {
	b := segment(t, client, vip, make([]byte, 1000), true)
	s := side(client, vip, b, ethernetHeader)
	p := newPacket(record(s, s, b, verdictNone), b[:100], 100)
	if len(p.Before.Bytes) != 100 || len(p.After.Bytes) != 100 || p.Before.Length != len(b) {
		t.Errorf("%d and %d bytes of %d", len(p.Before.Bytes), len(p.After.Bytes), p.Before.Length)
	}
}

// A file is read by the library that everybody uses, with one kind of link, or
// tcpdump would refuse it.
func TestFile(t *testing.T) {
	b := segment(t, client, vip, []byte("hello"), true)
	p := Packet{
		Before: Side{Length: len(b), Bytes: b},
		After:  Side{Length: 2000, Bytes: b[:40]},
	}
	dropped := Packet{Outgoing: true, Before: Side{Length: len(b), Bytes: b}}
	var out bytes.Buffer
	file, err := NewFile(&out, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700000000, 123456789)
	for _, p := range []*Packet{&p, &dropped} {
		if err := file.Write(p, Label{Time: now, Device: "eth0", Comment: "default/web"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Flush(); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&out, pcapgo.NgReaderOptions{ErrorOnMismatchingLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		name      string
		side      Side
		direction pcapgo.NgEpbFlag
	}{
		{"eth0 before", p.Before, pcapgo.NgEpbFlagDirectionInbound},
		{"eth0 after", p.After, pcapgo.NgEpbFlagDirectionInbound},
		{"eth0 before", dropped.Before, pcapgo.NgEpbFlagDirectionOutbound},
	} {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		iface, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		if iface.Name != want.name || !bytes.Equal(data, want.side.Bytes) || info.Length != want.side.Length || !info.Timestamp.Equal(now) ||
			strings.Join(options.Comments, "") != "default/web" || options.Flags.Direction != want.direction {
			t.Errorf("%d: %s: %+v, %+v: % x", i, iface.Name, info, options, data)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last packet: %v", err)
	}
}

// What follows a record may be shorter than it says: the kernel's padding is
// not ours, and nothing is read beyond.
func TestShortSamples(t *testing.T) {
	b := segment(t, client, vip, make([]byte, 1000), true)
	s := side(client, vip, b, ethernetHeader)
	for n := range 64 {
		newPacket(record(s, s, b[:n], verdictNone), b[:n], MaxSnap)
	}
	binary.BigEndian.PutUint16(b[12:], 0) // a header that the kernel fills in later
	p := newPacket(record(s, s, b, verdictNone), b, MaxSnap)
	if kind := binary.BigEndian.Uint16(p.After.Bytes[12:]); kind != 0x0800 {
		t.Errorf("EtherType %#x", kind)
	}
}
