// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"maps"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/lab"
	tables "github.com/beeline-net/beeline/internal/maps"
)

// kernelMaps makes the real maps, not pinned, with the capacities of sizes.
func kernelMaps(t *testing.T) map[string]*ebpf.Map {
	t.Helper()
	lab.RequireRoot(t)
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	specs, err := abi.MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	specs[abi.MapFrontends].MaxEntries = sizes.Frontends
	specs[abi.MapSourceRanges].MaxEntries = sizes.Packet.SourceRanges
	opened := map[string]*ebpf.Map{}
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatalf("make map %s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		opened[name] = m
	}
	return opened
}

func TestKernel(t *testing.T) {
	opened := kernelMaps(t)
	kernel, err := tables.New(opened)
	if err != nil {
		t.Fatal(err)
	}
	testTables(t, kernel)
	testSeenFromOutside(t, opened, kernel)
	if err := kernel.Close(); err != nil {
		t.Error(err)
	}
}

// testSeenFromOutside compares what is stored in mapped memory with what the
// kernel's own lookup says.
func testSeenFromOutside(t *testing.T, opened map[string]*ebpf.Map, kernel *tables.Tables) {
	kernel.Sets.Store(3, abi.SetLocal, abi.SetWord(11, 12))
	var word uint64
	if err := opened[abi.MapSets].Lookup(abi.SetIndex(3, abi.SetLocal), &word); err != nil || word != abi.SetWord(11, 12) {
		t.Errorf("set: %#x, %v", word, err)
	}
	kernel.Slots.Store(9, 4711)
	var slot abi.Slot
	if err := opened[abi.MapSlots].Lookup(uint32(9), &slot); err != nil || slot.Backend != 4711 {
		t.Errorf("slot: %+v, %v", slot, err)
	}
	kernel.Backends.Create(17, backend(3, 4))
	var b abi.Backend
	if err := opened[abi.MapBackends].Lookup(uint32(17), &b); err != nil || b != kernel.Backends.Load(17) || b.Generation != 1 {
		t.Errorf("backend: %+v, %v", b, err)
	}
}

func TestKernelReadOnly(t *testing.T) {
	opened := kernelMaps(t)
	if err := opened[abi.MapServices].Put(uint32(5), &abi.ServiceName{Family: 4}); err != nil {
		t.Fatal(err)
	}
	kernel, err := tables.NewReadOnly(opened)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	if n, err := tables.Len(kernel.Services); n != 1 || err != nil {
		t.Errorf("read: %d, %v", n, err)
	}
	if err := kernel.Services.Delete(5); err == nil {
		t.Error("a delete went through")
	}
	defer func() {
		if recover() == nil {
			t.Error("a store went through")
		}
	}()
	kernel.Sets.Store(0, abi.SetCluster, 1)
}

// Where the packet path is switched off, its maps are not there.
func TestKernelWithoutPacketPath(t *testing.T) {
	opened := kernelMaps(t)
	for name := range opened {
		switch name {
		case abi.MapLocalAddrs, abi.MapPodRanges, abi.MapSourceRanges, abi.MapEgressAddrs, abi.MapReservedPorts:
			delete(opened, name)
		}
	}
	kernel, err := tables.New(opened)
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	if kernel.Packet != nil {
		t.Error("there are tables of a packet path")
	}
	if _, _, err := tables.Overlay(tables.Watch(kernel, tables.Watcher{})); err != nil {
		t.Error(err)
	}
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	opened := kernelMaps(t)
	for name, spoil := range map[string]func(map[string]*ebpf.Map){
		"half of the packet path's": func(m map[string]*ebpf.Map) { delete(m, abi.MapPodRanges) },
		"missing":                   func(m map[string]*ebpf.Map) { delete(m, abi.MapBackends) },
		"other layout":              func(m map[string]*ebpf.Map) { m[abi.MapBackends] = m[abi.MapSlots] },
	} {
		t.Run(name, func(t *testing.T) {
			spoilt := maps.Clone(opened)
			spoil(spoilt)
			if _, err := tables.New(spoilt); err == nil {
				t.Error("accepted")
			}
		})
	}
}
