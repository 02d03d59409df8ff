// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is a program on one of the hooks that ours use, in the order in which
// they run.
type Neighbour struct {
	// Hook is "cgroup connect4", "tcx ingress", "tc ingress", "xdp" ...
	Hook   string
	Device string
	Name   string
	ID     ebpf.ProgramID
	Ours   bool
	// Before: it runs before ours. False where ours are not, or not yet.
	Before bool
}

// Neighbours lists the programs on the cgroup and on the devices of this network
// namespace. What cannot be looked at is in the joined error; the rest is
// returned all the same.
func Neighbours(cgroupRoot string) ([]Neighbour, error) {
	cgroup, errCgroup := cgroupNeighbours(cgroupRoot)
	devices, errDevices := deviceNeighbours()
	return append(cgroup, devices...), errors.Join(errCgroup, errDevices)
}

func cgroupNeighbours(root string) (all []Neighbour, _ error) {
	dir, err := openCgroup(root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	for _, typ := range attachTypes() {
		hook := "cgroup " + hookName(typ)
		res, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: typ})
		if err != nil {
			return all, fmt.Errorf("list programs on %s: %w", root, err)
		}
		all = append(all, chain(hook, "", res.Programs)...)
	}
	return all, nil
}

// hookName is the hook's name as in programs' sections.
func hookName(typ ebpf.AttachType) string {
	name, ok := map[ebpf.AttachType]string{
		ebpf.AttachCGroupInet4Connect: "connect4", ebpf.AttachCGroupInet6Connect: "connect6",
		ebpf.AttachCGroupUDP4Sendmsg: "sendmsg4", ebpf.AttachCGroupUDP6Sendmsg: "sendmsg6",
		ebpf.AttachCGroupUDP4Recvmsg: "recvmsg4", ebpf.AttachCGroupUDP6Recvmsg: "recvmsg6",
		ebpf.AttachCgroupInet4GetPeername: "getpeername4", ebpf.AttachCgroupInet6GetPeername: "getpeername6",
		ebpf.AttachCgroupInetSockRelease: "sock_release",
	}[typ]
	if !ok {
		return strings.ToLower(typ.String())
	}
	return name
}

// chain turns the programs of one hook, in order, into neighbours.
func chain(hook, device string, programs []link.AttachedProgram) []Neighbour {
	names := make([]string, len(programs))
	for i, p := range programs {
		names[i] = programName(p.ID)
	}
	all := make([]Neighbour, len(programs))
	for i, p := range programs {
		all[i] = Neighbour{Hook: hook, Device: device, Name: names[i], ID: p.ID, Ours: ours(names[i])}
	}
	for i := range all {
		for _, later := range all[i+1:] {
			all[i].Before = all[i].Before || !all[i].Ours && later.Ours
		}
	}
	return all
}

// ours: the kernel cuts names to 15 characters.
func ours(name string) bool { return strings.HasPrefix(name, programPrefix) }

func deviceNeighbours() (all []Neighbour, _ error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if x := a.Xdp; x != nil && x.Attached {
			name := programName(ebpf.ProgramID(x.ProgId))
			// XDP runs before whatever is in tc.
			all = append(all, Neighbour{"xdp", a.Name, name, ebpf.ProgramID(x.ProgId), ours(name), !ours(name)})
		}
		for dir, typ := range map[direction]ebpf.AttachType{ingress: ebpf.AttachTCXIngress, egress: ebpf.AttachTCXEgress} {
			res, err := link.QueryPrograms(link.QueryOptions{Target: a.Index, Attach: typ})
			switch {
			case err == nil:
				all = append(all, chain("tcx "+string(dir), a.Name, res.Programs)...)
			case !errors.Is(err, ebpf.ErrNotSupported) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL):
				errs = append(errs, fmt.Errorf("list tcx programs of %s: %w", a.Name, err))
			}
			filters, err := place{a.Index, dir}.list()
			errs = append(errs, err)
			all = append(all, chain("tc "+string(dir), a.Name, bpfFilters(filters))...)
		}
	}
	return all, errors.Join(errs...)
}

// bpfFilters are the programs among tc filters, which are listed in the order of
// their priorities.
func bpfFilters(filters []netlink.Filter) (programs []link.AttachedProgram) {
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Id > 0 {
			programs = append(programs, link.AttachedProgram{ID: ebpf.ProgramID(b.Id)})
		}
	}
	return programs
}
