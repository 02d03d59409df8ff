// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
func TestA27Fragments(t *testing.T) {
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

// One that comes before its first fragment comes in again, as it is, and is then
// translated. If the first one does not come, it is dropped and counted after a
// moment where its address is a Service's; the node's own go on to the stack.
func TestA27EarlyFragments(t *testing.T) {
	for _, s := range sides {
		w := newWorld(t, datapath.PacketOptions{})
		w.shop(s)
		w.addService(&svc{frontends: []netip.AddrPort{port(s.vip, 0)}, flags: abi.FlagAddress})
		f := opening(UDP, port(s.client, 40000), port(s.vip, 80))
		f.Payload = make([]byte, 2000)
		pieces := fragments(f, 5, 1400)
		w.wantAgain("second fragment first", pieces[1])
		w.read("first", w.in(pieces[0]), pass)
		if got := w.read("second again", w.in(pieces[1]), pass); got.Dst.Addr() != s.localPod {
			t.Errorf("went to %v", got.Dst)
		}
		const moment = 20 * time.Millisecond
		orphan := fragments(f, 6, 1400)[1]
		w.wantAgain("without a first one", orphan)
		time.Sleep(moment)
		w.wantDrop("after a moment", w.in(orphan), "fragment_early")

		f.Dst = port(s.node, 2049) // NFS, say: none of ours
		own := fragments(f, 7, 1400)
		w.wantUntouched("first fragment for the node", w.in(own[0]), w.frame(own[0]).Bytes())
		w.wantUntouched("second fragment for the node", w.in(own[1]), w.frame(own[1]).Bytes())
		late := fragments(f, 8, 1400)[1]
		w.wantAgain("second first, for the node", late)
		time.Sleep(moment)
		w.wantUntouched("after a moment", w.in(late), w.frame(late).Bytes())
	}
}

// wantAgain: it is to come in once more, as it is.
func (w *world) wantAgain(what string, f Frame) {
	w.t.Helper()
	if r := w.in(f); r.verdict != redirect || !bytes.Equal(r.bytes, w.frame(f).Bytes()) {
		w.t.Fatalf("%s: verdict %d; counters %v", what, r.verdict, w.counters())
	}
}

// A27: datagrams of four kilobytes whose fragments come in reverse.
func TestA27FragmentsInReverse(t *testing.T) {
	w := newWired(t, datapath.PacketOptions{})
	for _, s := range wires {
		for _, e := range []*endpoint{{at: port(s.localPod, podPort), local: true}, {at: port(s.remotePod, podPort)}} {
			at := w.nodePortService(s.side, UDP, 0, e)
			data := megabyte()[:4000]
			if _, _, err := w.exchange("udp", at, data); err != nil { // in order; finds the neighbours
				t.Fatal(err)
			}
			// The sender may be held up between two of them for longer than
			// they are waited for.
			var err error
			for try := range uint32(10) {
				if err = w.client.Do(func() error { return exchangeReversed(port(s.client, 0), at, data, uint32(at.Port())<<4|try) }); err == nil {
					break
				}
			}
			if err != nil {
				t.Errorf("IPv%d, local=%v: %v; counters %v", s.family, e.local, err, w.counters())
			}
		}
	}
}

// exchangeReversed sends a datagram with its last fragment first, and wants it
// back.
func exchangeReversed(from, to netip.AddrPort, data []byte, id uint32) error {
	c, err := net.ListenPacket("udp", from.String())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	f := Frame{Src: netip.MustParseAddrPort(c.LocalAddr().String()), Dst: to, Proto: UDP, Payload: data}
	pieces := fragments(f, id&0xffff, 1400)
	slices.Reverse(pieces)
	if err := sendFragments("eth0", pieces, len(data)); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	b := make([]byte, 8192)
	n, source, err := c.ReadFrom(b)
	if err != nil {
		return err
	}
	if _, back, _ := bytes.Cut(b[:n], []byte("\n")); source.String() != to.String() || !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes from %v", len(back), source)
	}
	return nil
}

// sendFragments sends those of a UDP datagram of n bytes, in the order given, to
// who is at the other end of a device.
func sendFragments(dev string, all []Frame, n int) error {
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	neighbours, err := netlink.NeighList(l.Attrs().Index, 0)
	if err != nil {
		return err
	}
	var router net.HardwareAddr
	for _, n := range neighbours {
		if len(n.HardwareAddr) == 6 && !bytes.HasPrefix(n.HardwareAddr, []byte{0x33, 0x33}) {
			router = n.HardwareAddr
		}
	}
	if router == nil {
		return errors.New("no neighbour is known yet")
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	for _, f := range all {
		copy(f.DstMAC[:], router)
		copy(f.SrcMAC[:], l.Attrs().HardwareAddr)
		b := f.Bytes()
		if f.Offset == 0 { // the header tells the length of the whole
			at := 14 + 20
			if !f.Is4() {
				at = 14 + 40 + 8
			}
			binary.BigEndian.PutUint16(b[at+4:], uint16(8+n))
		}
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			return err
		}
	}
	return nil
}
