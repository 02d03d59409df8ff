// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact attaches by tc filters, for kernels without tcx. A filter of ours has
// a priority and handle that nobody else is known to use, so that replacing it
// is one step and removing it touches no other. The kernel itself gives out
// priorities from 49152 downwards (net/sched: tcf_auto_prio).
//
// A clsact qdisc is removed with our last filter if we made it and nobody else
// has a filter there. That we made it says a folder below the pins, named by
// the device's number.
type clsact struct{ pins Pins }

// Where our filters are. A filter with a smaller number runs earlier, and the
// first that decides ends the chain.
const (
	clsactIngressPriority = 0xfbee // behind everybody
	clsactEgressPriority  = 0x0bee // in front of what the kernel numbers
	clsactHandle          = 0xbee
)

// filter is our filter at a place. Its name is the program's.
func (at place) filter() *netlink.BpfFilter {
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: at.ifindex, Parent: netlink.HANDLE_MIN_INGRESS, Handle: clsactHandle,
			Protocol: unix.ETH_P_ALL, Priority: clsactIngressPriority,
		},
		Name: tcProgBeelineIngress, DirectAction: true,
	}
	if at.direction == egress {
		f.Parent, f.Priority, f.Name = netlink.HANDLE_MIN_EGRESS, clsactEgressPriority, tcProgBeelineEgress
	}
	return f
}

func (clsact) way() string { return "clsact" }

func (c clsact) put(at place, prog *ebpf.Program) error {
	if err := c.qdisc(at.ifindex); err != nil {
		return err
	}
	f := at.filter()
	f.Fd = prog.FD()
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("tc filter: %w", err)
	}
	return nil
}

// qdisc makes sure that the device has a clsact qdisc.
func (c clsact) qdisc(ifindex int) error {
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	// Noted first: what is noted and not made goes with the next sweep.
	have, err := clsactOf(ifindex)
	if err != nil || have {
		return err
	}
	if err := os.MkdirAll(c.made(ifindex), 0o700); err != nil {
		return fmt.Errorf("note the clsact qdisc: %w", err)
	}
	if err := netlink.QdiscAdd(q); err != nil {
		return errors.Join(fmt.Errorf("clsact qdisc: %w", err), os.Remove(c.made(ifindex)))
	}
	return nil
}

// clsactOf tells whether a device has a clsact qdisc. An ingress qdisc, which is
// only half of one and somebody else's, takes its place: an error.
func clsactOf(ifindex int) (bool, error) {
	all, err := netlink.QdiscList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: ifindex}})
	if err != nil {
		return false, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range all {
		if q.Attrs().LinkIndex != ifindex || q.Attrs().Parent != netlink.HANDLE_CLSACT {
			continue
		}
		if q.Type() != "clsact" {
			return false, fmt.Errorf("somebody else has an %s qdisc on it, which leaves no room for clsact", q.Type())
		}
		return true, nil
	}
	return false, nil
}

// list returns the filters of one end of a device; none without a qdisc.
func (at place) list() ([]netlink.Filter, error) {
	dev := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: at.ifindex}}
	filters, err := netlink.FilterList(dev, at.filter().Parent)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list tc filters of device %d: %w", at.ifindex, err)
	}
	return filters, nil
}

// ours returns our filter among those at a place, nil if it is not there.
func (at place) ours(all []netlink.Filter) *netlink.BpfFilter {
	want := at.filter()
	for _, f := range all {
		b, ok := f.(*netlink.BpfFilter)
		if ok && b.Handle == want.Handle && b.Priority == want.Priority && b.Name == want.Name {
			return b
		}
	}
	return nil
}

func (c clsact) places() (all []place, err error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		for _, dir := range []direction{ingress, egress} {
			at := place{l.Attrs().Index, dir}
			filters, err := at.list()
			errs = append(errs, err)
			if at.ours(filters) != nil {
				all = append(all, at)
			}
		}
	}
	return all, errors.Join(errs...)
}

func (c clsact) remove(at place) error {
	err := netlink.FilterDel(at.filter())
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove tc filter from device %d, %s: %w", at.ifindex, at.direction, err)
	}
	return c.removeQdisc(at.ifindex)
}

// removeQdisc removes a qdisc of ours that nobody uses.
func (c clsact) removeQdisc(ifindex int) error {
	made, err := exists(c.made(ifindex))
	if err != nil || !made {
		return err
	}
	for _, dir := range []direction{ingress, egress} {
		filters, err := place{ifindex, dir}.list()
		if err != nil || len(filters) > 0 {
			return err
		}
	}
	err = netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}})
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove clsact qdisc from device %d: %w", ifindex, err)
	}
	if err := os.Remove(c.made(ifindex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the clsact qdisc: %w", err)
	}
	return nil
}

func (c clsact) check(at place) error {
	filters, err := at.list()
	if err != nil {
		return err
	}
	if at.ours(filters) == nil {
		return errNotAttached
	}
	return nil
}

func (c clsact) program(at place) (ebpf.ProgramID, error) {
	filters, err := at.list()
	if err != nil {
		return 0, err
	}
	f := at.ours(filters)
	if f == nil {
		return 0, errNotAttached
	}
	return ebpf.ProgramID(f.Id), nil
}

func (c clsact) close() error { return nil }

// made is the note that the clsact qdisc of a device is of our making.
func (c clsact) made(ifindex int) string {
	return filepath.Join(c.pins.layout(), "clsact", strconv.Itoa(ifindex))
}
