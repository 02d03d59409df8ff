// SPDX-License-Identifier: Apache-2.0

package frame

import (
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/model"
)

func TestWhatOpensReadsBack(t *testing.T) {
	for _, ends := range [][2]string{{"203.0.113.7:40000", "10.96.0.10:53"}, {"[2001:db8::7]:40000", "[fd00:96::10]:53"}} {
		from, to := netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
		for _, protocol := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
			for _, link := range []*Link{nil, {Destination: [6]byte{2}}} {
				b, err := Opening(link, protocol, from, to)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Read(b, link != nil)
				if want := (Packet{Source: from, Destination: to, Protocol: protocol}); err != nil || got != want {
					t.Errorf("read %+v, %v; want %+v", got, err, want)
				}
				ip := b
				if link != nil {
					ip = b[14:]
				}
				size := 40
				if from.Addr().Is4() {
					size = 20
					if sum(0, ip[:20]) != 0xffff {
						t.Errorf("%v: the IPv4 header's checksum is wrong", protocol)
					}
				}
				l4 := ip[size:]
				if protocol != model.SCTP && sum(pseudo(protocol, from.Addr(), to.Addr(), len(l4)), l4) != 0xffff {
					t.Errorf("%v: the transport checksum is wrong", protocol)
				}
			}
		}
	}
}

func TestOddPacketsAreErrors(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	if _, err := Opening(nil, model.TCP, v4, v6); err == nil {
		t.Error("a packet of two families was made")
	}
	if _, err := Opening(nil, model.Protocol(47), v4, v4); err == nil {
		t.Error("a packet without ports was made")
	}
	whole, err := Opening(nil, model.TCP, v4, v4)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 24 {
		if p, err := Read(whole[:n], false); err == nil {
			t.Errorf("%d bytes were read as %+v", n, p)
		}
	}
}
