// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// boundUDP opens a UDP socket on a port of the client's.
func (w *world) boundUDP(domain, port int) int {
	w.t.Helper()
	fd := w.socket(domain, unix.SOCK_DGRAM)
	check(w.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
	any := netip.IPv4Unspecified()
	if domain == unix.AF_INET6 {
		any = netip.IPv6Unspecified()
	}
	check(w.t, unix.Bind(fd, sockaddr(any, port)))
	return fd
}

// asks sends a datagram to a Service and reports whether a backend answers.
// Nobody but the hooks translates here.
func asks(t *testing.T, fd int, to unix.Sockaddr) bool {
	t.Helper()
	if err := unix.Sendto(fd, []byte("who"), 0, to); err != nil {
		return false // no way to the Service's address
	}
	buf := make([]byte, 64)
	_, _, err := unix.Recvfrom(fd, buf, 0)
	return err == nil
}

func TestDatagramsOfKeptFlowsAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.open()
	check(t, w.dp.SetHandover(Handover{KeepFlows: true}))
	for i, f := range families {
		t.Run(f.name, func(t *testing.T) {
			w.publish(frontend{service: uint32(i), vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)})
			kept, other := w.boundUDP(f.domain, 5000+i), w.boundUDP(f.domain, 6000+i)
			key := abi.NewFlowTuple(unix.IPPROTO_UDP, netip.AddrPortFrom(netip.Addr{}, uint16(5000+i)), netip.AddrPortFrom(f.vip, 53))
			put(t, w.dp.Maps()[abi.MapKeptFlows], key, uint32(1))
			if asks(t, kept, sockaddr(f.dest, 53)) {
				t.Error("a datagram of a flow that netfilter has was translated")
			}
			if !asks(t, other, sockaddr(f.dest, 53)) {
				t.Error("a new flow was not translated")
			}
			check(t, w.dp.Maps()[abi.MapKeptFlows].Delete(&key))
			if !asks(t, kept, sockaddr(f.dest, 53)) {
				t.Error("once netfilter has forgotten the flow, it was not translated")
			}
		})
	}
}

func TestSocketsInARollback(t *testing.T) {
	w := newWorld(t)
	w.open()
	for i, f := range families {
		t.Run(f.name, func(t *testing.T) {
			check(t, w.dp.SetHandover(Handover{}))
			w.publish(frontend{service: uint32(2 * i), vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)})
			w.publish(frontend{service: uint32(2*i + 1), vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(f.family)})
			old := w.boundUDP(f.domain, 5000+i)
			if !asks(t, old, sockaddr(f.dest, 53)) {
				t.Fatal("no answer before the rollback")
			}
			before := w.handedBack()
			check(t, w.dp.SetHandover(Handover{RefuseNew: true}))
			if !asks(t, old, sockaddr(f.dest, 53)) {
				t.Error("an old flow ended with the rollback")
			}
			if w.handedBack() == before {
				t.Error("nothing tells that an old flow is in use")
			}
			if asks(t, w.boundUDP(f.domain, 6000+i), sockaddr(f.dest, 53)) {
				t.Error("a new flow was translated")
			}
			tcp := w.socket(f.domain, unix.SOCK_STREAM)
			check(t, unix.SetsockoptTimeval(tcp, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 200_000}))
			if err := unix.Connect(tcp, sockaddr(f.dest, 80)); err == nil {
				t.Error("a new connection was translated")
			}
		})
	}
}

func (w *world) handedBack() (sum uint64) {
	w.t.Helper()
	var perCPU []uint64
	check(w.t, w.dp.Maps()[abi.MapCounters].Lookup(uint32(abi.CounterHandedBack), &perCPU))
	for _, n := range perCPU {
		sum += n
	}
	return sum
}

// Notes last as long as the tables do.
func TestNotesOutliveTheAgent(t *testing.T) {
	w := newWorld(t)
	pins := NewPins(w.bpffs)
	if text, err := pins.ReadNote(NoteWish); err != nil || len(text) != 0 {
		t.Errorf("before any agent: %q, %v", text, err)
	}
	dp := w.open()
	check(t, pins.WriteNote(NoteWish, []byte("something")))
	check(t, dp.Close())
	w.open()
	for note, want := range map[Note]string{NoteWish: "something", NoteState: ""} {
		if text, err := pins.ReadNote(note); err != nil || string(text) != want {
			t.Errorf("note %d: %q, %v", note, text, err)
		}
	}
	if err := pins.WriteNote(NoteWish, make([]byte, noteSize)); err == nil {
		t.Error("a note that is too long was taken")
	}
}
