// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// tcx attaches by bpf_link, pinned as "<ifindex>-<direction>".
type tcx struct {
	pins  Pins
	links map[place]link.Link
}

func (*tcx) way() string { return "tcx" }

func newTCX(p Pins) *tcx { return &tcx{p, map[place]link.Link{}} }

// put places a program: behind the link that is there, of this agent or of an
// earlier one, or behind a new one.
func (t *tcx) put(at place, prog *ebpf.Program) error {
	l, err := t.adopt(at)
	if err != nil {
		return err
	}
	if l != nil {
		if err := l.Update(prog); err != nil {
			return fmt.Errorf("replace program: %w", err)
		}
		return t.pinAgain(at)
	}
	if l, err = attachTCX(at, prog); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(t.pins.devices(), 0o700), l.Pin(t.pins.device(at))); err != nil {
		_ = l.Close()
		return fmt.Errorf("pin link: %w", err)
	}
	t.links[at] = l
	return nil
}

// pinAgain pins a link whose pin somebody removed: the kernel would end it with
// this agent.
func (t *tcx) pinAgain(at place) error {
	pinned, err := exists(t.pins.device(at))
	if err != nil || pinned {
		return err
	}
	info, err := t.links[at].Info()
	if err != nil {
		return fmt.Errorf("pin link again: %w", err)
	}
	l, err := link.NewFromID(info.ID) // this one does not take itself for pinned
	if err != nil {
		return fmt.Errorf("pin link again: %w", err)
	}
	if err := errors.Join(os.MkdirAll(t.pins.devices(), 0o700), l.Pin(t.pins.device(at))); err != nil {
		_ = l.Close()
		return fmt.Errorf("pin link again: %w", err)
	}
	_ = t.links[at].Close()
	t.links[at] = l
	return nil
}

func attachTCX(at place, prog *ebpf.Program) (l link.Link, err error) {
	opts := link.TCXOptions{Interface: at.ifindex, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()}
	if at.direction == egress {
		opts.Attach, opts.Anchor = ebpf.AttachTCXEgress, link.Head()
	}
	// A link that was let go a moment ago may hold the place still, because the
	// kernel frees links in the background.
	for range 50 {
		if l, err = link.AttachTCX(opts); !errors.Is(err, unix.EEXIST) {
			return l, err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, err
}

// adopt returns the link at a place, nil if there is none. A pinned link whose
// device is gone has a number that another device may have now.
func (t *tcx) adopt(at place) (link.Link, error) {
	if l := t.links[at]; l != nil {
		if attachedTo(l, at) == nil {
			return l, nil
		}
		_ = l.Close()
		delete(t.links, at)
	}
	path := t.pins.device(at)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link: %w", err)
	}
	if attachedTo(l, at) == nil {
		t.links[at] = l
		return l, nil
	}
	_ = l.Close()
	return nil, removeIfExists(path)
}

func attachedTo(l link.Link, at place) error {
	info, err := l.Info()
	if err != nil {
		return err
	}
	if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != at.ifindex {
		return errNotAttached
	}
	return nil
}

var errNotAttached = errors.New("not attached any more")

func (t *tcx) check(at place) error {
	if t.links[at] == nil {
		return errNotAttached
	}
	pinned, err := exists(t.pins.device(at))
	if err == nil && !pinned {
		err = errNotPinned
	}
	return errors.Join(attachedTo(t.links[at], at), err)
}

var errNotPinned = errors.New("its pin is gone: it would end with this agent")

func (t *tcx) places() (all []place, err error) {
	entries, err := os.ReadDir(t.pins.devices())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pinned links of devices: %w", err)
	}
	for _, e := range entries {
		number, dir, _ := strings.Cut(e.Name(), "-")
		if ifindex, err := strconv.Atoi(number); err == nil {
			all = append(all, place{ifindex, direction(dir)})
		}
	}
	return all, nil
}

// remove ends a link at once, not when the kernel gets round to it: the device
// may be wanted again.
func (t *tcx) remove(at place) error {
	if l := t.links[at]; l != nil {
		_ = l.Close()
		delete(t.links, at)
	}
	path := t.pins.device(at)
	if detach(path) != nil { // its device is gone
		return removeIfExists(path)
	}
	return nil
}

func (t *tcx) program(at place) (ebpf.ProgramID, error) {
	info, err := pinnedLinkInfo(t.pins.device(at))
	if err != nil {
		return 0, err
	}
	if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != at.ifindex {
		return 0, errNotAttached
	}
	return info.Program, nil
}

func (t *tcx) close() error {
	var errs []error
	for _, l := range t.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// devices is where the links of devices are pinned.
func (p Pins) devices() string { return filepath.Join(p.layout(), "devices") }

func (p Pins) device(at place) string {
	return filepath.Join(p.devices(), fmt.Sprintf("%d-%s", at.ifindex, at.direction))
}
