// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

func TestASecondAgentIsRefused(t *testing.T) {
	w := newWorld(t)
	first := w.open()
	other := w.options()
	var err error
	other.BPFFS, err = w.lab.BPFFS()
	check(t, err)
	for name, opts := range map[string]Options{"same BPF filesystem": w.options(), "another, same cgroup": other} {
		if _, err := Open(opts); !errors.Is(err, ErrLocked) {
			t.Errorf("%s: %v, want ErrLocked", name, err)
		}
	}
	check(t, first.Close())
	if _, err = Open(other); err == nil || !strings.Contains(err.Error(), "already served by another Beeline") {
		t.Errorf("beside the programs of an agent that has ended: %v, want a refusal", err)
	}
	if NewPins(other.BPFFS).Exists() {
		t.Error("the refused agent left pins behind")
	}
}

func TestOfAgentsThatStartTogetherOneWins(t *testing.T) {
	w := newWorld(t)
	const agents = 4
	var opened []*Datapath
	results := make(chan *Datapath, agents)
	for range agents {
		opts := w.options()
		var err error
		opts.BPFFS, err = w.lab.BPFFS()
		check(t, err)
		go func() {
			dp, err := Open(opts)
			if err != nil && !errors.Is(err, ErrLocked) {
				t.Errorf("%v, want ErrLocked", err)
			}
			results <- dp
		}()
	}
	for range agents {
		if dp := <-results; dp != nil {
			opened = append(opened, dp)
		}
	}
	if len(opened) != 1 {
		t.Errorf("%d of %d serve the cgroup, want one", len(opened), agents)
	}
	for _, dp := range opened {
		check(t, dp.Close())
	}
}

func TestTrafficWorksWithoutAnAgentAndAcrossTheNext(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	f := families[0]
	w.publish(frontend{vip: f.vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	var failed, made int
	stop := make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
			if err := unix.Connect(fd, sockaddr(f.dest, 80)); err != nil {
				failed++
			}
			made++
			_ = unix.Close(fd)
		}
	})
	for range 20 {
		check(t, dp.Close())
		next, err := Open(w.options())
		check(t, err)
		dp = next
	}
	close(stop)
	loop.Wait()
	check(t, dp.Close())
	if failed > 0 || made == 0 {
		t.Errorf("%d of %d connections failed across 20 takeovers, want none", failed, made)
	}
}

func TestNothingIsAttachedOutsideTheCgroup(t *testing.T) {
	w := newWorld(t)
	w.open()
	for dir := filepath.Dir(w.cgroup.Path); strings.HasPrefix(dir, "/sys/fs/cgroup"); dir = filepath.Dir(dir) {
		f, err := openCgroup(dir)
		if err != nil {
			break // above the hierarchy's root
		}
		for _, typ := range attachTypes() {
			res, err := link.QueryPrograms(link.QueryOptions{Target: int(f.Fd()), Attach: typ})
			check(t, err)
			for _, p := range res.Programs {
				if strings.HasPrefix(programName(p.ID), programPrefix) {
					t.Errorf("%s: program %d is attached", dir, p.ID)
				}
			}
		}
		check(t, f.Close())
	}
}

func TestCleanupLeavesNothing(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	if err := Cleanup(NewPins(w.bpffs)); !errors.Is(err, ErrLocked) {
		t.Fatalf("cleanup beside a running agent: %v, want ErrLocked", err)
	}
	check(t, dp.Close())
	check(t, Cleanup(NewPins(w.bpffs)))
	if _, err := os.Stat(dp.pins.root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dp.pins, err)
	}
	cg, err := openCgroup(w.cgroup.Path)
	check(t, err)
	defer func() { _ = cg.Close() }()
	for _, typ := range attachTypes() {
		res, err := link.QueryPrograms(link.QueryOptions{Target: int(cg.Fd()), Attach: typ})
		check(t, err)
		if len(res.Programs) != 0 {
			t.Errorf("hook %v still has %d programs", typ, len(res.Programs))
		}
	}
	check(t, Cleanup(NewPins(w.bpffs))) // twice is fine
}

func TestALinkOfAnotherCgroupIsReplaced(t *testing.T) {
	w := newWorld(t)
	check(t, w.open().Close())
	elsewhere, err := w.lab.Cgroup("elsewhere")
	check(t, err)
	opts := w.options()
	opts.CgroupRoot = elsewhere.Path
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	check(t, dp.Check())
}

func TestCheckNoticesADetachedHook(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	check(t, dp.Check())
	l, err := link.LoadPinnedLink(filepath.Join(dp.pins.links(), "beeline_connect4"), nil)
	check(t, err)
	check(t, l.Detach())
	check(t, l.Close())
	if err := dp.Check(); err == nil || !strings.Contains(err.Error(), "beeline_connect4") {
		t.Errorf("got %v, want an error that names beeline_connect4", err)
	}
	if _, err := Attachments(dp.pins); err == nil {
		t.Error("Attachments did not notice either")
	}
	check(t, dp.Close())
	again := w.open() // the next agent repairs it
	check(t, again.Check())
}

func TestWrongPlaces(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*Options){
		"no BPF filesystem": func(o *Options) { o.BPFFS = t.TempDir() },
		"no cgroup v2":      func(o *Options) { o.CgroupRoot = t.TempDir() },
		"missing cgroup":    func(o *Options) { o.CgroupRoot = filepath.Join(w.cgroup.Path, "missing") },
		"no such map":       func(o *Options) { o.MapSizes = map[string]uint32{"no_such": 1} },
	} {
		t.Run(name, func(t *testing.T) {
			opts := w.options()
			change(&opts)
			if dp, err := Open(opts); err == nil {
				_ = dp.Close()
				t.Error("Open succeeded")
			} else {
				t.Log(err)
			}
		})
	}
	if _, err := OpenMaps(NewPins(t.TempDir())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("maps where Beeline never ran: %v, want fs.ErrNotExist", err)
	}
}

func TestWithoutACarrierMapsKeepTheirSize(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.MapSizes, opts.Carrier = map[string]uint32{abi.MapFrontends: 64}, nil
	dp, err := Open(opts)
	check(t, err)
	check(t, dp.Maps()[abi.MapFrontends].Put(abi.NewFrontendKey(netip.MustParseAddr("10.96.0.1"), 443, 6), abi.Frontend{}))
	check(t, dp.Close())
	opts.MapSizes = nil
	dp, err = Open(opts)
	check(t, err)
	defer func() { check(t, dp.Close()) }()
	if n := dp.Maps()[abi.MapFrontends].MaxEntries(); n != 64 {
		t.Errorf("the pinned map now has %d entries, want its old 64", n)
	}
	if n := mapLen(t, dp, abi.MapFrontends); n != 1 {
		t.Errorf("it holds %d frontends, want the 1 from before", n)
	}
}
