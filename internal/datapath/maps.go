// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

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
		if errors.Is(err, fs.ErrNotExist) && needed[name] == nil {
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

// openOrCreateMaps adopts the pinned maps and makes the missing ones, with
// sizes where given. A pinned map keeps its size: its content is in use.
func (d *Datapath) openOrCreateMaps(sizes map[string]uint32) error {
	specs, err := mapSpecs(d.opts.Packet != nil)
	if err != nil {
		return err
	}
	for name := range sizes {
		if specs[name] == nil {
			return fmt.Errorf("size of map %s: there is no such map", name)
		}
	}
	for name, spec := range specs {
		if size := sizes[name]; size != 0 {
			spec.MaxEntries = size
		}
		m, err := d.openOrCreateMap(filepath.Join(d.pins.maps(), name), spec)
		if err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		d.maps[name] = m
	}
	return nil
}

func (d *Datapath) openOrCreateMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return createMap(path, spec)
	case err != nil:
		return nil, fmt.Errorf("open pin: %w", err)
	}
	if m.MaxEntries() != spec.MaxEntries {
		d.log.Warn("a pinned map keeps its size; to change it, run `beeline cleanup` first",
			"map", spec.Name, "entries", m.MaxEntries(), "configured", spec.MaxEntries)
		spec.MaxEntries = m.MaxEntries()
	}
	if err := spec.Compatible(m); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("pinned by an incompatible Beeline: %w", err)
	}
	return m, nil
}

func createMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
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
