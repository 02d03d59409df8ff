// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// eye is a set of attached programs. It has no pins: it ends with its process.
type eye struct {
	coll  *ebpf.Collection
	links []link.Link
}

func (e *eye) close() error {
	var errs []error
	for _, l := range e.links {
		errs = append(errs, l.Close())
	}
	if e.coll != nil {
		e.coll.Close()
	}
	return errors.Join(errs...)
}

// load loads some of the programs, after edit has seen them.
func (c *Capture) load(egress bool, names []string, edit func(*ebpf.ProgramSpec)) (*eye, error) {
	spec, err := loadCapture()
	if err != nil {
		return nil, fmt.Errorf("read programs of the capture: %w", err)
	}
	if err := c.configure(spec, egress); err != nil {
		return nil, fmt.Errorf("settings of the capture: %w", err)
	}
	stdmaps.DeleteFunc(spec.Programs, func(name string, p *ebpf.ProgramSpec) bool {
		edit(p)
		return !slices.Contains(names, name)
	})
	for name, m := range c.shared {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: c.shared})
	if err != nil {
		return nil, fmt.Errorf("load programs of the capture: %w", err)
	}
	return &eye{coll: coll}, nil
}

// attach attaches the programs in order.
func (e *eye) attach(names []string, how func(name string) (link.Link, error)) (*eye, error) {
	for _, name := range names {
		l, err := how(name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", name, err), e.close())
		}
		e.links = append(e.links, l)
	}
	return e, nil
}

func (e *eye) trace(name string) (link.Link, error) {
	return link.AttachTracing(link.TracingOptions{Program: e.coll.Programs[name]})
}

// on looks at a program from its first instruction and its last.
func (c *Capture) on(t Target) (*eye, error) {
	target, err := ebpf.NewProgramFromID(t.ID)
	if err != nil {
		return nil, err
	}
	defer func() { _ = target.Close() }()
	function, err := mainFunction(target)
	if err != nil {
		return nil, err
	}
	// The end first: it ignores a packet whose beginning it has not seen.
	names := []string{captureProgCaptureAfter, captureProgCaptureBefore}
	e, err := c.load(t.Egress, names, func(p *ebpf.ProgramSpec) {
		if p.AttachType == ebpf.AttachTraceFEntry || p.AttachType == ebpf.AttachTraceFExit {
			p.AttachTarget, p.AttachTo = target, function
		}
	})
	if err != nil {
		return nil, err
	}
	return e.attach(names, e.trace)
}

// mainFunction is what the function is called that a program begins with.
func mainFunction(p *ebpf.Program) (string, error) {
	info, err := p.Info()
	if err != nil {
		return "", err
	}
	functions, err := info.FuncInfos()
	if err != nil || len(functions) == 0 {
		return "", fmt.Errorf("the kernel does not say what its functions are called: %w", errors.Join(err, ebpf.ErrNotSupported))
	}
	return functions[0].Func.Name, nil
}

// around looks at a device right before the program and right behind it. One
// pair of programs does for all devices.
func (c *Capture) around(t Target) (_ *eye, err error) {
	names := []string{captureProgCaptureBehind, captureProgCaptureInFront}
	pair := c.pairs[t.Egress]
	if pair == nil {
		if pair, err = c.load(t.Egress, names, func(*ebpf.ProgramSpec) {}); err != nil {
			return nil, err
		}
		c.pairs[t.Egress] = pair
	}
	at := ebpf.AttachTCXIngress
	if t.Egress {
		at = ebpf.AttachTCXEgress
	}
	return (&eye{}).attach(names, func(name string) (link.Link, error) {
		anchor := link.BeforeProgramByID(t.ID)
		if name == captureProgCaptureBehind {
			anchor = link.AfterProgramByID(t.ID)
		}
		return link.AttachTCX(link.TCXOptions{Interface: t.Ifindex, Program: pair.coll.Programs[name], Attach: at, Anchor: anchor})
	})
}

// tracepoints are where a packet is seen that its program has dropped or
// redirected.
func (c *Capture) tracepoints() (*eye, error) {
	names := []string{captureProgCaptureFreed, captureProgCaptureSent, captureProgCaptureTurned}
	e, err := c.load(false, names, func(*ebpf.ProgramSpec) {})
	if err != nil {
		return nil, err
	}
	return e.attach(names, e.trace)
}
