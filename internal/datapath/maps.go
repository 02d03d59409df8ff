// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// mapSpecs are the definitions of the maps that programs use: those of the
// sockets, and those of the packet path only where that is on, because its flow
// table takes memory whether it is used or not.
func mapSpecs(packet bool) (map[string]*ebpf.MapSpec, error) {
	specs, err := abi.MapSpecs()
	if err != nil {
		return nil, err
	}
	sock, err := loadSock()
	if err != nil {
		return nil, fmt.Errorf("read programs: %w", err)
	}
	maps.DeleteFunc(specs, func(name string, _ *ebpf.MapSpec) bool { return !packet && sock.Maps[name] == nil })
	return specs, nil
}

// OpenMaps opens the pinned maps. The keys are the names in package abi; those
// of the packet path are missing where it is off. It returns fs.ErrNotExist if
// Beeline has never run here. Who only reads opens them like this too: the
// kernel does not let a map that was opened for reading only be mapped into
// memory (bpf_map_mmap wants VM_SHARED).
func OpenMaps(p Pins) (map[string]*ebpf.Map, error) {
	all, err := mapSpecs(true)
	if err != nil {
		return nil, err
	}
	needed, err := mapSpecs(false)
	if err != nil {
		return nil, err
	}
	opened := map[string]*ebpf.Map{}
	for name := range all {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.maps(), name), nil)
		if errors.Is(err, fs.ErrNotExist) && (needed[name] == nil || slices.Contains(watchMaps(), name)) {
			continue
		}
		if err != nil {
			CloseMaps(opened)
			return nil, fmt.Errorf("open map %s: %w", name, err)
		}
		opened[name] = m
	}
	return opened, nil
}

// watchMaps are those that only people look at. An agent of an earlier version
// has not made them.
func watchMaps() []string {
	return []string{abi.MapListeners, abi.MapEventRings, abi.MapServiceCounts, abi.MapServiceRefused}
}

// openOrCreateMaps adopts the maps that are in use and makes the missing ones,
// with sizes where given. One of another size or an older layout moves, if what
// it holds can be taken over; otherwise it stays what it is.
func (d *Datapath) openOrCreateMaps(sizes map[string]uint32) error {
	specs, err := mapSpecs(d.opts.Packet != nil)
	if err != nil {
		return err
	}
	for name, size := range sizes {
		if specs[name] == nil {
			return fmt.Errorf("size of map %s: there is no such map", name)
		}
		if size != 0 {
			specs[name].MaxEntries = size
		}
	}
	staged, err := d.pins.staged()
	if err != nil {
		return err
	}
	if err := d.placeMaps(specs, staged, false); err != nil {
		return err
	}
	if d.moving == nil || staged != nil {
		return nil
	}
	err = d.carry()
	if err == nil {
		return nil
	}
	d.log.Warn("maps keep their sizes", "why", err)
	if err := d.abandonMove(); err != nil {
		return err
	}
	if err := d.placeMaps(specs, nil, true); err != nil || d.moving == nil {
		return err
	}
	if err := d.carry(); err != nil {
		return errors.Join(fmt.Errorf("take over the maps of an older Beeline: %w", err), d.abandonMove())
	}
	return nil
}

// carry fills the new maps, if there are programs for them: packet programs that do
// not load would leave those of the last agent on the devices, with maps that nobody
// writes any more.
func (d *Datapath) carry() error {
	if d.opts.Packet != nil {
		devices, err := d.Devices()
		if err == nil {
			err = errors.Join(devices.Load(), devices.Close())
		}
		if err != nil {
			return err
		}
	}
	return d.opts.Carrier.Carry(d.moving.old, d.maps, false)
}

// placeMaps opens all maps, and makes those that are missing or have to move.
// keep: sizes are not worth a move.
func (d *Datapath) placeMaps(specs map[string]*ebpf.MapSpec, staged map[string]*ebpf.Map, keep bool) error {
	moving := staged != nil
	keep = keep || moving // a move that is under way has been carried: nothing may join it
	old := map[string]*ebpf.Map{}
	for name, spec := range specs {
		now, older, err := d.pins.current(name)
		if err != nil {
			return fmt.Errorf("map %s: open pin: %w", name, err)
		}
		if now != nil {
			old[name] = now
		}
		next, err := d.placeMap(spec, now, older, staged[name], keep)
		if err != nil {
			CloseMaps(onlyIn(old, d.maps))
			return fmt.Errorf("map %s: %w", name, err)
		}
		d.maps[name] = next
		moving = moving || older || now != nil && next != now
	}
	if moving {
		d.moving = &move{old}
	}
	return nil
}

// placeMap returns the map to use: the one there is, or one that takes its
// place.
func (d *Datapath) placeMap(spec *ebpf.MapSpec, now *ebpf.Map, older bool, staged *ebpf.Map, keep bool) (*ebpf.Map, error) {
	spec = spec.Copy()
	switch {
	case staged != nil:
		spec.MaxEntries = staged.MaxEntries() // the next start may change it
		return staged, compatible(spec, staged)
	case now == nil:
		return createMap(filepath.Join(d.pins.maps(), spec.Name), spec)
	}
	want := spec.MaxEntries
	if want != now.MaxEntries() && (keep || d.opts.Carrier == nil || !d.opts.Carrier.CanCarry(spec.Name)) {
		d.log.Warn("a map that is in use keeps its size; it takes another with the node's next boot, or after `beeline cleanup`",
			"map", spec.Name, "entries", now.MaxEntries(), "configured", want)
		want = now.MaxEntries()
	}
	spec.MaxEntries = now.MaxEntries()
	err := compatible(spec, now)
	switch {
	case !older && err != nil:
		return nil, err
	case !older && want == now.MaxEntries():
		return now, nil
	case err == nil && want == now.MaxEntries():
		return d.pins.stage(spec.Name, nil, now)
	case d.opts.Carrier == nil:
		return nil, errors.New("nobody knows how to take over what an older Beeline has left")
	}
	d.log.Info("a map moves to another of a new size", "map", spec.Name, "entries", now.MaxEntries(), "new", want)
	spec.MaxEntries = want
	return d.pins.stage(spec.Name, spec, nil)
}

func compatible(spec *ebpf.MapSpec, m *ebpf.Map) error {
	if err := spec.Compatible(m); err != nil {
		return fmt.Errorf("pinned by an incompatible Beeline: %w", err)
	}
	return nil
}

// abandonMove forgets a move that no program knows of.
func (d *Datapath) abandonMove() error {
	CloseMaps(onlyIn(d.maps, d.moving.old))
	CloseMaps(d.moving.old)
	d.maps, d.moving = map[string]*ebpf.Map{}, nil
	if err := os.RemoveAll(d.pins.next()); err != nil {
		return fmt.Errorf("remove folder of new maps: %w", err)
	}
	return nil
}

// openOrCreateMap opens a map of a fixed size, or makes it.
func (d *Datapath) openOrCreateMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return createMap(path, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("open pin: %w", err)
	}
	if err := compatible(spec, m); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func createMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create: %w", explain(err))
	}
	if err := m.Pin(path); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("pin: %w", err)
	}
	return m, nil
}

// CloseMaps closes what OpenMaps opened.
func CloseMaps(opened map[string]*ebpf.Map) {
	for _, m := range opened {
		_ = m.Close()
	}
}

// removeIfExists is os.Remove for what may already be gone.
func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
