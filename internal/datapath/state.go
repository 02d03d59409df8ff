// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Attachment is what the kernel says about one of our hooks.
type Attachment struct {
	// Program is the name under which program and link are pinned.
	Program string
	// ID, Tag and LoadedAt describe the program that runs there.
	ID       uint32
	Tag      string
	LoadedAt time.Time
	// CgroupID is the inode of the cgroup; 0 if the cgroup is gone and nobody
	// is served.
	CgroupID uint64
}

// Attachments reads the pinned links, also while no agent runs. A hook that
// should be there and is not is an error of its own in the joined error.
func Attachments(p Pins) ([]Attachment, error) {
	spec, err := loadSock()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	var all []Attachment
	var errs []error
	for _, name := range sortedKeys(spec.Programs) {
		a, err := attachment(filepath.Join(p.links(), name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if a.CgroupID == 0 {
			errs = append(errs, fmt.Errorf("%s: its cgroup is gone", name))
		}
		all = append(all, a)
	}
	return all, errors.Join(errs...)
}

func attachment(path string) (Attachment, error) {
	a := Attachment{Program: filepath.Base(path)}
	info, err := pinnedLinkInfo(path)
	if err != nil {
		return a, err
	}
	a.ID = uint32(info.Program)
	if cg := info.Cgroup(); cg != nil {
		a.CgroupID = cg.CgroupId
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return a, fmt.Errorf("%s: program %d: %w", a.Program, info.Program, err)
	}
	defer func() { _ = prog.Close() }()
	pi, err := prog.Info()
	if err != nil {
		return a, fmt.Errorf("%s: program %d: %w", a.Program, info.Program, err)
	}
	a.Tag = pi.Tag
	if since, ok := pi.LoadTime(); ok {
		a.LoadedAt = bootTime().Add(since)
	}
	return a, nil
}

// bootTime is when CLOCK_BOOTTIME was zero.
func bootTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}

// Check reports what is wrong with the hooks: a link that was detached or
// replaced by hand, or a cgroup that is gone (pains B10, B20).
func (d *Datapath) Check() error {
	want, err := cgroupID(d.cgroup)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range sortedKeys(d.links) {
		id, err := linkCgroup(d.links[name])
		pinned, pinErr := exists(filepath.Join(d.pins.links(), name))
		switch {
		case pinErr != nil || !pinned:
			errs = append(errs, fmt.Errorf("%s: its pin in %s is gone: it would end with this agent", name, d.pins))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		case id != want:
			errs = append(errs, fmt.Errorf("%s: not attached to %s any more", name, d.opts.CgroupRoot))
		}
	}
	return errors.Join(errs...)
}

// Cleanup detaches the programs and removes every map and pin. It refuses
// while an agent runs, because that agent would work on orphaned maps.
func Cleanup(p Pins) error {
	return p.clean((Pins).removeAll)
}

// Leave does the same, but leaves the notes: the next agent is to know why there
// is nothing else.
func Leave(p Pins) error {
	return p.clean((Pins).removeAllButNotes)
}

func (p Pins) clean(unpin func(Pins) error) error {
	if there, err := exists(p.root); err != nil || !there {
		return err
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	links, err := filepath.Glob(filepath.Join(p.root, "v*", "links", "*"))
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	errs := []error{p.detachDevices()}
	for _, path := range links {
		errs = append(errs, detach(path))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return unpin(p)
}

// detach ends a link now; another process that still holds it open would
// otherwise keep it alive after the pin is gone.
func detach(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return fmt.Errorf("detach %s: %w", filepath.Base(path), err)
	}
	defer func() { _ = l.Close() }()
	if err := l.Detach(); err != nil {
		return fmt.Errorf("detach %s: %w", filepath.Base(path), err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("unpin %s: %w", filepath.Base(path), err)
	}
	return nil
}
