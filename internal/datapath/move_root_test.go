// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// small are sizes that the tests' content fits in, and that differ from the
// defaults.
func small() map[string]uint32 {
	return map[string]uint32{
		abi.MapFrontends: 64, abi.MapServices: 64, abi.MapSets: 64 * abi.SetKinds, abi.MapSlots: 512,
		abi.MapBackends: 1024, abi.MapPeers: 4096, abi.MapAffinities: 128,
	}
}

// large are other such sizes.
func large() map[string]uint32 {
	all := small()
	for name := range all {
		all[name] *= 3
	}
	return all
}

// client connects all the time and asks for its peer's name, which is in a
// record of the connection. Some connections stay open.
type client struct {
	w            *world
	stop         chan struct{}
	done         sync.WaitGroup
	made, failed int
	nameless     int
	open         []int
}

func (w *world) load() *client {
	c := &client{w: w, stop: make(chan struct{})}
	c.done.Go(func() {
		for {
			select {
			case <-c.stop:
				return
			default:
				c.connect()
			}
		}
	})
	return c
}

func (c *client) connect() {
	f := families[0]
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.failed++
		return
	}
	if c.made++; unix.Connect(fd, sockaddr(f.dest, 80)) != nil {
		c.failed++
	}
	if c.made%100 == 0 && len(c.open) < 100 {
		c.open = append(c.open, fd)
		return
	}
	_ = unix.Close(fd)
}

// named tells whether the socket's peer is the Service.
func named(fd int) bool {
	sa, err := unix.Getpeername(fd)
	in, ok := sa.(*unix.SockaddrInet4)
	return err == nil && ok && in.Port == 80
}

// finish ends it, and looks at the connections that are still open.
func (c *client) finish() {
	c.w.t.Helper()
	close(c.stop)
	c.done.Wait()
	for _, fd := range c.open {
		if !named(fd) {
			c.nameless++
		}
		_ = unix.Close(fd)
	}
	if c.failed > 0 || c.nameless > 0 || c.made == 0 || len(c.open) == 0 {
		c.w.t.Errorf("%d of %d connections failed, %d of %d open ones have lost their record", c.failed, c.made, c.nameless, len(c.open))
	}
	c.w.t.Logf("%d connections, %d kept open", c.made, len(c.open))
}

func (w *world) sized(sizes map[string]uint32) *Datapath {
	w.t.Helper()
	opts := w.options()
	opts.MapSizes = sizes
	dp, err := Open(opts)
	check(w.t, err)
	w.dp = dp
	return dp
}

// Sizes change with the next agent, and nothing that lives is lost: connections
// go on being made, and old ones keep their records (pains B3).
func TestMapsChangeTheirSizeUnderLoad(t *testing.T) {
	w := newWorld(t)
	dp := w.sized(small())
	w.publish(frontend{vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4), affinity: 0})
	c := w.load()
	for i := range 6 {
		check(t, dp.Close())
		want := [...]map[string]uint32{large(), small()}[i%2]
		dp = w.sized(want)
		for name, n := range want {
			if got := dp.Maps()[name].MaxEntries(); got != n {
				t.Errorf("%s has %d entries, want %d", name, got, n)
			}
		}
		if there, err := exists(dp.pins.next()); err != nil || there {
			t.Errorf("the folder of new maps is still there: %v", err)
		}
	}
	c.finish()
	// What the sockets that are gone have left, apart from those that came and
	// went in the middle of a move.
	n := mapLen(t, dp, abi.MapPeers)
	t.Logf("%d records are left of sockets that came and went during a move", n)
	if n > 20 {
		t.Errorf("%d records are left of no connection", n)
	}
	check(t, dp.Close())
}

// What is in use and does not fit stays where it is, and goes on.
func TestAMapThatWouldBeTooSmallKeepsItsSize(t *testing.T) {
	w := newWorld(t)
	dp := w.sized(large())
	w.publish(frontend{service: 70, vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	c := w.load()
	check(t, dp.Close())
	dp = w.sized(small()) // has no Service 70
	if got := dp.Maps()[abi.MapSets].MaxEntries(); got != large()[abi.MapSets] {
		t.Errorf("sets has %d entries", got)
	}
	c.finish()
	check(t, dp.Close())
}

// An agent of another layout finds what this one has left, takes it over, and
// leaves nothing of it; this one does not start after it.
func TestAnotherLayout(t *testing.T) {
	w := newWorld(t)
	dp := w.sized(small())
	w.publish(frontend{vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	check(t, dp.Maps()[abi.MapServices].Put(uint32(0), abi.ServiceName{Protocol: 6}))
	c := w.load()
	check(t, dp.Close())
	pins := NewPins(w.bpffs)
	opts := w.options()
	opts.MapSizes = large()
	for range 3 {
		pins.version++
		next, err := open(pins, opts)
		check(t, err)
		check(t, next.Check())
		w.dp = next
		if n := mapLen(t, next, abi.MapServices) + mapLen(t, next, abi.MapFrontends); n != 2 {
			t.Errorf("layout %d has %d of 2 entries", pins.version, n)
		}
		if versions, err := pins.layouts(); err != nil || len(versions) != 1 {
			t.Errorf("layouts %v are there, %v", versions, err)
		}
		check(t, next.Close())
	}
	if _, err := Open(w.options()); err == nil || !strings.Contains(err.Error(), "a newer Beeline has run here") {
		t.Errorf("an older agent: %v, want a refusal", err)
	}
	c.finish()
	check(t, Cleanup(pins))
}

// dying is a Carrier whose agent ends in the middle of a move.
type dying struct {
	maps.Carrier
	at, calls int
}

var errDied = errors.New("the agent died")

func (d *dying) Carry(old, next map[string]*ebpf.Map, begun bool) error {
	if d.calls++; d.calls == d.at {
		panic(errDied)
	}
	return d.Carrier.Carry(old, next, begun)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if runtime.GC(); time.Now().After(end) {
			t.Fatal("not within 10 s")
		}
	}
}

// However far an agent came with a move, the next one brings it to its end, also
// if it is told to move more.
func TestAMoveIsInterrupted(t *testing.T) {
	one := small()
	one[abi.MapFrontends] = large()[abi.MapFrontends]
	for what, first := range map[string]map[string]uint32{"all maps": large(), "one map": one} {
		for at := 1; at <= 2; at++ {
			t.Run(fmt.Sprintf("%s, at %d", what, at), func(t *testing.T) { interrupted(t, first, at) })
		}
	}
}

func interrupted(t *testing.T, first map[string]uint32, at int) {
	w := newWorld(t)
	dp := w.sized(small())
	w.publish(frontend{vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	c := w.load()
	check(t, dp.Close())
	opts := w.options()
	opts.MapSizes, opts.Carrier = first, &dying{at: at}
	func() {
		defer func() { _ = recover() }()
		_, _ = Open(opts)
	}()
	runtime.GC() // closes what the dead one had open, as the kernel does
	eventually(t, func() bool { return !NewPins(w.bpffs).Locked() })
	entries, err := os.ReadDir(filepath.Join(NewPins(w.bpffs).layout(), "next"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("nothing was under way: %v, %v", entries, err)
	}
	dp = w.sized(large())
	if got := dp.Maps()[abi.MapFrontends].MaxEntries(); got != large()[abi.MapFrontends] {
		t.Errorf("frontends has %d entries", got)
	}
	if n := mapLen(t, dp, abi.MapFrontends); n != 1 {
		t.Errorf("%d frontends", n)
	}
	check(t, dp.Check())
	c.finish()
	check(t, dp.Close())
}
