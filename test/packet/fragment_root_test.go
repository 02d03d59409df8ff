// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// fragments cuts a datagram into pieces of at most n bytes of payload, a
// multiple of 8.
func fragments(f Frame, id uint32, n int) (all []Frame) {
	whole := f
	whole.NoLink = true
	body := whole.Bytes()
	if f.Is4() {
		body = body[20:]
	} else {
		body = body[40:]
	}
	c := binary.BigEndian.Uint16(body[6:])
	for at := 0; at < len(body); at += n {
		piece := f
		piece.Fragment6, piece.ID, piece.Offset = !f.Is4(), id, at
		end := min(at+n, len(body))
		piece.More = end < len(body)
		piece.Payload = body[at:end]
		if at == 0 {
			piece.Checksum, piece.Payload = &c, body[8:end]
		}
		all = append(all, piece)
	}
	return all
}

// assemble puts translated pieces together again and verifies the datagram.
func assemble(t *testing.T, pieces []Frame) Frame {
	t.Helper()
	var body []byte
	for i, p := range pieces {
		if p.Offset == 0 {
			h := make([]byte, 8)
			binary.BigEndian.PutUint16(h, p.Src.Port())
			binary.BigEndian.PutUint16(h[2:], p.Dst.Port())
			binary.BigEndian.PutUint16(h[6:], *p.Checksum)
			body = append(h, p.Payload...)
			continue
		}
		if p.Offset != len(body) {
			t.Fatalf("piece %d is at %d, %d bytes came before", i, p.Offset, len(body))
		}
		body = append(body, p.Payload...)
	}
	binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
	f := pieces[0]
	if s := sum(f.pseudo(len(body)), body); s != 0xffff {
		t.Fatalf("checksum of the whole: sum %#x", s)
	}
	f.Payload = body[8:]
	return f
}

// A27: every fragment goes where the first one went, there and back.
func TestFragments(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.addService(&svc{
			proto: UDP, frontends: []netip.AddrPort{port(s.vip, 80)}, flags: abi.FlagLoadBalancer,
			endpoints: []*endpoint{{at: port(s.localPod, 1), local: true}, {at: port(s.localPod.Next(), 2), local: true}},
		})
		for i := range uint16(8) {
			f := opening(UDP, port(s.client, 40000+i), port(s.vip, 80))
			f.Payload = bytes.Repeat([]byte("large datagram. "), 250)
			var pieces []Frame
			for _, piece := range fragments(f, 77+uint32(i), 1400) {
				pieces = append(pieces, w.read("fragment", w.in(piece), pass))
			}
			if len(pieces) != 3 {
				t.Fatalf("%d pieces", len(pieces))
			}
			for _, p := range pieces[1:] {
				if p.Dst.Addr() != pieces[0].Dst.Addr() || p.Src.Addr() != pieces[0].Src.Addr() {
					t.Fatalf("first to %v, later to %v", pieces[0].Dst, p.Dst)
				}
			}
			seen := assemble(t, pieces)
			if !bytes.Equal(seen.Payload, f.Payload) {
				t.Fatal("the payload changed")
			}

			reply := answer(seen)
			reply.Payload = bytes.Repeat([]byte("and its answer. "), 200)
			pieces = nil
			for _, piece := range fragments(reply, 99+uint32(i), 1400) {
				pieces = append(pieces, w.read("fragment of the reply", w.out(piece), pass))
			}
			for _, p := range pieces {
				if p.Src.Addr() != s.vip || p.Dst.Addr() != s.client {
					t.Fatalf("fragment of the reply became %v -> %v", p.Src, p.Dst)
				}
			}
			if got := assemble(t, pieces); got.Src != f.Dst || got.Dst != f.Src {
				t.Fatalf("reply became %v -> %v", got.Src, got.Dst)
			}
		}
	}
}

// One that comes before its first fragment cannot be translated. It is dropped
// and counted if its address is a Service's; the node's own go on to the stack.
func TestEarlyFragments(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		w.addService(&svc{frontends: []netip.AddrPort{port(s.vip, 0)}, flags: abi.FlagAddress})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		f.Payload = make([]byte, 2000)
		pieces := fragments(f, 5, 1400)
		w.wantDrop("second fragment first", w.in(pieces[1]), "fragment_early")
		w.read("first", w.in(pieces[0]), pass)
		if got := w.read("second again", w.in(pieces[1]), pass); got.Dst.Addr() != s.localPod {
			t.Errorf("went to %v", got.Dst)
		}
		f.Dst = port(s.node, 2049)
		own := fragments(f, 6, 1400)[1]
		w.wantUntouched("a fragment for the node", w.in(own), w.frame(own).Bytes())
	}
}
