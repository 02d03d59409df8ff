// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
)

// unloadable are packet programs that do not load: there is room for eight ranges.
func unloadable() *PacketOptions {
	return &PacketOptions{ServiceRanges: make([]netip.Prefix, serviceRanges+1)}
}

func (w *world) packetOptions(sizes map[string]uint32) Options {
	opts := w.options()
	opts.Packet = &PacketOptions{}
	opts.MapSizes = map[string]uint32{abi.MapFlows: 1024, abi.MapFlowIndex: 512}
	for name, n := range sizes {
		opts.MapSizes[name] = n
	}
	return opts
}

// served opens with the packet path on a device of a namespace of its own, and
// returns that device's place.
func (w *world) served(dp *Datapath, ns *lab.Namespace) place {
	w.t.Helper()
	var at place
	check(w.t, ns.Do(func() error {
		devices, err := dp.Devices()
		if err != nil {
			return err
		}
		d := Device{Index: 1, Name: "lo"}
		at = place{d.Index, ingress}
		if err := devices.Set([]Device{d}); err != nil {
			return err
		}
		return devices.Close()
	}))
	return at
}

// usesMap tells whether the program on a device looks into the map that is pinned
// under a name.
func (w *world) usesMap(ns *lab.Namespace, at place, name string) bool {
	w.t.Helper()
	used := map[ebpf.MapID]bool{}
	pins := NewPins(w.bpffs)
	check(w.t, ns.Do(func() error {
		id, err := newTCX(pins).program(at)
		if err != nil {
			return err
		}
		return addMaps(used, id)
	}))
	return used[pinnedMap(filepath.Join(pins.maps(), name))]
}

// Packet programs that do not load keep maps from moving: those of the last agent
// would go on with tables that nobody writes.
func TestNothingMovesIfPacketProgramsDoNotLoad(t *testing.T) {
	w := newWorld(t)
	ns, err := w.lab.Namespace("dev")
	check(t, err)
	dp, err := Open(w.packetOptions(small()))
	check(t, err)
	at := w.served(dp, ns)
	check(t, dp.Close())

	opts := w.packetOptions(large())
	opts.Packet = unloadable()
	dp, err = Open(opts)
	check(t, err)
	if got := dp.Maps()[abi.MapFrontends].MaxEntries(); got != small()[abi.MapFrontends] {
		t.Errorf("frontends moved to %d entries", got)
	}
	check(t, ns.Do(dp.GiveUp)) // has nothing to do
	check(t, dp.Close())
	if !w.usesMap(ns, at, abi.MapFrontends) {
		t.Error("the program on the device does not use the table that is written")
	}

	dp, err = Open(w.packetOptions(large()))
	check(t, err)
	if w.usesMap(ns, at, abi.MapFrontends) && dp.moving == nil {
		t.Error("moved before devices were")
	}
	w.served(dp, ns)
	check(t, dp.Close())
	if !w.usesMap(ns, at, abi.MapFrontends) {
		t.Error("the program on the device does not use the table that is written")
	}
}

// An upgrade that fails before it is in force is as if it had not been, for the
// version before: whether its agent has said so or was killed.
func TestAFailedUpgradeIsTakenBack(t *testing.T) {
	w := newWorld(t)
	ns, err := w.lab.Namespace("dev")
	check(t, err)
	dp, err := Open(w.packetOptions(small()))
	check(t, err)
	at := w.served(dp, ns)
	check(t, dp.Close())
	check(t, dp.pins.WriteNote(NoteState, []byte("kept")))

	newer := dp.pins
	newer.version++
	opts := w.packetOptions(large())
	opts.Packet = unloadable()
	if failed, err := open(newer, opts); err == nil {
		_ = failed.Close()
		t.Fatal("packet programs that do not load, and the layout changed")
	}
	if there, err := exists(newer.layout()); err != nil || there {
		t.Errorf("the failed upgrade has left its folder: %v", err)
	}
	for what, killed := range map[string]func() error{
		"before anything": func() error { return newer.create() },
		"with devices":    func() error { return errorsOf(newer.create(), newer.inherit()) },
		"with maps": func() error {
			if err := errorsOf(newer.create(), newer.inherit()); err != nil {
				return err
			}
			m, err := createMap(filepath.Join(newer.maps(), "some"), &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				return err
			}
			return m.Close()
		},
	} {
		check(t, killed())
		dp, err = Open(w.packetOptions(small()))
		if err != nil {
			t.Fatalf("an upgrade died %s: %v", what, err)
		}
		w.served(dp, ns)
		check(t, dp.Close())
		if !w.usesMap(ns, at, abi.MapFrontends) {
			t.Errorf("an upgrade died %s: the program on the device uses another table", what)
		}
		if text, err := dp.pins.ReadNote(NoteState); err != nil || string(text) != "kept" {
			t.Errorf("an upgrade died %s: note %q, %v", what, text, err)
		}
	}

	// One that was in force is not: its tables cannot be read.
	next, err := open(newer, w.packetOptions(large()))
	check(t, err)
	check(t, next.Close())
	if old, err := Open(w.packetOptions(small())); err == nil {
		_ = old.Close()
		t.Error("went back behind a layout that is in use")
	}
	next, err = open(newer, w.packetOptions(large()))
	check(t, err)
	w.served(next, ns)
	check(t, next.Close())
	check(t, ns.Do(func() error { return Cleanup(newer) }))
}

