// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

var sizes = maps.Sizes{
	Frontends: 64, Services: 16, Slots: 128, Backends: 32,
	Packet: maps.PacketSizes{LocalAddrs: 8, PodRanges: 8, SourceRanges: 8, EgressAddrs: 8},
}

func frontendKey(i int) abi.FrontendKey {
	return abi.NewFrontendKey(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80, 6)
}

func backend(i int, service uint32) abi.Backend {
	return abi.Backend{
		Addr: abi.Addr(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})), Port: abi.Port(8080),
		State: uint8(abi.BackendActive), Sets: 1, Service: service, Local: 1,
	}
}

// testTables is what tables of every make must do; they have room for at least
// the entries of sizes, exactly as many frontends, and are empty.
func testTables(t *testing.T, tables *maps.Tables) {
	t.Run("hash", func(t *testing.T) { testHash(t, tables) })
	t.Run("words", func(t *testing.T) { testWords(t, tables) })
	t.Run("backends", func(t *testing.T) { testBackends(t, tables.Backends) })
	t.Run("packet path", func(t *testing.T) { testPacket(t, tables.Packet) })
	t.Run("counters", func(t *testing.T) {
		sums, err := tables.Counters()
		if err != nil || sums != [abi.Counters]uint64{} {
			t.Errorf("counters of new tables: %v, %v", sums, err)
		}
	})
	t.Run("read what programs write", func(t *testing.T) {
		for name, n := range map[string]func() (int, error){
			"peers":      func() (int, error) { return maps.Len(tables.Peers) },
			"affinities": func() (int, error) { return maps.Len(tables.Affinities) },
		} {
			if n, err := n(); n != 0 || err != nil {
				t.Errorf("%s: %d entries, %v", name, n, err)
			}
		}
	})
}

func testHash(t *testing.T, tables *maps.Tables) {
	h := tables.Frontends
	if got := h.Capacity(); got != int(sizes.Frontends) {
		t.Errorf("capacity %d, want %d", got, sizes.Frontends)
	}
	if _, ok, err := h.Get(frontendKey(1)); ok || err != nil {
		t.Errorf("get of nothing: %v, %v", ok, err)
	}
	want := map[abi.FrontendKey]abi.Frontend{}
	var keys []abi.FrontendKey
	var values []abi.Frontend
	for i := range int(sizes.Frontends) {
		keys = append(keys, frontendKey(i))
		values = append(values, abi.Frontend{Service: uint32(i), Flags: abi.FlagClusterIP})
		want[keys[i]] = values[i]
	}
	if done, err := h.PutAll(keys, values); done != len(keys) || err != nil {
		t.Fatalf("put all: %d, %v", done, err)
	}
	if done, err := h.PutAll(nil, nil); done != 0 || err != nil {
		t.Errorf("put nothing: %d, %v", done, err)
	}
	if err := h.Put(frontendKey(999), abi.Frontend{}); !errors.Is(err, syscall.E2BIG) {
		t.Errorf("put into a full table: %v", err)
	}
	over := append(keys[:2:2], frontendKey(998), frontendKey(997))
	if done, err := h.PutAll(over, values[:4]); done != 2 || !errors.Is(err, syscall.E2BIG) {
		t.Errorf("put all into a full table: %d, %v", done, err)
	}
	if err := h.Put(keys[3], abi.Frontend{Service: 77}); err != nil {
		t.Errorf("replace in a full table: %v", err)
	}
	want[keys[3]] = abi.Frontend{Service: 77}
	if err := errors.Join(h.Delete(keys[5]), h.Delete(keys[5])); err != nil {
		t.Errorf("delete twice: %v", err)
	}
	delete(want, keys[5])
	got := map[abi.FrontendKey]abi.Frontend{}
	if err := h.Each(func(k abi.FrontendKey, v abi.Frontend) bool { got[k] = v; return true }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("content: -want +got\n%s", diff)
	}
	visits := 0
	if err := h.Each(func(abi.FrontendKey, abi.Frontend) bool { visits++; return false }); err != nil || visits != 1 {
		t.Errorf("stopped walk: %d visits, %v", visits, err)
	}
	if n, err := maps.Len(h); n != len(want) || err != nil {
		t.Errorf("len %d, %v, want %d", n, err, len(want))
	}
}

