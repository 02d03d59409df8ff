// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// ways are the two ends a socket may come to; both must do the same.
func ways(t *testing.T, test func(t *testing.T, w *world, term *Terminator)) {
	for _, way := range []struct {
		name string
		opts Options
	}{{"bpf_sock_destroy", Options{}}, {"SOCK_DIAG", Options{Diag: true}}} {
		t.Run(way.name, func(t *testing.T) {
			if !way.opts.Diag && !hasSockDestroy(t) {
				t.Skip("this kernel has no bpf_sock_destroy (Linux 6.5)")
			}
			w := newWorld(t)
			term := w.terminator(way.opts)
			if _, diag := term.ender.(diag); diag != way.opts.Diag {
				t.Fatalf("sockets are ended by %T", term.ender)
			}
			test(t, w, term)
		})
	}
}

func hasSockDestroy(t *testing.T) bool {
	symbols, err := os.ReadFile("/proc/kallsyms")
	check(t, err)
	return bytes.Contains(symbols, []byte(" bpf_sock_destroy\n"))
}

func (w *world) end(term *Terminator, want Result) {
	w.t.Helper()
	got, err := term.UDP(context.Background())
	if err != nil || got != want {
		w.t.Errorf("pass: %+v, %v; want %+v", got, err, want)
	}
}

// wantAborted: who sends is told that the socket is connected to nobody
// (udp_sendmsg looks at no pending error), who receives or polls, why.
func wantAborted(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte("?")); !errors.Is(err, unix.EDESTADDRREQ) {
		t.Errorf("send: %v, want EDESTADDRREQ", err)
	}
	if _, err := unix.Read(fd, make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("recv: %v, want ECONNABORTED", err)
	}
}

// Pains A1: a client gets an error at once and reaches the new backend when it
// connects anew, with the same socket or another.
func TestA1ConnectedUDPLeavesARemovedBackend(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		for i, f := range families {
			s := service{name: f.name, family: f.family, vip: i, pods: []int{0}}
			w.apply(s)
			fd := w.connected(f, vip(f.family, i))
			w.wantPod(fd, 0)
			s.pods = []int{1}
			w.apply(s)
			w.wantPod(fd, 0) // as long as nobody ends it: this is the pain
			w.end(term, Result{Ended: 1})
			wantAborted(t, fd)
			check(t, unix.Connect(fd, f.dest(vip(f.family, i))))
			w.wantPod(fd, 1)
			w.end(term, Result{})
			w.wantPod(fd, 1)
		}
	})
}

// A receiver that waits is woken: an application that only listens notices too.
func TestA1WaitingReceiverIsWoken(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		f := families[0]
		s := service{name: "a", family: f.family, pods: []int{0}}
		w.apply(s)
		fd := w.connected(f, vip(f.family, 0))
		woken := make(chan error)
		go func() {
			_, err := unix.Read(fd, make([]byte, 1))
			woken <- err
		}()
		time.Sleep(50 * time.Millisecond)
		s.pods = []int{1}
		w.apply(s)
		w.end(term, Result{Ended: 1})
		select {
		case err := <-woken:
			if !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("recv: %v, want ECONNABORTED", err)
			}
		case <-time.After(time.Second):
			t.Error("recv still waits")
		}
	})
}

// The target port changes and the pods stay.
func TestA1ConnectedUDPLeavesAnOldTargetPort(t *testing.T) {
	w := newWorld(t)
	term := w.terminator(Options{})
	f := families[0]
	s := service{name: "a", family: f.family, pods: []int{0}}
	w.apply(s)
	fd := w.connected(f, vip(f.family, 0))
	p := s.plan()
	p.Ports[0].Backends[0].Addr = netip.AddrPortFrom(pod(f.family, 0).Addr(), 9090)
	w.rec.Apply(context.Background(), []plan.Service{p})
	check(t, w.rec.Drain(context.Background()))
	w.end(term, Result{Ended: 1})
	wantAborted(t, fd)
}

