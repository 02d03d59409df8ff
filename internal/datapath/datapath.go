// SPDX-License-Identifier: Apache-2.0

// Package datapath puts the programs into the kernel and keeps them there:
// load, pin, attach to the cgroup, replace in place, take away. It does not
// know what the maps mean.
//
// Every attachment is a pinned bpf_link, so traffic goes on while no agent
// runs, and a new agent swaps the program behind a link with one call.
package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// programPrefix starts the name of every program of ours.
const programPrefix = "beeline_"

// Options say where and how to attach.
type Options struct {
	// BPFFS is the mount point of a BPF filesystem.
	BPFFS string
	// CgroupRoot is the cgroup v2 folder whose processes are served.
	CgroupRoot string
	// MapSizes overrides how many entries a map has, by name in package abi.
	MapSizes map[string]uint32
	// UDPTimeout and UDPStreamTimeout are how long a silent UDP socket keeps its
	// backend that has not answered, or has; in whole seconds. 0 leaves the
	// kernel's defaults of nf_conntrack.
	UDPTimeout, UDPStreamTimeout time.Duration
	// RefuseUnknownPorts: a VIP's unknown port is refused, not passed on.
	RefuseUnknownPorts bool
	// TCPPeerNames: getpeername() on a TCP socket tells the Service's address,
	// at the price of a record per connection (ADR 0003).
	TCPPeerNames bool
	// ServiceCounts: what each Service has had is counted.
	ServiceCounts bool
	// NodeOnly leaves all sockets alone that are not in the network namespace
	// that Open is called in, the node's.
	NodeOnly bool
	// LeaveKernelSockets leaves the kernel's own TCP sockets alone.
	LeaveKernelSockets bool
	// NoIPv6: this host has none, so that hooks of IPv6 may be missing.
	NoIPv6 bool
	// OptOuts: cgroups may be left alone, see SetOptOuts.
	OptOuts bool
	// Packet are the settings of the packet path; nil: there is none.
	Packet *PacketOptions
	// Handover says which flows are not ours; SetHandover changes it later.
	Handover Handover
	// Carrier moves maps to other sizes and layouts; nil: a map that is in use
	// keeps its size.
	Carrier Carrier
	// Log gets what an operator should know.
	Log *slog.Logger
}

// Datapath is the part of the kernel that this agent owns.
type Datapath struct {
	pins   Pins
	opts   Options
	log    *slog.Logger
	lock   *os.File
	cgroup *os.File
	maps   map[string]*ebpf.Map
	links  map[string]link.Link
	// moving is what maps take the place of others; nil if none do.
	moving *move
}

// Open is Prepare and Attach.
func Open(opts Options) (*Datapath, error) { return open(NewPins(opts.BPFFS), opts) }