func testWords(t *testing.T, tables *maps.Tables) {
	last := tables.Sets.Services() - 1
	tables.Sets.Store(last, abi.SetLocal, abi.SetWord(7, 3))
	if got := tables.Sets.Load(last, abi.SetLocal); got != abi.SetWord(7, 3) {
		t.Errorf("set word %#x", got)
	}
	if got := tables.Sets.Load(last, abi.SetCluster); got != 0 {
		t.Errorf("neighbouring set word %#x", got)
	}
	end := tables.Slots.Len() - 1
	tables.Slots.Store(end, 1<<31)
	if got := tables.Slots.Load(end); got != 1<<31 {
		t.Errorf("slot %#x", got)
	}
	for _, bit := range []uint32{0, 63, 64, tables.Filter.Len() - 1} {
		tables.Filter.Set(bit)
	}
	tables.Filter.Clear(63)
	tables.Filter.Clear(62)
	for bit, want := range map[uint32]bool{0: true, 1: false, 62: false, 63: false, 64: true, abi.VIPFilterBits - 1: true} {
		if tables.Filter.Has(bit) != want {
			t.Errorf("filter bit %d: %v", bit, !want)
		}
	}
}

func testBackends(t *testing.T, backends maps.Backends) {
	i := backends.Len() - 1
	for round := range uint32(3) {
		want := backend(int(round), 5)
		want.Generation = round + 1
		if got := backends.Create(i, backend(int(round), 5)); got != want.Generation {
			t.Errorf("round %d: generation %d, want %d", round, got, want.Generation)
		}
		if diff := cmp.Diff(want, backends.Load(i)); diff != "" {
			t.Errorf("created: -want +got\n%s", diff)
		}
		want.State, want.Sets, want.Local = uint8(abi.BackendDraining), 0, 0
		backends.Update(i, want)
		if diff := cmp.Diff(want, backends.Load(i)); diff != "" {
			t.Errorf("updated: -want +got\n%s", diff)
		}
		backends.Free(i)
		free := maps.FreeBackend(round + 1)
		free.Service = 5
		if diff := cmp.Diff(free, backends.Load(i)); diff != "" {
			t.Errorf("freed: -want +got\n%s", diff)
		}
	}
}

func testPacket(t *testing.T, p *maps.PacketTables) {
	node := abi.Addr(netip.MustParseAddr("192.0.2.1"))
	if err := errors.Join(p.LocalAddrs.Put(node, abi.LocalAddrHere), p.EgressAddrs.Put(abi.NewEgressKey(2, true), node)); err != nil {
		t.Fatal(err)
	}
	if flags, ok, err := p.LocalAddrs.Get(node); flags != abi.LocalAddrHere || !ok || err != nil {
		t.Errorf("local address: %d, %v, %v", flags, ok, err)
	}
	if addr, ok, err := p.EgressAddrs.Get(abi.NewEgressKey(2, true)); addr != node || !ok || err != nil {
		t.Errorf("egress address: %v, %v, %v", addr, ok, err)
	}
	p.ReservedPorts.Store(p.ReservedPorts.Len()-1, 1<<63)
	if got := p.ReservedPorts.Load(65535 / 64); got != 1<<63 || p.ReservedPorts.Len() != 1024 {
		t.Errorf("reserved ports: %#x in the last of %d words", got, p.ReservedPorts.Len())
	}
	testTrie(t, p.SourceRanges)
}

