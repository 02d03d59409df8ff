// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
)

// onDevices runs f on a thread in the world's client namespace, with the packet
// path open and the index of the namespace's eth0.
func onDevices(t *testing.T, f func(w *world, v *Devices, ifindex int)) {
	w := newWorld(t)
	opts := w.options()
	opts.Packet = &PacketOptions{}
	dp, err := Open(opts)
	check(t, err)
	defer func() { _ = dp.Close() }()
	w.dp = dp
	v, err := dp.Devices()
	check(t, err)
	defer func() { check(t, v.Close()) }()
	inNamespace(t, w.client, func() {
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		f(w, v, eth0.Attrs().Index)
	})
}

func inNamespace(t *testing.T, ns *lab.Namespace, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread dies with us
		check(t, ns.EnterThread())
		f()
	}()
	<-done
}

// onDevice names the programs of one direction, in order.
func onDevice(t *testing.T, ifindex int, typ ebpf.AttachType) (names []string) {
	t.Helper()
	res, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: typ})
	check(t, err)
	for _, p := range res.Programs {
		names = append(names, programName(p.ID))
	}
	return names
}

// awaitNothing waits until no program is left at a device's ingress: where a
// link cannot be detached, the kernel frees it in the background.
func awaitNothing(t *testing.T, ifindex int) {
	t.Helper()
	var got []string
	for range 100 {
		if got = onDevice(t, ifindex, ebpf.AttachTCXIngress); len(got) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("after 2 s, ingress still has %v", got)
}

func TestDevicesComeAndGo(t *testing.T) {
	onDevices(t, func(_ *world, v *Devices, eth0 int) {
		dev := Device{Index: eth0, Name: "eth0"}
		check(t, v.Set([]Device{dev}))
		check(t, v.Set([]Device{dev})) // twice is once
		if got := onDevice(t, eth0, ebpf.AttachTCXIngress); len(got) != 1 || got[0] != "beeline_ingress" {
			t.Errorf("ingress has %v", got)
		}
		if got := onDevice(t, eth0, ebpf.AttachTCXEgress); len(got) != 1 || got[0] != "beeline_egress" {
			t.Errorf("egress has %v", got)
		}
		check(t, v.Check())
		check(t, v.Set(nil))
		awaitNothing(t, eth0)
		check(t, v.Set([]Device{{Index: 4242, Name: "gone"}, dev})) // a device that vanished
	})
}

// The next agent takes over the links, and its programs find the same flows.
func TestDevicesAreAdopted(t *testing.T) {
	onDevices(t, func(w *world, v *Devices, eth0 int) {
		dev := Device{Index: eth0, Name: "eth0"}
		check(t, v.Set([]Device{dev}))
		before := v.opts.FlowSeed
		again, err := w.dp.Devices()
		check(t, err)
		defer func() { check(t, again.Close()) }()
		check(t, again.Set([]Device{dev}))
		if got := onDevice(t, eth0, ebpf.AttachTCXIngress); len(got) != 1 {
			t.Errorf("ingress has %v after a takeover", got)
		}
		if again.opts.FlowSeed != before || before == 0 {
			t.Errorf("the seed changed from %#x to %#x", before, again.opts.FlowSeed)
		}
	})
}

// Programs of others stay, keep their place, and run (pains B7, B8).
func TestForeignProgramsStay(t *testing.T) {
	onDevices(t, func(w *world, v *Devices, eth0 int) {
		foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT
		})
		check(t, err)
		defer func() { _ = foreign.Close() }()
		l, err := link.AttachTCX(link.TCXOptions{Interface: eth0, Program: foreign, Attach: ebpf.AttachTCXIngress})
		check(t, err)
		defer func() { _ = l.Close() }()
		check(t, v.Set([]Device{{Index: eth0, Name: "eth0"}}))
		want := "foreign beeline_ingress"
		if got := strings.Join(onDevice(t, eth0, ebpf.AttachTCXIngress), " "); got != want {
			t.Errorf("ingress has %q, want %q", got, want)
		}
		check(t, v.Close())
		check(t, w.dp.Close())
		check(t, Cleanup(NewPins(w.bpffs)))
		if got := strings.Join(onDevice(t, eth0, ebpf.AttachTCXIngress), " "); got != "foreign" {
			t.Errorf("after cleanup, ingress has %q", got)
		}
	})
}

func TestCheckNoticesADetachedDevice(t *testing.T) {
	onDevices(t, func(_ *world, v *Devices, eth0 int) {
		check(t, v.Set([]Device{{Index: eth0, Name: "eth0"}}))
		for _, l := range v.attached {
			check(t, l.(interface{ Detach() error }).Detach())
		}
		if err := v.Check(); err == nil {
			t.Error("nothing noticed")
		}
	})
}

// Off means clean: the next agent, without a packet path, takes it away.
func TestSwitchedOffThePacketPathIsGone(t *testing.T) {
	onDevices(t, func(w *world, v *Devices, eth0 int) {
		check(t, v.Set([]Device{{Index: eth0, Name: "eth0"}}))
		check(t, v.Close())
		check(t, w.dp.Close())
		sockets, err := Open(w.options())
		check(t, err)
		defer func() { _ = sockets.Close() }()
		awaitNothing(t, eth0)
		opened, err := OpenMaps(sockets.pins)
		check(t, err)
		defer CloseMaps(opened)
		if opened[abi.MapFlows] != nil {
			t.Error("the flow table is still pinned")
		}
	})
}
