// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/datapath"
)

// attach puts programs on a device of node 1, by tcx, or by clsact where the
// test wants it or the kernel has nothing else.
func (w *wired) attach(dev string, progs *datapath.PacketPrograms) {
	w.t.Helper()
	ifindex := w.index(dev)
	check(w.t, w.node1.Do(func() error {
		if w.clsact {
			return attachClsact(ifindex, progs)
		}
		err := w.attachTCX(ifindex, progs)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return attachClsact(ifindex, progs)
		}
		return err
	}))
}

func (w *wired) attachTCX(ifindex int, progs *datapath.PacketPrograms) error {
	for at, prog := range map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachTCXIngress: progs.Ingress, ebpf.AttachTCXEgress: progs.Egress,
	} {
		attached, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: at})
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { _ = attached.Close() })
	}
	return nil
}

// attachClsact's filters go away with their namespace.
func attachClsact(ifindex int, progs *datapath.PacketPrograms) error {
	err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	for parent, prog := range map[uint32]*ebpf.Program{
		netlink.HANDLE_MIN_INGRESS: progs.Ingress, netlink.HANDLE_MIN_EGRESS: progs.Egress,
	} {
		err = errors.Join(err, netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: parent, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          prog.FD(), Name: "beeline", DirectAction: true,
		}))
	}
	return err
}