// Pains A2: a socket that has moved on is not touched.
func TestA2SocketThatMovedOnSurvives(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		for i, f := range families {
			a := service{name: f.name + "a", family: f.family, vip: 10 + 2*i, pods: []int{0}}
			b := service{name: f.name + "b", family: f.family, vip: 11 + 2*i, pods: []int{1}}
			// d has the pod of a, too.
			d := service{name: f.name + "d", family: f.family, vip: 20 + i, pods: []int{0}}
			w.apply(a, b, d)
			other := w.connected(f, vip(f.family, a.vip))
			check(t, unix.Connect(other, f.dest(vip(f.family, b.vip))))
			direct := w.connected(f, vip(f.family, a.vip))
			check(t, unix.Connect(direct, f.dest(pod(f.family, 0))))
			shared := w.connected(f, vip(f.family, a.vip))
			check(t, unix.Connect(shared, f.dest(vip(f.family, d.vip))))
			straight := w.connected(f, pod(f.family, 0))
			free := w.connected(f, vip(f.family, a.vip))
			check(t, disconnect(free))
			a.pods = []int{2}
			w.apply(a)
			w.end(term, Result{})
			w.wantPod(other, 1)
			w.wantPod(direct, 0)
			w.wantPod(shared, 0)
			w.wantPod(straight, 0)
			if errno, err := unix.GetsockoptInt(free, unix.SOL_SOCKET, unix.SO_ERROR); errno != 0 || err != nil {
				t.Errorf("%s: disconnected socket: %v, %v", f.name, errno, err)
			}
		}
	})
}

// A connect() that fails leaves a socket where it was, and its record is of
// where it would have gone.
func TestA2FailedConnectLeavesTheSocketWhereItWas(t *testing.T) {
	w := newWorld(t)
	term := w.terminator(Options{})
	f := families[0]
	a := service{name: "a", family: f.family, vip: 0, pods: []int{0}}
	b := service{name: "b", family: f.family, vip: 1, pods: []int{1}}
	w.apply(a, b)
	p := b.plan()
	p.Ports[0].Backends[0].Addr = netip.MustParseAddrPort("192.0.2.1:53") // no route there
	w.rec.Apply(context.Background(), []plan.Service{p})
	fd := w.connected(f, vip(f.family, 0))
	if err := unix.Connect(fd, f.dest(vip(f.family, 1))); !errors.Is(err, unix.ENETUNREACH) {
		t.Fatalf("connect: %v, want ENETUNREACH", err)
	}
	w.remove("b")
	w.end(term, Result{})
	w.wantPod(fd, 0)
	a.pods = []int{2}
	w.apply(a)
	w.end(term, Result{Ended: 1})
	wantAborted(t, fd)
}

// Pains A2: however many Services a socket talks to beside, and even if it
// sends to the same one by address, it is found.
func TestA2ConnectionIsNeverForgotten(t *testing.T) {
	w := newWorld(t)
	term := w.terminator(Options{})
	for _, f := range families {
		main := service{name: f.name, family: f.family, vip: 100, pods: []int{0}}
		w.apply(main)
		fd := w.connected(f, vip(f.family, 100))
		for round := range 3 {
			for n := range 10 {
				if round == 0 {
					w.apply(service{name: fmt.Sprint(f.name, n), family: f.family, vip: n, pods: []int{1}})
				}
				check(t, unix.Sendto(fd, []byte("?"), 0, f.dest(vip(f.family, n))))
			}
			check(t, unix.Sendto(fd, []byte("?"), 0, f.dest(vip(f.family, 100))))
		}
		main.pods = []int{2}
		w.apply(main)
		check(t, unix.Sendto(fd, []byte("?"), 0, f.dest(vip(f.family, 100))))
		w.end(term, Result{Ended: 1})
		for n := range 10 {
			w.remove(fmt.Sprint(f.name, n))
		}
		w.remove(f.name)
	}
}

