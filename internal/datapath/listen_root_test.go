// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

func (w *world) tables() *maps.Tables {
	w.t.Helper()
	tables, err := maps.New(w.dp.Maps())
	check(w.t, err)
	w.t.Cleanup(func() { _ = tables.Close() })
	return tables
}

func listen(t *testing.T, tables *maps.Tables, f maps.EventFilter) *maps.Listener {
	t.Helper()
	l, err := tables.Listen(f)
	check(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// next reads an event, or returns false if none comes.
func next(t *testing.T, l *maps.Listener) (e abi.Event, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := l.Read(ctx, &e)
	if errors.Is(err, context.DeadlineExceeded) {
		return e, false
	}
	check(t, err)
	return e, true
}

func allEvents() maps.EventFilter { return maps.EventFilter{Service: abi.ServiceNone} }

func TestListenersHearOfSockets(t *testing.T) {
	w := newWorld(t)
	w.open()
	l := listen(t, w.tables(), allEvents())
	comm, err := os.ReadFile("/proc/thread-self/comm")
	check(t, err)
	for i, f := range families {
		service := uint32(i + 1)
		at := func(n int) netip.Addr { return w.pods[n].addr(f.family) }
		t.Run(f.name, func(t *testing.T) {
			want := func(what string, kind abi.EventKind, hook abi.EventHook, protocol uint8, reason string) abi.Event {
				t.Helper()
				e, ok := next(t, l)
				if !ok {
					t.Fatalf("%s: no event", what)
				}
				if abi.EventKind(e.Kind) != kind || abi.EventHook(e.Hook) != hook || e.Service != service ||
					e.Asked.Protocol != protocol || abi.NetIP(e.Asked.Dst) != f.vip {
					t.Errorf("%s: unexpected event %+v", what, e)
				}
				if reason != "" && abi.Counter(e.Reason).String() != reason {
					t.Errorf("%s: reason %v, want %s", what, abi.Counter(e.Reason), reason)
				}
				if e.Pid != uint32(os.Getpid()) || e.Netns == 0 || e.Cgroup == 0 || e.TimeNs == 0 {
					t.Errorf("%s: who called is pid %d in namespace %d, cgroup %d", what, e.Pid, e.Netns, e.Cgroup)
				}
				if got := strings.TrimRight(string(e.Comm[:]), "\x00"); got != strings.TrimSpace(string(comm)) {
					t.Errorf("%s: comm %q, want %q", what, got, comm)
				}
				return e
			}
			w.publish(frontend{service: service, vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(f.family)[:1]})
			w.publish(frontend{service: service, vip: f.vip, port: 53, protocol: unix.IPPROTO_UDP, backends: w.bothPods(f.family)[:1]})
			tcp := w.socket(f.domain, unix.SOCK_STREAM)
			check(t, unix.Connect(tcp, sockaddr(f.dest, 80)))
			e := want("connect", abi.EventSocket, abi.EventAtConnect, unix.IPPROTO_TCP, "")
			if abi.NetIP(e.To.Dst) != at(0) || abi.Port(e.To.Dport) != podPort || abi.Port(e.Asked.Dport) != 80 || e.Generation != 1 {
				t.Errorf("connect: went to %v:%d, generation %d", abi.NetIP(e.To.Dst), abi.Port(e.To.Dport), e.Generation)
			}
			udp := w.socket(f.domain, unix.SOCK_DGRAM)
			for range 3 { // the socket keeps its backend, and only the pick is news
				check(t, unix.Sendto(udp, []byte("x"), 0, sockaddr(f.dest, 53)))
			}
			want("sendto", abi.EventSocket, abi.EventAtSendmsg, unix.IPPROTO_UDP, "")
			if e, ok := next(t, l); ok {
				t.Errorf("a datagram of an old talk is no event: %+v", e)
			}
			w.publish(frontend{service: service, vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP})
			refused := w.socket(f.domain, unix.SOCK_STREAM)
			if err := unix.Connect(refused, sockaddr(f.dest, 80)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
			want("refused", abi.EventRefused, abi.EventAtConnect, unix.IPPROTO_TCP, "no_backend")
		})
	}
}

func TestListenersHearWhatTheyAskFor(t *testing.T) {
	w := newWorld(t)
	w.open()
	tables := w.tables()
	f := families[0]
	w.publish(frontend{service: 1, vip: f.vip, port: 80, protocol: unix.IPPROTO_UDP, backends: w.bothPods(4)})
	w.publish(frontend{service: 2, vip: f.vip, port: 81, protocol: unix.IPPROTO_UDP})
	two := listen(t, tables, maps.EventFilter{Service: 2})
	sockets := listen(t, tables, maps.EventFilter{Kinds: []abi.EventKind{abi.EventSocket}, Service: abi.ServiceNone})
	_ = unix.Connect(w.socket(unix.AF_INET, unix.SOCK_DGRAM), sockaddr(f.dest, 80))
	_ = unix.Connect(w.socket(unix.AF_INET, unix.SOCK_DGRAM), sockaddr(f.dest, 81))
	if e, ok := next(t, two); !ok || e.Service != 2 {
		t.Errorf("who listens to Service 2 heard %+v, %v", e, ok)
	}
	if e, ok := next(t, sockets); !ok || e.Service != 1 {
		t.Errorf("who listens to sockets that got a backend heard %+v, %v", e, ok)
	}
	for name, l := range map[string]*maps.Listener{"service 2": two, "sockets": sockets} {
		if e, ok := next(t, l); ok {
			t.Errorf("%s: one event too many: %+v", name, e)
		}
	}
}

// Whoever is killed while listening is forgotten, and there is room again.
func TestListenersThatAreGoneAreForgotten(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	tables := w.tables()
	var all []*maps.Listener
	for range abi.MaxListeners {
		all = append(all, listen(t, tables, allEvents()))
	}
	if _, err := tables.Listen(allEvents()); !errors.Is(err, maps.ErrListeners) {
		t.Errorf("one listener too many: %v", err)
	}
	check(t, all[0].Close())
	all[0] = listen(t, tables, allEvents())

	// As if 1 had been killed a minute ago.
	m := dp.Maps()[abi.MapListeners]
	var places abi.ListenerPlaces
	check(t, m.Lookup(uint32(0), &places))
	places.Owner[1], places.Listener[1].UntilNs = 1, 1
	put(t, m, uint32(0), places)
	check(t, tables.ForgetListeners())
	check(t, m.Lookup(uint32(0), &places))
	if places.Owner[1] != 0 || places.Listener[1].UntilNs != 0 || places.Owner[0] == 0 || places.Listener[0].UntilNs == 0 {
		t.Errorf("after forgetting: %+v", places)
	}
	var ring uint32
	if err := dp.Maps()[abi.MapEventRings].Lookup(uint32(1), &ring); err == nil {
		t.Error("the ring buffer of a listener that is gone is still there")
	}
	listen(t, tables, allEvents())
	var e abi.Event
	time.Sleep(1100 * time.Millisecond) // when it is time to renew
	if err := all[1].Read(t.Context(), &e); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("who lost its place reads on: %v", err)
	}
}

// What a listener is too slow for is lost and counted, to the last event, and
// nobody waits for it: every call succeeds.
func TestEventsNobodyReadsAreCounted(t *testing.T) {
	w := newWorld(t)
	w.open()
	f := families[0]
	w.publish(frontend{service: 1, vip: f.vip, port: 80, protocol: unix.IPPROTO_UDP, backends: w.bothPods(4)})
	fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	dest := sockaddr(f.dest, 80)
	const calls = 100_000
	burst := func() time.Duration {
		start := time.Now()
		for range calls {
			check(t, unix.Connect(fd, dest))
		}
		return time.Since(start)
	}
	alone := burst()
	l := listen(t, w.tables(), allEvents())
	heard := burst()
	t.Logf("%d connects: %v with nobody listening, %v (%.0f a second) with a listener that does not read",
		calls, alone, heard, calls/heard.Seconds())
	read := uint64(0)
	for l.Waiting() {
		if _, ok := next(t, l); ok {
			read++
		}
	}
	if lost := l.Lost(); read == 0 || lost == 0 || read+lost != calls {
		t.Errorf("%d events read, %d lost; %d happened", read, lost, calls)
	}
	if room := uint64(4 << 20 / (unsafe.Sizeof(abi.Event{}) + 8)); read > room || read < room*9/10 {
		t.Errorf("%d events read, the ring has room for %d", read, room)
	}
}

func TestServiceCountsOfSockets(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.ServiceCounts = true
	dp, err := Open(opts)
	check(t, err)
	t.Cleanup(func() { _ = dp.Close() })
	w.dp = dp
	tables := w.tables()
	f := families[0]
	w.publish(frontend{service: 1, vip: f.vip, port: 80, protocol: unix.IPPROTO_UDP, backends: w.bothPods(4)})
	w.publish(frontend{service: 2, vip: f.vip, port: 81, protocol: unix.IPPROTO_UDP})
	fd := w.socket(unix.AF_INET, unix.SOCK_DGRAM)
	for range 3 {
		check(t, unix.Connect(fd, sockaddr(f.dest, 80)))
		_ = unix.Connect(fd, sockaddr(f.dest, 81))
	}
	counts, err := tables.Traffic.Counts()
	check(t, err)
	if counts[1].Sockets != 3 || counts[2].Sockets != 0 || counts[1].Flows != 0 {
		t.Errorf("counted %+v and %+v", counts[1], counts[2])
	}
	refusals, err := tables.Traffic.Refusals()
	check(t, err)
	const noBackend = abi.Counter(0) // COUNTER_NO_BACKEND
	if want := (abi.ServiceRefusal{Service: 2, Reason: uint32(noBackend)}); len(refusals) != 1 || refusals[want] != 3 {
		t.Errorf("refusals %v", refusals)
	}
	check(t, tables.Traffic.Forget(map[uint32]bool{1: true, 2: true}))
	counts, err = tables.Traffic.Counts()
	check(t, err)
	refusals, err = tables.Traffic.Refusals()
	check(t, err)
	if counts[1].Sockets != 0 || len(refusals) != 0 {
		t.Errorf("after forgetting: %+v, %v", counts[1], refusals)
	}
}
