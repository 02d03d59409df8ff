// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
)

// node is a namespace with a device, where the packet path is open and attaches
// in one of the two ways.
type node struct {
	*world
	v      *Devices
	clsact bool
	eth0   Device
}

// eachWay runs f for both ways to attach, on a thread in the namespace. A
// kernel without tcx falls back to the other by itself.
func eachWay(t *testing.T, f func(t *testing.T, n *node)) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			n := &node{world: w, clsact: clsact}
			inNamespace(t, w.client, func() {
				eth0, err := netlink.LinkByName("eth0")
				check(t, err)
				n.eth0 = Device{Index: eth0.Attrs().Index, Name: "eth0"}
				n.clsact = clsact || !haveTCX(t, n.eth0.Index)
				n.reopen()
				defer n.close()
				f(t, n)
			})
		})
	}
}

func haveTCX(t *testing.T, ifindex int) bool {
	t.Helper()
	_, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXIngress})
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.EINVAL) {
		t.Fatal(err)
	}
	return err == nil
}

func (n *node) options() Options {
	opts := n.world.options()
	opts.Packet = &PacketOptions{Clsact: n.clsact}
	return opts
}

// reopen is the next agent.
func (n *node) reopen() {
	n.t.Helper()
	dp, err := Open(n.options())
	check(n.t, err)
	n.dp = dp
	n.v, err = dp.Devices()
	check(n.t, err)
}

func (n *node) close() {
	n.t.Helper()
	check(n.t, n.v.Close())
	check(n.t, n.dp.Close())
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

// programs names the programs of one direction, in order.
func (n *node) programs(dir direction) string {
	n.t.Helper()
	var names []string
	if n.clsact {
		filters, err := place{n.eth0.Index, dir}.list()
		check(n.t, err)
		slices.SortStableFunc(filters, func(a, b netlink.Filter) int {
			return int(a.Attrs().Priority) - int(b.Attrs().Priority)
		})
		for _, f := range filters {
			names = append(names, f.(*netlink.BpfFilter).Name)
		}
		return strings.Join(names, " ")
	}
	typ := ebpf.AttachTCXIngress
	if dir == egress {
		typ = ebpf.AttachTCXEgress
	}
	res, err := link.QueryPrograms(link.QueryOptions{Target: n.eth0.Index, Attach: typ})
	check(n.t, err)
	for _, p := range res.Programs {
		names = append(names, programName(p.ID))
	}
	return strings.Join(names, " ")
}

// want waits a moment: where a link cannot be detached, the kernel frees it in
// the background.
func (n *node) want(dir direction, want string) {
	n.t.Helper()
	var got string
	for range 100 {
		if got = n.programs(dir); got == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Errorf("%s has %q, want %q", dir, got, want)
}

// qdisc tells whether eth0 has a clsact qdisc.
func (n *node) qdisc() bool {
	n.t.Helper()
	have, err := clsactOf(n.eth0.Index)
	check(n.t, err)
	return have
}

func TestDevicesComeAndGo(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		check(t, n.v.Set([]Device{n.eth0}))
		check(t, n.v.Set([]Device{n.eth0})) // twice is once
		n.want(ingress, "beeline_ingress")
		n.want(egress, "beeline_egress")
		check(t, n.v.Check())
		check(t, n.v.Set(nil))
		n.want(ingress, "")
		n.want(egress, "")
		if n.qdisc() {
			t.Error("the clsact qdisc is still there")
		}
		check(t, n.v.Set([]Device{{Index: 4242, Name: "gone"}, n.eth0})) // a device that vanished
		n.want(ingress, "beeline_ingress")
	})
}

// A port of a bridge: what comes in is the bridge's to see.
func TestADeviceWithEgressOnly(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		port := n.eth0
		port.EgressOnly = true
		for range 2 { // to it, from it, and by the next agent
			check(t, n.v.Set([]Device{n.eth0}))
			n.want(ingress, "beeline_ingress")
			check(t, n.v.Set([]Device{port}))
			n.want(ingress, "")
			n.want(egress, "beeline_egress")
			check(t, n.v.Check())
			n.close()
			n.reopen()
		}
	})
}

// The next agent takes over what is attached, in place, and its programs find
// the same flows.
func TestDevicesAreAdopted(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		check(t, n.v.Set([]Device{n.eth0}))
		seed := n.v.opts.FlowSeed
		n.close()
		n.want(ingress, "beeline_ingress") // while no agent runs
		n.reopen()
		check(t, n.v.Set([]Device{n.eth0}))
		n.want(ingress, "beeline_ingress")
		n.want(egress, "beeline_egress")
		if n.v.opts.FlowSeed != seed || seed == 0 {
			t.Errorf("the seed changed from %#x to %#x", seed, n.v.opts.FlowSeed)
		}
	})
}

// Programs of others stay, keep their place, and run: ours are behind them on
// the way in and before them on the way out, as netfilter is (pains B7, B8).
func TestForeignProgramsStay(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "foreign", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}, // TCX_NEXT
		})
		check(t, err)
		defer func() { _ = foreign.Close() }()
		n.attachForeign(foreign)
		check(t, n.v.Set([]Device{n.eth0}))
		n.want(ingress, "foreign beeline_ingress")
		n.want(egress, "beeline_egress foreign")
		n.close()
		n.reopen()
		check(t, n.v.Set([]Device{n.eth0}))
		n.want(ingress, "foreign beeline_ingress")
		n.close()
		check(t, Cleanup(NewPins(n.bpffs)))
		n.want(ingress, "foreign")
		n.want(egress, "foreign")
		n.reopen() // for who closes it
	})
}

