// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	tables "github.com/beeline-net/beeline/internal/maps"
)

// resized returns kernel maps of which one has another size.
func resized(t *testing.T, from map[string]*ebpf.Map, name string, entries uint32) map[string]*ebpf.Map {
	t.Helper()
	specs, err := abi.MapSpecs()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*ebpf.Map{}
	for name, m := range from {
		all[name] = m
	}
	specs[name].MaxEntries = entries
	if all[name], err = ebpf.NewMap(specs[name]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = all[name].Close() })
	return all
}

func opened(t *testing.T, kernel map[string]*ebpf.Map) *tables.Tables {
	t.Helper()
	tab, err := tables.New(kernel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tab.Close() })
	return tab
}

// A number that is gone and comes again must not have a generation that somebody
// may still remember (pains A31).
func TestA31GenerationsGoOnAfterAMapHasShrunkAndGrown(t *testing.T) {
	large := kernelMaps(t)
	before := opened(t, large)
	for range 5 { // numbers 0 and 100: generation 5, and free again
		for _, i := range []uint32{0, 100} {
			before.Backends.Create(i, abi.Backend{State: uint8(abi.BackendActive)})
			before.Backends.Free(i)
		}
	}
	carrier := &tables.Carrier{}
	small := resized(t, large, abi.MapBackends, 64)
	if err := carrier.Carry(large, small, false); err != nil {
		t.Fatal(err)
	}
	again := resized(t, small, abi.MapBackends, 256)
	if err := carrier.Carry(small, again, false); err != nil {
		t.Fatal(err)
	}
	after := opened(t, again)
	for _, i := range []uint32{0, 100} {
		if g := after.Backends.Create(i, abi.Backend{State: uint8(abi.BackendActive)}); g <= 5 {
			t.Errorf("backend %d has generation %d again", i, g)
		}
	}
}

func TestWhatIsInUseMustFit(t *testing.T) {
	for name, fill := range map[string]func(*tables.Tables) error{
		abi.MapBackends: func(tab *tables.Tables) error {
			tab.Backends.Create(64, abi.Backend{State: uint8(abi.BackendActive)})
			return nil
		},
		abi.MapSets: func(tab *tables.Tables) error {
			tab.Sets.Store(32, abi.SetCluster, abi.EmptySetWord(abi.EmptyDrop))
			return nil
		},
		abi.MapSlots: func(tab *tables.Tables) error {
			tab.Sets.Store(1, abi.SetCluster, abi.SetWord(60, 5))
			return nil
		},
		abi.MapServices: func(tab *tables.Tables) error {
			for i := range uint32(65) {
				if err := tab.Services.Put(i, abi.ServiceName{}); err != nil {
					return err
				}
			}
			return nil
		},
		abi.MapPeers: func(tab *tables.Tables) error {
			for i := range uint64(65) {
				if err := tab.Peers.Put(i, abi.Peer{}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			old := kernelMaps(t)
			if err := fill(opened(t, old)); err != nil {
				t.Fatal(err)
			}
			carrier := &tables.Carrier{}
			if err := carrier.Carry(old, resized(t, old, name, 64), false); !errors.Is(err, tables.ErrTooSmall) {
				t.Errorf("64 entries: %v, want ErrTooSmall", err)
			}
			if err := carrier.Carry(old, resized(t, old, name, 256), false); err != nil {
				t.Errorf("256 entries: %v", err)
			}
		})
	}
}
