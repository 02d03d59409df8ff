// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Handover says which flows are not ours while the node is handed over from
// another proxy or back to it. In the zero value all are.
type Handover struct {
	// KeepFlows leaves to netfilter the flows in abi.MapKeptFlows, and packets
	// in the middle of connections without a flow of ours.
	KeepFlows bool
	// RefuseNew begins no flow; those that there are go on.
	RefuseNew bool
}

// SetHandover replaces the socket programs by others that do so. The packet
// path follows with Devices.SetHandover.
func (d *Datapath) SetHandover(h Handover) error {
	d.opts.Handover = h
	return d.attach()
}

// SetHandover replaces the programs on every device. One whose device is gone is
// no error.
func (v *Devices) SetHandover(h Handover) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.opts.Handover = h
	var errs []error
	for _, p := range v.programs {
		errs = append(errs, p.Close())
	}
	clear(v.programs)
	again := slices.Collect(maps.Values(v.have))
	clear(v.have)
	for _, dev := range again {
		if err := v.attach(dev); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("device %s: %w", dev.Name, err))
		}
	}
	return errors.Join(errs...)
}

// notesMap is the pin of the notes, beside the tables.
const notesMap = "notes"

// Note is a place for a short text that agents leave to one another, and to the
// command line. It lasts as long as the tables do: until `beeline cleanup` or the
// end of this boot, as flows do.
type Note uint32

// The notes.
const (
	// NoteWish is what somebody on this node wants: the command line writes it.
	NoteWish Note = iota
	// NoteState is how far a handover is: the agent writes it.
	NoteState
	// NoteTraces are what agents have left outside of the BPF file system.
	NoteTraces
	notes
)

// noteSize is the longest note in bytes.
const noteSize = 4096

// ReadNote returns a note; empty if there is none.
func (p Pins) ReadNote(n Note) ([]byte, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.maps(), notesMap), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open notes: %w", err)
	}
	defer func() { _ = m.Close() }()
	text := make([]byte, noteSize)
	if err := m.Lookup(uint32(n), &text); err != nil {
		return nil, fmt.Errorf("read note: %w", err)
	}
	return bytes.TrimRight(text, "\x00"), nil
}

// WriteNote replaces a note. The folder must be there, which an agent has made.
func (p Pins) WriteNote(n Note, text []byte) error {
	if len(text) >= noteSize {
		return fmt.Errorf("write note: %d bytes are too many", len(text))
	}
	path := filepath.Join(p.maps(), notesMap)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		m, err = createMap(path, &ebpf.MapSpec{
			Name: notesMap, Type: ebpf.Array, KeySize: 4, ValueSize: noteSize, MaxEntries: uint32(notes),
		})
	}
	if err != nil {
		return fmt.Errorf("open notes: %w", err)
	}
	defer func() { _ = m.Close() }()
	full := make([]byte, noteSize)
	copy(full, text)
	if err := m.Put(uint32(n), full); err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	return nil
}

// removeAllButNotes unpins everything else.
func (p Pins) removeAllButNotes() error {
	notes := filepath.Join(p.maps(), notesMap)
	var errs []error
	for _, pattern := range []string{"v*/*/*", "v*/*", "*"} {
		found, err := filepath.Glob(filepath.Join(p.root, pattern))
		if err != nil {
			return fmt.Errorf("list pins: %w", err)
		}
		for _, path := range found {
			if path != notes && !strings.HasPrefix(notes, path+"/") {
				errs = append(errs, os.Remove(path))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}