func testTrie(t *testing.T, h maps.Hash[abi.SourceRangeKey, uint32]) {
	key := func(service uint32, prefix string) abi.SourceRangeKey {
		return abi.NewSourceRangeKey(service, netip.MustParsePrefix(prefix))
	}
	all, half := key(7, "0.0.0.0/0"), key(7, "128.0.0.0/1")
	odd, one := key(7, "10.1.2.0/23"), key(7, "2001:db8::1/128")
	dirty := odd
	dirty.Addr = abi.Addr(netip.MustParseAddr("10.1.3.4"))
	if done, err := h.PutAll([]abi.SourceRangeKey{half, dirty, one}, []uint32{1, 2, 3}); done != 3 || err != nil {
		t.Fatalf("put all: %d, %v", done, err)
	}
	if err := h.Put(odd, 4); err != nil {
		t.Errorf("put what is there: %v", err)
	}
	for asked, want := range map[string]uint32{
		"200.1.1.1/32": 1, "10.1.3.200/32": 4, "10.1.3.0/24": 4, "10.1.2.0/23": 4,
		"10.1.0.0/22": 0, "10.1.4.1/32": 0, "2001:db8::1/128": 3, "2001:db8::2/128": 0,
	} {
		if got, ok, err := h.Get(key(7, asked)); got != want || ok != (want != 0) || err != nil {
			t.Errorf("look up %s: %d, %v, %v; want %d", asked, got, ok, err, want)
		}
	}
	if _, ok, err := h.Get(key(6, "200.1.1.1/32")); ok || err != nil {
		t.Errorf("another Service's range matches: %v", err)
	}
	if err := errors.Join(h.Put(all, 5), h.Delete(half), h.Delete(half), h.Delete(key(7, "10.1.2.0/24"))); err != nil {
		t.Error(err)
	}
	if got, _, _ := h.Get(key(7, "200.1.1.1/32")); got != 5 {
		t.Errorf("after the longer range has gone: %d", got)
	}
	got := map[abi.SourceRangeKey]uint32{}
	if err := h.Each(func(k abi.SourceRangeKey, v uint32) bool { got[k] = v; return true }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[abi.SourceRangeKey]uint32{all: 5, odd: 4, one: 3}, got); diff != "" {
		t.Errorf("content: -want +got\n%s", diff)
	}
	for i := range h.Capacity() - 3 {
		if err := h.Put(key(8, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 32).String()), 0); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	if err := h.Put(key(9, "192.0.2.1/32"), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("put into a full table: %v", err)
	}
}

func TestOverlaidMemory(t *testing.T) {
	over, _, err := maps.Overlay(maps.NewMemory(sizes))
	if err != nil {
		t.Fatal(err)
	}
	testTables(t, over)
}

func TestMemory(t *testing.T) { testTables(t, maps.NewMemory(sizes)) }

func TestWatchedMemory(t *testing.T) {
	testTables(t, maps.Watch(maps.NewMemory(sizes), maps.Watcher{}))
}

func TestOverlay(t *testing.T) {
	below := maps.NewMemory(sizes)
	if _, err := below.Frontends.PutAll([]abi.FrontendKey{frontendKey(1), frontendKey(2), frontendKey(3)}, make([]abi.Frontend, 3)); err != nil {
		t.Fatal(err)
	}
	below.Backends.Create(4, backend(4, 1))
	over, changes, err := maps.Overlay(below)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(below.Backends.Load(4), over.Backends.Load(4)); diff != "" || changes().Len() != 0 {
		t.Errorf("untouched: %d changes, backend %s", changes().Len(), diff)
	}
	err = errors.Join(over.Frontends.Delete(frontendKey(1)), over.Frontends.Put(frontendKey(2), abi.Frontend{Flags: 1}),
		over.Frontends.Put(frontendKey(3), abi.Frontend{}), over.Services.Put(7, abi.ServiceName{}))
	if err != nil {
		t.Fatal(err)
	}
	over.Backends.Free(4)
	over.Slots.Store(9, 1)
	over.Sets.Store(2, abi.SetLocal, 5)
	over.Filter.Set(70)
	over.Filter.Set(3)
	over.Filter.Clear(3)
	pods := abi.NewPodRangeKey(netip.MustParsePrefix("10.1.0.0/16"))
	if err := errors.Join(over.Packet.PodRanges.Put(pods, 1), over.Packet.LocalAddrs.Delete(pods.Addr)); err != nil {
		t.Fatal(err)
	}
	over.Packet.ReservedPorts.Store(5, 1)
	type set = map[uint32]struct{}
	want := maps.Changes{
		Frontends: map[abi.FrontendKey]struct{}{frontendKey(1): {}, frontendKey(2): {}},
		Services:  set{7: {}}, Sets: set{abi.SetIndex(2, abi.SetLocal): {}}, Slots: set{9: {}}, Backends: set{4: {}}, Filter: set{1: {}},
		LocalAddrs: map[abi.IP]struct{}{}, PodRanges: map[abi.PodRangeKey]struct{}{pods: {}},
		SourceRanges: map[abi.SourceRangeKey]struct{}{}, EgressAddrs: map[abi.EgressKey]struct{}{}, ReservedPorts: set{5: {}},
	}
	if diff := cmp.Diff(want, changes()); diff != "" {
		t.Errorf("changes: -want +got\n%s", diff)
	}
	if n, _ := maps.Len(below.Packet.PodRanges); n != 0 || below.Packet.ReservedPorts.Load(5) != 0 {
		t.Error("a write to the packet path's went through")
	}
	if over.Backends.Load(4).Generation != 0 || below.Backends.Load(4).Generation != 1 {
		t.Error("a write went to the wrong tables")
	}
}