func open(pins Pins, opts Options) (*Datapath, error) {
	d, err := prepare(pins, opts)
	if err != nil {
		return nil, err
	}
	if err := d.Attach(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// Prepare takes the pin folder and opens or makes the maps. It fails without
// touching anything if another agent runs here or serves the same cgroup.
func Prepare(opts Options) (*Datapath, error) { return prepare(NewPins(opts.BPFFS), opts) }

func prepare(pins Pins, opts Options) (_ *Datapath, err error) {
	d := &Datapath{
		pins:  pins,
		opts:  opts,
		log:   opts.Log,
		maps:  map[string]*ebpf.Map{},
		links: map[string]link.Link{},
	}
	defer func() {
		if err != nil {
			_ = d.Close()
		}
	}()
	if err := errors.Join(requireKernel(), requireCapabilities()); err != nil {
		return nil, err
	}
	if d.cgroup, err = openCgroup(opts.CgroupRoot); err != nil {
		return nil, err
	}
	if err := d.pins.verify(); err != nil {
		return nil, err
	}
	// Two agents with a BPF filesystem each would not see one another's
	// programs before both have attached theirs.
	if err := lock(d.cgroup); err != nil {
		return nil, err
	}
	if err := d.awaitNoForeign(); err != nil {
		return nil, err
	}
	if err := d.pins.create(); err != nil {
		return nil, err
	}
	if d.lock, err = d.pins.lock(); err != nil {
		return nil, err
	}
	if err := d.pins.refuseNewer(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil { // the version before is to find what it has left
			_ = d.pins.takeBack()
		}
	}()
	if err := d.pins.inherit(); err != nil {
		return nil, err
	}
	if opts.Packet == nil {
		if err := d.pins.removePacketPath(); err != nil {
			return nil, err
		}
	}
	return d, d.openOrCreateMaps(opts.MapSizes)
}

// Attach loads and attaches the socket programs, replacing those of an earlier
// agent in place. Devices may load the packet path's at the same time.
func (d *Datapath) Attach() error {
	if err := d.attach(); err != nil {
		return errors.Join(err, d.pins.takeBack())
	}
	if d.opts.Packet != nil { // its programs are still those of the last agent
		return nil
	}
	return d.settle()
}

// Maps returns the open maps by their name in package abi. They belong to the
// Datapath and are closed with it.
func (d *Datapath) Maps() map[string]*ebpf.Map { return d.maps }

// Close gives up this process's hold. What is pinned stays and goes on working.
func (d *Datapath) Close() error {
	if d.moving != nil {
		CloseMaps(onlyIn(d.moving.old, d.maps))
	}
	CloseMaps(d.maps)
	for _, l := range d.links {
		_ = l.Close()
	}
	for _, f := range []*os.File{d.cgroup, d.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
	return nil
}

func openCgroup(path string) (*os.File, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("cgroup root %s: %w", path, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("cgroup root %s is not in a cgroup v2 hierarchy: name one with --cgroup-root", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cgroup root: %w", err)
	}
	return f, nil
}

// attach loads the programs against the pinned maps and puts each behind its
// link.
func (d *Datapath) attach() error {
	spec, err := loadSock()
	if err != nil {
		return fmt.Errorf("read programs: %w", err)
	}
	if err := d.configure(spec); err != nil {
		return err
	}
	coll, err := d.load(spec)
	if err != nil {
		return fmt.Errorf("load programs: %w", explain(err))
	}
	defer coll.Close()
	d.catchUp() // the less there is to do afterwards, the better
	// All at once, and what makes records beside what removes them: a socket
	// that comes and goes in between may leave its record in maps that move.
	for _, name := range recordsFirst(sortedKeys(coll.Programs)) {
		typ := spec.Programs[name].AttachType
		err := d.attachOne(name, coll.Programs[name], typ)
		switch {
		case err == nil:
		case d.opts.NoIPv6 && ofIPv6(typ):
			d.log.Warn("this host has no IPv6, and one of its hooks is missing", "program", name, "err", err)
		default:
			return fmt.Errorf("attach %s to %s: %w", name, d.opts.CgroupRoot, explain(err))
		}
	}
	d.catchUp()
	for _, name := range sortedKeys(coll.Programs) {
		if d.links[name] == nil {
			continue // a hook of IPv6 that there is not
		}
		if err := errors.Join(d.pins.takeLink(name), d.pinProgram(name, coll.Programs[name])); err != nil {
			return err
		}
	}
	return d.pins.sweepLinks()
}

// recordsFirst puts the programs first that make and remove records of
// connections.
func recordsFirst(names []string) []string {
	last := func(name string) int {
		if strings.Contains(name, "_connect") || strings.Contains(name, "_release") {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(names, func(a, b string) int { return last(a) - last(b) })
	return names
}

// load loads all programs; where the host has no IPv6 and the kernel refuses
// one, those of IPv4 (pains A42).
func (d *Datapath) load(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	opts := ebpf.CollectionOptions{MapReplacements: used(spec, d.maps)}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err == nil || !d.opts.NoIPv6 {
		return coll, err
	}
	d.log.Warn("this host has no IPv6, and the programs of both families do not load: going on with those of IPv4", "err", err)
	maps.DeleteFunc(spec.Programs, func(_ string, p *ebpf.ProgramSpec) bool { return ofIPv6(p.AttachType) })
	return ebpf.NewCollectionWithOptions(spec, opts)
}

// ofIPv6 tells whether a hook sees IPv6 sockets only.
func ofIPv6(typ ebpf.AttachType) bool {
	switch typ {
	case ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet6GetPeername:
		return true
	}
	return false
}

// explain adds what to do to the errors that a user can do something about.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		return fmt.Errorf("the kernel's verifier refuses (Beeline needs Linux 6.1 or newer): %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w (Beeline needs Linux 6.1 or newer, with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF)", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (the maps' memory counts for the agent's cgroup: raise its limit, or lower --max-backends, --max-flows and the like)", err)
	}
	return err
}

func (d *Datapath) configure(spec *ebpf.CollectionSpec) error {
	for name, m := range d.maps {
		if s := spec.Maps[name]; s != nil {
			s.MaxEntries = m.MaxEntries()
		}
	}
	var vars sockVariableSpecs
	if err := spec.Assign(&vars); err != nil {
		return fmt.Errorf("find settings: %w", err)
	}
	netns, err := netnsCookie()
	return errors.Join(err,
		vars.ConfigNodePorts.Set(flag(d.opts.Packet != nil)),
		vars.ConfigNodeNetns.Set(netns),
		vars.ConfigRefuseUnknownPorts.Set(flag(d.opts.RefuseUnknownPorts)),
		vars.ConfigTcpPeerNames.Set(flag(d.opts.TCPPeerNames)),
		vars.ConfigKeepFlows.Set(flag(d.opts.Handover.KeepFlows)),
		vars.ConfigRefuseNew.Set(flag(d.opts.Handover.RefuseNew)),
		setUnlessZero(vars.ConfigUdpTimeoutSecs, uint32(d.opts.UDPTimeout/time.Second)),
		setUnlessZero(vars.ConfigUdpStreamTimeoutSecs, uint32(d.opts.UDPStreamTimeout/time.Second)),
		vars.ConfigServiceCounts.Set(flag(d.opts.ServiceCounts)),
		vars.ConfigLeaveKernelSockets.Set(flag(d.opts.LeaveKernelSockets)),
		vars.ConfigOptOut.Set(flag(d.opts.OptOuts)),
		vars.ConfigNodeOnly.Set(flag(d.opts.NodeOnly)),
	)
}

// netnsCookie tells the network namespace of this thread, which is the node's,
// from those of pods.
func netnsCookie() (cookie uint64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		err = errors.Join(err, unix.Close(fd))
	}
	if err != nil {
		return 0, fmt.Errorf("network namespace's cookie: %w", err)
	}
	return cookie, nil
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

func (d *Datapath) attachOne(name string, prog *ebpf.Program, typ ebpf.AttachType) error {
	l, err := d.linkOf(name)
	if err != nil {
		return err
	}
	if l == nil {
		l, err = d.newLink(name, prog, typ)
	} else if err = l.Update(prog); err != nil {
		_ = l.Close()
		delete(d.links, name)
		err = fmt.Errorf("replace program: %w", err)
	}
	if err != nil {
		return err
	}
	d.links[name] = l
	return nil
}

// linkOf returns a program's link, this agent's or that of an earlier one; nil
// if there is none.
func (d *Datapath) linkOf(name string) (link.Link, error) {
	if l := d.links[name]; l != nil {
		return l, nil
	}
	return d.adoptLink(name)
}

// adoptLink opens the link of an earlier agent, or returns nil if there is
// none for this cgroup. A link whose cgroup is another one, or has been
// removed, serves nobody here: the new link's pin takes the place of its pin.
func (d *Datapath) adoptLink(name string) (link.Link, error) {
	path := filepath.Join(d.pins.links(), name)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		if l, err = d.pins.inheritedLink(name); l == nil && err == nil {
			return nil, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	id, err := linkCgroup(l)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	want, err := cgroupID(d.cgroup)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	if id == want {
		return l, nil
	}
	d.log.Warn("a pinned link serves another cgroup or one that is gone; attaching anew",
		"program", name, "cgroup", d.opts.CgroupRoot)
	return nil, l.Close()
}

// newSuffix ends the name of a pin that is about to take another's place.
const newSuffix = "_new"

// sweepLinks removes what an agent has left that died before a link took its
// place: it may serve another cgroup.
func (p Pins) sweepLinks() error {
	left, err := filepath.Glob(filepath.Join(p.links(), "*"+newSuffix))
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	var errs []error
	for _, path := range left {
		errs = append(errs, detach(path))
	}
	return errors.Join(errs...)
}

// newLink attaches and pins. rename(2) ends an older link of the same name only
// when the new one works.
func (d *Datapath) newLink(name string, prog *ebpf.Program, typ ebpf.AttachType) (link.Link, error) {
	l, err := link.AttachCgroup(link.CgroupOptions{Path: d.opts.CgroupRoot, Attach: typ, Program: prog})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(d.pins.links(), name)
	temp := path + newSuffix
	if err := errors.Join(removeIfExists(temp), l.Pin(temp)); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("pin link: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("pin link: %w", err)
	}
	return l, nil
}

// pinProgram pins beside the links, so that a program can be found by name.
// rename(2) replaces an older pin in one step.
func (d *Datapath) pinProgram(name string, prog *ebpf.Program) error {
	path := filepath.Join(d.pins.progs(), name)
	temp := path + newSuffix
	if err := removeIfExists(temp); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	if err := prog.Pin(temp); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("pin program: %w", err)
	}
	return nil
}

// awaitNoForeign is refuseForeign, but waits a moment: what an agent had attached
// and not pinned yet when it died ends when the kernel gets round to it.
func (d *Datapath) awaitNoForeign() (err error) {
	for range 50 {
		if err = d.refuseForeign(); !errors.Is(err, errForeign) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// errForeign is the error of refuseForeign if there is another Beeline.
var errForeign = errors.New("served by another Beeline")

// refuseForeign looks for Beeline programs on the cgroup whose links are not
// pinned in our folder: two balancers on one cgroup would each translate with
// tables of their own.
func (d *Datapath) refuseForeign() error {
	own, err := ownPrograms(d.pins)
	if err != nil {
		return err
	}
	for _, typ := range attachTypes() {
		res, err := link.QueryPrograms(link.QueryOptions{Target: int(d.cgroup.Fd()), Attach: typ})
		if err != nil {
			return fmt.Errorf("list programs on %s: %w", d.opts.CgroupRoot, err)
		}
		for _, p := range res.Programs {
			if own[p.ID] {
				continue
			}
			if name := programName(p.ID); strings.HasPrefix(name, programPrefix) {
				return fmt.Errorf("cgroup %s is already %w (program %s, id %d) that is not pinned in %s: stop that agent, then run `beeline cleanup` with its --bpffs",
					d.opts.CgroupRoot, errForeign, name, p.ID, d.pins)
			}
		}
	}
	return nil
}

// attachTypes lists the hooks in use.
func attachTypes() []ebpf.AttachType {
	return []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCgroupInetSockRelease,
	}
}

// ownPrograms are the ids of the programs behind our pinned links, those of an
// older layout among them.
func ownPrograms(p Pins) (map[ebpf.ProgramID]bool, error) {
	own := map[ebpf.ProgramID]bool{}
	versions, err := p.layouts()
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if err := addPrograms(own, Pins{root: p.root, version: v}); err != nil {
			return nil, err
		}
	}
	return own, nil
}

func addPrograms(own map[ebpf.ProgramID]bool, p Pins) error {
	entries, err := os.ReadDir(p.links())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, e := range entries {
		info, err := pinnedLinkInfo(filepath.Join(p.links(), e.Name()))
		if err != nil {
			return err
		}
		own[info.Program] = true
	}
	return nil
}

func pinnedLinkInfo(path string) (*link.Info, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned link %s: %w", filepath.Base(path), err)
	}
	defer func() { _ = l.Close() }()
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", filepath.Base(path), err)
	}
	return info, nil
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer func() { _ = p.Close() }()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// linkCgroup returns the id of the cgroup a link is attached to; 0 if that
// cgroup is gone.
func linkCgroup(l link.Link) (uint64, error) {
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("link: %w", err)
	}
	cg := info.Cgroup()
	if cg == nil {
		return 0, fmt.Errorf("link is of type %v, not cgroup", info.Type)
	}
	return cg.CgroupId, nil
}

// cgroupID is a cgroup's number in the kernel: the inode of its folder.
func cgroupID(dir *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", dir.Name(), err)
	}
	return st.Ino, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