// attachForeign puts a program of somebody else on both ends of eth0.
func (n *node) attachForeign(prog *ebpf.Program) {
	n.t.Helper()
	if n.clsact {
		// The qdisc is theirs, and must outlive us.
		check(n.t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: n.eth0.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}))
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			check(n.t, netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: n.eth0.Index, Parent: parent, Protocol: unix.ETH_P_ALL}, // a priority of the kernel's choice
				Fd:          prog.FD(), Name: "foreign", DirectAction: true,
			}))
		}
		return
	}
	for _, typ := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: n.eth0.Index, Program: prog, Attach: typ})
		check(n.t, err)
		n.t.Cleanup(func() { _ = l.Close() })
	}
}

// A clsact qdisc of ours stays as long as somebody else has a filter there.
func TestQdiscStaysForOthers(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		if !n.clsact {
			return // tcx needs no qdisc
		}
		check(t, n.v.Set([]Device{n.eth0}))
		prog := n.v.programs[kind{}].Ingress
		theirs := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{
				LinkIndex: n.eth0.Index, Parent: netlink.HANDLE_MIN_INGRESS, Protocol: unix.ETH_P_ALL, Priority: 1, Handle: 1,
			},
			Fd: prog.FD(), Name: "foreign", DirectAction: true,
		}
		check(t, netlink.FilterAdd(theirs))
		check(t, n.v.Set(nil))
		n.want(ingress, "foreign")
		if !n.qdisc() {
			t.Fatal("the qdisc that another filter needs is gone")
		}
		check(t, netlink.FilterDel(theirs))
		check(t, n.v.Set([]Device{n.eth0}))
		check(t, n.v.Set(nil))
		if n.qdisc() {
			t.Error("the qdisc that we made and nobody needs is still there")
		}
	})
}

// Half a place is no place: where an ingress qdisc is, clsact cannot be, and
// what is there stays.
func TestForeignIngressQdiscStays(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		if !n.clsact {
			return
		}
		check(t, netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: n.eth0.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
		}}))
		if err := n.v.Set([]Device{n.eth0}); err == nil || !strings.Contains(err.Error(), "ingress qdisc") {
			t.Errorf("got %v, want the ingress qdisc to be named", err)
		}
		if _, err := clsactOf(n.eth0.Index); err == nil {
			t.Error("the ingress qdisc is gone")
		}
	})
}

// Who comes with the other way takes the old one away, once its own is there.
func TestWayOfAttachingChanges(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		if !haveTCX(t, n.eth0.Index) {
			return // there is but one way
		}
		check(t, n.v.Set([]Device{n.eth0}))
		n.close()
		before := n.clsact
		n.clsact = !before
		n.reopen()
		check(t, n.v.Set([]Device{n.eth0}))
		n.want(ingress, "beeline_ingress")
		n.clsact = before
		n.want(ingress, "")
		n.want(egress, "")
	})
}

func TestCheckNoticesADetachedDevice(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		check(t, n.v.Set([]Device{n.eth0}))
		if how, ok := n.v.how.(*tcx); ok {
			for _, l := range how.links {
				check(t, l.(interface{ Detach() error }).Detach())
			}
		} else {
			check(t, netlink.FilterDel(place{n.eth0.Index, egress}.filter()))
		}
		if err := n.v.Check(); err == nil {
			t.Error("nothing noticed")
		}
		check(t, n.v.Set([]Device{n.eth0})) // puts it back
		check(t, n.v.Check())
		n.want(egress, "beeline_egress")
		if n.v.Restored() != 1 {
			t.Errorf("programs were put back %d times, want once", n.v.Restored())
		}
	})
}

// A device that is gone takes its programs with it, and the next one with its
// number never had any.
func TestCheckForgetsADeviceThatIsGone(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		check(t, n.v.Set([]Device{n.eth0}))
		eth0, err := netlink.LinkByName("eth0")
		check(t, err)
		check(t, netlink.LinkDel(eth0))
		check(t, n.v.Check())
		check(t, n.v.Set([]Device{n.eth0})) // not noticed yet
		check(t, n.v.Check())
		check(t, n.v.Set(nil))
		check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1", Index: n.eth0.Index}, PeerName: "eth2"}))
		check(t, n.v.Check())
		if n.v.Restored() != 0 {
			t.Errorf("programs were put back %d times", n.v.Restored())
		}
		next := Device{Index: n.eth0.Index, Name: "eth1"}
		check(t, n.v.Set([]Device{next}))
		check(t, n.v.Check())
		n.want(egress, "beeline_egress")
	})
}

// A link that is not pinned would end with the agent.
func TestRemovedPinsComeBack(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		if n.clsact {
			return // filters have no pins
		}
		check(t, n.v.Set([]Device{n.eth0}))
		check(t, os.RemoveAll(n.dp.pins.devices()))
		if err := n.v.Check(); err == nil || !strings.Contains(err.Error(), "device eth0: ") {
			t.Errorf("got %v, want eth0 to be named", err)
		}
		check(t, n.v.Set([]Device{n.eth0}))
		check(t, n.v.Check())
		if n.v.Restored() != 1 {
			t.Errorf("programs were put back %d times, want once", n.v.Restored())
		}
		n.close()
		n.want(ingress, "beeline_ingress")
		n.want(egress, "beeline_egress")
		n.reopen()
	})
}

// Off means clean: the next agent, without a packet path, takes it away.
func TestSwitchedOffThePacketPathIsGone(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node) {
		check(t, n.v.Set([]Device{n.eth0}))
		n.close()
		sockets, err := Open(n.world.options())
		check(t, err)
		n.want(ingress, "")
		n.want(egress, "")
		opened, err := OpenMaps(sockets.pins)
		check(t, err)
		if opened[abi.MapFlows] != nil {
			t.Error("the flow table is still pinned")
		}
		CloseMaps(opened)
		check(t, sockets.Close())
		n.reopen()
	})
}