// Whichever store of Create or Free is the last one made, the generations of
// an index never repeat and its entry shows whether it is whole.
func TestBackendsInterrupted(t *testing.T) {
	type crash struct{}
	for stop := range 16 {
		memory := maps.NewMemory(sizes)
		stores, armed := 0, false
		backends := maps.Watch(memory, maps.Watcher{Refuse: func(maps.Write) error {
			if stores++; armed && stores > stop {
				panic(crash{})
			}
			return nil
		}}).Backends
		given := backends.Create(3, backend(1, 2))
		backends.Free(3)
		stores, armed = 0, true
		func() {
			defer func() {
				if r := recover(); r != nil && r != (crash{}) {
					panic(r)
				}
			}()
			given = memory.Backends.Load(3).Generation
			given = max(given, backends.Create(3, backend(1, 2)))
			backends.Free(3)
		}()
		armed = false
		left := backends.Load(3)
		if whole := left.State != uint8(abi.BackendFree); whole && left.Generation == 0 {
			t.Errorf("stopped after %d: alive without a generation: %+v", stop, left)
		}
		backends.Free(3)
		if next := backends.Create(3, backend(1, 2)); next <= max(given, left.Generation, 1) {
			t.Errorf("stopped after %d stores: generation %d after %d", stop, next, max(given, 1))
		}
	}
}

func TestGenerationSkipsZero(t *testing.T) {
	backends := maps.NewMemory(sizes).Backends
	last := backend(1, 2)
	last.Generation = 1<<32 - 1
	last.State = uint8(abi.BackendFree)
	backends.Update(0, last)
	backends.Free(0)
	if got := backends.Create(0, backend(1, 2)); got != 1 {
		t.Errorf("generation after the last one: %d", got)
	}
}

func TestWatchCountsAndRefuses(t *testing.T) {
	var wrote []maps.Write
	refuse := map[int]bool{}
	asked := 0
	broken := errors.New("broken")
	record := func(w maps.Write) { wrote = append(wrote, w) }
	tables := maps.Watch(maps.NewMemory(sizes), maps.Watcher{Wrote: record})
	keys := []abi.FrontendKey{frontendKey(1), frontendKey(2), frontendKey(3)}
	values := make([]abi.Frontend, 3)
	if _, err := tables.Frontends.PutAll(keys, values); err != nil {
		t.Fatal(err)
	}
	tables.Sets.Store(0, abi.SetCluster, 1)
	if err := tables.Services.Delete(1); err != nil {
		t.Fatal(err)
	}
	want := []maps.Write{
		{Table: abi.MapFrontends, Op: maps.PutAll, Entries: 3},
		{Table: abi.MapSets, Op: maps.Store, Entries: 1},
		{Table: abi.MapServices, Op: maps.Delete, Entries: 1},
	}
	if diff := cmp.Diff(want, wrote); diff != "" {
		t.Errorf("writes: -want +got\n%s", diff)
	}

	refuse[2] = true
	faulty := maps.Watch(maps.NewMemory(sizes), maps.Watcher{Refuse: func(maps.Write) error {
		if asked++; refuse[asked] {
			return broken
		}
		return nil
	}})
	if done, err := faulty.Frontends.PutAll(keys, values); done != 1 || !errors.Is(err, broken) {
		t.Errorf("refused second entry: %d, %v", done, err)
	}
	if n, _ := maps.Len(faulty.Frontends); n != 1 {
		t.Errorf("%d entries after a refused batch", n)
	}
}