func errorsOf(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// An agent that dies on its way to another cgroup leaves nothing there once the
// next one serves the first again.
func TestALinkThatWasAboutToMoveEnds(t *testing.T) {
	w := newWorld(t)
	dp := w.open()
	elsewhere, err := w.lab.Cgroup("elsewhere")
	check(t, err)
	prog, err := ebpf.LoadPinnedProgram(filepath.Join(dp.pins.progs(), "beeline_connect4"), nil)
	check(t, err)
	l, err := link.AttachCgroup(link.CgroupOptions{Path: elsewhere.Path, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	check(t, err)
	left := filepath.Join(dp.pins.links(), "beeline_connect4"+newSuffix)
	check(t, l.Pin(left))
	check(t, l.Close())
	check(t, prog.Close())
	check(t, dp.Close())
	dp = w.open()
	defer func() { _ = dp.Close() }()
	if there, err := exists(left); err != nil || there {
		t.Errorf("its pin is there: %v", err)
	}
	dir, err := os.Open(elsewhere.Path)
	check(t, err)
	defer func() { _ = dir.Close() }()
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	if err != nil || len(res.Programs) != 0 {
		t.Errorf("%d programs are still there, %v", len(res.Programs), err)
	}
	w.dp = dp
	w.publish(frontend{vip: families[0].vip, port: 80, protocol: unix.IPPROTO_TCP, backends: w.bothPods(4)})
	fd := w.socket(unix.AF_INET, unix.SOCK_STREAM)
	check(t, unix.Connect(fd, sockaddr(families[0].dest, 80)))
}

// refusing is a way to attach that one device does not take.
type refusing struct {
	attacher
	at place
}

func (r refusing) put(at place, prog *ebpf.Program) error {
	if at == r.at {
		return unix.EBUSY
	}
	return r.attacher.put(at, prog)
}

// As long as a device keeps a program of the last agent, the maps that it uses
// are not given up.
func TestMapsMoveOnceAllDevicesHave(t *testing.T) {
	w := newWorld(t)
	ns, err := w.lab.Namespace("dev")
	check(t, err)
	dp, err := Open(w.packetOptions(small()))
	check(t, err)
	at := w.served(dp, ns)
	check(t, dp.Close())
	dp, err = Open(w.packetOptions(large()))
	check(t, err)
	defer func() { _ = dp.Close() }()
	check(t, ns.Do(func() error {
		devices, err := dp.Devices()
		if err != nil {
			return err
		}
		defer func() { _ = devices.Close() }()
		how := devices.how
		devices.how = refusing{how, at}
		want := []Device{{Index: at.ifindex, Name: "lo"}}
		if err := devices.Set(want); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a device that refuses: %v", err)
		}
		if there, err := exists(dp.pins.next()); err != nil || !there || dp.moving == nil {
			t.Errorf("the move has ended: %v", err)
		}
		devices.how = how
		if err := devices.Set(want); err != nil {
			return err
		}
		if there, err := exists(dp.pins.next()); err != nil || there || dp.moving != nil {
			t.Errorf("the move has not ended: %v", err)
		}
		return nil
	}))
	if !w.usesMap(ns, at, abi.MapFrontends) {
		t.Error("the program on the device does not use the table that is written")
	}
}