// kube-proxy keeps a UDP flow as long as the endpoint serves, whatever became
// of readiness, policies and names.
func TestKubeProxyKeepsTheFlowSoTheSocketStays(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		f := families[0]
		s := service{name: "a", port: "dns", family: f.family, pods: []int{0}}
		w.apply(s)
		fd := w.connected(f, vip(f.family, 0))
		s.pods, s.draining = []int{1}, []int{0}
		w.apply(s)
		w.end(term, Result{})
		w.wantPod(fd, 0)

		// The port gets another name: for the plan, and the kernel, another port.
		s.port = "domain"
		w.apply(s)
		w.end(term, Result{Kept: 1})
		w.wantPod(fd, 0)

		// The Service goes: nobody takes the flow away, until the address has a
		// Service again that has no such endpoint.
		w.remove("a")
		w.end(term, Result{Kept: 1})
		w.wantPod(fd, 0)
		w.apply(service{name: "b", family: f.family, pods: []int{1}})
		w.end(term, Result{Ended: 1})
		wantAborted(t, fd)
	})
}

// A Service that loses its last endpoint: statsd goes on sending for ever, and
// is told; connecting anew is refused until there is one again.
func TestA1LastEndpointIsGone(t *testing.T) {
	w := newWorld(t)
	term := w.terminator(Options{})
	f := families[0]
	s := service{name: "a", family: f.family, pods: []int{0}}
	w.apply(s)
	fd := w.connected(f, vip(f.family, 0))
	s.pods = nil
	w.apply(s)
	w.end(term, Result{Ended: 1})
	wantAborted(t, fd)
	if err := unix.Connect(fd, f.dest(vip(f.family, 0))); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect: %v, want ECONNREFUSED", err)
	}
}

// What was removed while no agent ran, or before an agent that was killed could
// end the sockets, the next one finds.
func TestA1NextAgentFindsWhatWasMissed(t *testing.T) {
	ways(t, func(t *testing.T, w *world, _ *Terminator) {
		f := families[0]
		s := service{name: "a", family: f.family, pods: []int{0}}
		w.apply(s)
		before, after := w.connected(f, vip(f.family, 0)), 0
		s.pods = []int{1}
		w.apply(s) // and the agent is killed
		after = w.connected(f, vip(f.family, 0))
		w.stop()
		w.start()
		s.pods = []int{2} // this one changed while it was down
		w.apply(s)
		w.rec.Prune(context.Background())
		term := w.terminator(Options{})
		w.end(term, Result{Ended: 2})
		wantAborted(t, before)
		wantAborted(t, after)
	})
}

func TestReconcilerTellsWhenBackendsAreGone(t *testing.T) {
	w := newWorld(t)
	s := service{name: "a", family: model.IPv4, pods: []int{0, 1}}
	w.apply(s)
	if w.freed != 0 {
		t.Errorf("told of %d removals before there were any", w.freed)
	}
	s.pods = []int{1}
	w.apply(s)
	if w.freed != 1 {
		t.Errorf("told of %d removals, want 1", w.freed)
	}
	w.remove("a")
	if w.freed != 2 {
		t.Errorf("told of %d removals, want 2", w.freed)
	}
}

