// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/beeline-net/beeline/internal/abi"
)

// rodata is the kernel's name of the map that holds a program's constants.
const rodata = ".rodata"

// FlowTimeouts returns how long the packet programs in the kernel keep silent
// flows, by abi.FlowTimeout; the defaults where there are none, or none that
// this version understands.
func FlowTimeouts(p Pins) (timeouts [abi.Timeouts]time.Duration, err error) {
	spec, err := loadTc()
	if err != nil {
		return timeouts, fmt.Errorf("read packet programs: %w", err)
	}
	var v tcVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return timeouts, fmt.Errorf("find settings: %w", err)
	}
	var secs [abi.Timeouts]uint32
	if err := v.ConfigFlowTimeoutSecs.Get(&secs); err != nil {
		return timeouts, fmt.Errorf("default timeouts: %w", err)
	}
	if live := liveConstants(p, spec.Maps[rodata], "config_flow_timeout_secs"); len(live) == len(secs)*4 {
		for i := range secs {
			secs[i] = binary.NativeEndian.Uint32(live[i*4:])
		}
	}
	for i, s := range secs {
		timeouts[i] = time.Duration(s) * time.Second
	}
	return timeouts, nil
}

// liveConstants reads a constant of a packet program in the kernel; nil if there
// is none of the same layout.
func liveConstants(p Pins, like *ebpf.MapSpec, name string) []byte {
	links, err := filepath.Glob(filepath.Join(p.devices(), "*"))
	if err != nil || like == nil {
		return nil
	}
	section, ok := like.Value.(*btf.Datasec)
	if !ok {
		return nil
	}
	for _, v := range section.Vars {
		variable, ok := v.Type.(*btf.Var)
		if !ok || variable.Name != name {
			continue
		}
		for _, path := range links {
			info, err := pinnedLinkInfo(path)
			if err != nil {
				continue
			}
			if data := constantsOf(info.Program, like.ValueSize); data != nil {
				return data[v.Offset : v.Offset+v.Size]
			}
		}
	}
	return nil
}

// constantsOf reads a program's constants, if they have that size.
func constantsOf(id ebpf.ProgramID, size uint32) []byte {
	prog, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil
	}
	defer func() { _ = prog.Close() }()
	info, err := prog.Info()
	if err != nil {
		return nil
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			continue
		}
		info, err := m.Info()
		var data []byte
		if err == nil && info.Name == rodata && m.ValueSize() == size {
			data, err = m.LookupBytes(uint32(0))
		}
		_ = m.Close()
		if err == nil && data != nil {
			return data
		}
	}
	return nil
}
