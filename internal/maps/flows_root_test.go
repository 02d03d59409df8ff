// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	tables "github.com/beeline-net/beeline/internal/maps"
)

func TestFlowsAreEnded(t *testing.T) {
	kernel := kernelMaps(t)
	put := func(m string, key uint32, value any) {
		t.Helper()
		if err := kernel[m].Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i, backend := range []uint32{7, 8, 7} {
		i := uint32(i)
		put(abi.MapFlows, i, abi.Flow{Seq: 2 * (i + 1), Flags: abi.FlowUsed | abi.FlowAssured, Service: 3, Backend: backend, Generation: 1})
		var line abi.FlowLine
		for d := range uint64(2) {
			line.Hint[d] = 0xabcd<<32 | uint64(i)<<1 | d
		}
		put(abi.MapFlowIndex, i, line)
	}
	put(abi.MapFlows, uint32(3), abi.Flow{Seq: 5, Flags: abi.FlowUsed, Backend: 7}) // somebody is writing it
	f, err := tables.OpenFlows(kernel)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	if n := f.End(func(flow abi.Flow) bool { return flow.Backend == 7 }); n != 2 {
		t.Errorf("%d flows were ended, want 2", n)
	}
	left := map[uint32]int{}
	f.Each(func(flow abi.Flow) { left[flow.Backend]++ })
	if left[7] != 1 || left[8] != 1 {
		t.Errorf("left by backend: %v", left)
	}
	for i := range uint32(3) {
		var line abi.FlowLine
		var flow abi.Flow
		if err := kernel[abi.MapFlowIndex].Lookup(i, &line); err != nil {
			t.Fatal(err)
		}
		if err := kernel[abi.MapFlows].Lookup(i, &flow); err != nil {
			t.Fatal(err)
		}
		gone := i != 1
		if hinted := line.Hint[0] != 0 || line.Hint[1] != 0; hinted == gone || (flow.Flags == 0) != gone {
			t.Errorf("flow %d: hints %x, flags %x", i, line.Hint[:2], flow.Flags)
		}
		if gone && flow.Seq != 2*(i+1)+2 {
			t.Errorf("flow %d has seq %d, which a reader may take for its own", i, flow.Seq)
		}
	}
}