// Many sockets in many namespaces are ended in one pass, and it costs little
// where nothing is to be done.
func TestA1ThousandSockets(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		const spaces, each = 10, 100
		f := families[0]
		s := service{name: "a", family: f.family, pods: []int{0}}
		w.apply(s, service{name: "b", family: f.family, vip: 1, pods: []int{3}})
		var doomed, others []int
		for n := range spaces {
			ns := w.namespace(fmt.Sprintf("c%d", n), 10+n)
			for range each {
				for i, all := range []*[]int{&doomed, &others} {
					fd := w.socket(ns, f.domain, unix.SOCK_DGRAM)
					check(t, unix.Connect(fd, f.dest(vip(f.family, i))))
					*all = append(*all, fd)
				}
			}
		}
		start := time.Now()
		w.end(term, Result{})
		idle := time.Since(start)
		s.pods = []int{1}
		w.apply(s)
		start = time.Now()
		w.end(term, Result{Ended: spaces * each})
		t.Logf("2,000 sockets: nothing to end %v; %d of them in %d namespaces ended in %v", idle, spaces*each, spaces, time.Since(start))
		for _, fd := range doomed {
			wantAborted(t, fd)
		}
		for _, fd := range others {
			if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
				t.Fatalf("a socket of another Service was ended: %v %v", errno, err)
			}
		}
	})
}

// Where the namespace cannot be reached, this is said, and the rest is done.
func TestUnreachableNamespaceIsReported(t *testing.T) {
	w := newWorld(t)
	term := w.terminator(Options{Namespaces: []string{}, Proc: "/nowhere"})
	f := families[0]
	s := service{name: "a", family: f.family, pods: []int{0}}
	w.apply(s)
	fd := w.connected(f, vip(f.family, 0))
	s.pods = []int{1}
	w.apply(s)
	got, err := term.UDP(context.Background())
	if got != (Result{Missed: 1}) || err == nil {
		t.Errorf("pass: %+v, %v; want one missed, and an error", got, err)
	}
	w.wantPod(fd, 0)
}

// Of TCP, only what is asked for is ended, and only what came by a Service.
func TestTCPSocketsOfABackendCanBeEnded(t *testing.T) {
	ways(t, func(t *testing.T, w *world, term *Terminator) {
		for i, f := range families {
			s := service{name: f.name, protocol: model.TCP, family: f.family, vip: i, pods: []int{0}}
			w.apply(s)
			old, backend := w.tcp(f, vip(f.family, i)), w.backend(pod(f.family, 0))
			direct := w.tcp(f, pod(f.family, 0))
			moved := w.tcp(f, vip(f.family, i))
			check(t, disconnect(moved))
			check(t, unix.Connect(moved, f.dest(pod(f.family, 2))))
			s.pods = []int{1}
			w.apply(s)
			if got, err := term.UDP(context.Background()); got != (Result{}) || err != nil {
				t.Errorf("pass for UDP: %+v, %v", got, err)
			}
			young := w.tcp(f, vip(f.family, i))
			got, err := term.TCP(context.Background(), []Backend{backend})
			if err != nil || got.Ended != 1 {
				t.Errorf("%s: %+v, %v; want one ended", f.name, got, err)
			}
			if _, err := unix.Read(old, make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("read: %v, want ECONNABORTED", err)
			}
			for name, fd := range map[string]int{"direct": direct, "moved": moved, "new": young} {
				if _, err := unix.Write(fd, []byte("x")); err != nil {
					t.Errorf("%s connection: %v", name, err)
				}
			}
			w.remove(f.name)
		}
	})
}

func (w *world) tcp(f family, to netip.AddrPort) int {
	w.t.Helper()
	fd := w.socket(w.client, f.domain, unix.SOCK_STREAM)
	check(w.t, unix.Connect(fd, f.dest(to)))
	return fd
}

// backend is what the tables say of an address now.
func (w *world) backend(at netip.AddrPort) Backend {
	w.t.Helper()
	for i := range w.tables.Backends.Len() {
		if b := w.tables.Backends.Load(i); b.Generation != 0 && netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)) == at {
			return Backend{Index: i, Generation: b.Generation, Addr: at}
		}
	}
	w.t.Fatalf("no backend %v", at)
	return Backend{}
}

// disconnect takes a socket's peer away: connect(2) with AF_UNSPEC, which
// package unix has no address for.
func disconnect(fd int) error {
	var unspec [unix.SizeofSockaddrInet4]byte
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), uintptr(len(unspec))); errno != 0 {
		return errno
	}
	return nil
}
