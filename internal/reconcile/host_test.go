// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// tablesOf makes tables about a node in short: "192.0.2.1" is an address,
// "192.0.2.1 nodeports" one that serves NodePorts, "192.0.2.1 @2" the source of
// device 2, "10.1.0.0/16" a pod range.
func tablesOf(ports string, texts ...string) host.Tables {
	var t host.Tables
	var err error
	if t.Reserved, err = host.ParsePorts(ports); err != nil {
		panic(err)
	}
	for _, text := range texts {
		what, special, _ := strings.Cut(text, " ")
		switch device, isSource := strings.CutPrefix(special, "@"); {
		case isSource:
			addr := netip.MustParseAddr(what)
			t.Sources = append(t.Sources, host.Source{Device: int(device[0] - '0'), Family: model.FamilyOf(addr), Addr: addr})
		case strings.Contains(what, "/"):
			t.PodRanges = append(t.PodRanges, netip.MustParsePrefix(what))
		default:
			t.Addresses = append(t.Addresses, host.Address{Addr: netip.MustParseAddr(what), NodePorts: special != ""})
		}
	}
	return t
}

// hosts are tables about one node in the course of time.
var hosts = []host.Tables{
	tablesOf("", "192.0.2.1 nodeports", "192.0.2.1 @0", "192.0.2.1 @2"),
	tablesOf("8080,9000-9100", "10.1.0.1", "192.0.2.1 nodeports", "2001:db8::1 nodeports", "192.0.2.1 @0", "2001:db8::1 @0", "192.0.2.1 @2", "10.1.0.1 @3", "10.1.0.0/16", "fd00:1::/64"),
	tablesOf("9050", "10.1.0.1", "192.0.2.1", "192.0.2.7 nodeports", "2001:db8::1 nodeports", "192.0.2.7 @0", "2001:db8::1 @0", "192.0.2.7 @2", "10.1.0.1 @3", "10.1.0.0/16"),
	tablesOf("", "198.51.100.1 nodeports", "198.51.100.1 @2", "10.0.0.0/8"),
	{},
}

// host is what is wanted of the tables about the node.
func (w *world) host() host.Tables {
	if len(w.hosts) == 0 {
		return host.Tables{}
	}
	return w.hosts[len(w.hosts)-1]
}

func (w *world) wantHost(t host.Tables) {
	if len(w.hosts) == 0 {
		w.hosts = append(w.hosts, host.Tables{}) // new tables are empty
	}
	w.hosts = append(w.hosts, t)
}

func (w *world) applyHost(t host.Tables) Stats {
	w.wantHost(t)
	stats := w.r.ApplyHost(t)
	w.check()
	return stats
}

// hostOf reads the tables about the node.
func hostOf(tables *maps.Tables) host.Tables {
	t := entriesOf(tables)
	if p := tables.Packet; p != nil {
		for word := range p.ReservedPorts.Len() {
			t.Reserved[word] = p.ReservedPorts.Load(word)
		}
	}
	return t
}

// entriesOf is hostOf without the ports, for after every write.
func entriesOf(tables *maps.Tables) host.Tables {
	var t host.Tables
	p := tables.Packet
	if p == nil {
		return t
	}
	must(errors.Join(
		p.LocalAddrs.Each(func(ip abi.IP, flags uint32) bool {
			t.Addresses = append(t.Addresses, host.Address{Addr: abi.NetIP(ip), NodePorts: flags == abi.LocalAddrHere|abi.LocalAddrNodePort})
			if flags&abi.LocalAddrHere == 0 {
				t.Addresses = append(t.Addresses, host.Address{}) // never wanted
			}
			return true
		}),
		p.EgressAddrs.Each(func(key abi.EgressKey, ip abi.IP) bool {
			t.Sources = append(t.Sources, host.Source{Device: int(key.Ifindex), Family: model.Family(key.Family), Addr: abi.NetIP(ip)})
			return true
		}),
		p.PodRanges.Each(func(key abi.PodRangeKey, _ uint32) bool {
			t.PodRanges = append(t.PodRanges, netip.MustParsePrefix(prefixString(key.Addr, key.Prefixlen)))
			return true
		})))
	slices.SortFunc(t.Addresses, func(a, b host.Address) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(t.Sources, func(a, b host.Source) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
	slices.SortFunc(t.PodRanges, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return t
}

// checkHost is the strict reader of the tables about the node: what was wanted
// all the time is there all the time, what nobody wanted never is, and no
// address is in use without its bit in the filter.
func (w *world) checkHost() {
	is := entriesOf(w.tables)
	lasts(w, "address", is.Addresses, func(t host.Tables) []host.Address { return t.Addresses },
		func(a host.Address) netip.Addr { return a.Addr })
	lasts(w, "source", is.Sources, func(t host.Tables) []host.Source { return t.Sources },
		func(s host.Source) [2]int { return [2]int{s.Device, int(s.Family)} })
	lasts(w, "pod range", is.PodRanges, func(t host.Tables) []netip.Prefix { return t.PodRanges },
		func(p netip.Prefix) netip.Prefix { return p })
	for _, a := range is.Addresses {
		w.checkKept(a.Addr)
	}
	for _, s := range is.Sources {
		w.checkKept(s.Addr)
	}
}

func (w *world) checkKept(addr netip.Addr) {
	if !w.tables.Filter.Has(abi.FilterBit(abi.Addr(addr))) {
		w.t.Fatalf("write %d: %v is in use and not in the filter", w.writes, addr)
	}
}

// lasts compares one table with what was wanted of it lately.
func lasts[T, K comparable](w *world, what string, is []T, of func(host.Tables) []T, key func(T) K) {
	wanted := map[T]bool{}
	keys := map[K]int{}
	for _, h := range w.hosts {
		for _, want := range of(h) {
			wanted[want] = true
			keys[key(want)]++
		}
	}
	there := map[K]bool{}
	for _, have := range is {
		if there[key(have)] = true; !wanted[have] {
			w.t.Fatalf("write %d: nobody wants %s %v", w.writes, what, have)
		}
	}
	for k, times := range keys {
		if times == len(w.hosts) && !there[k] {
			w.t.Fatalf("write %d: %s %v is missing", w.writes, what, k)
		}
	}
}

func TestHostScript(t *testing.T) { runHost(t, inMemory) }

// runHost plays the history of a node with every kind of trouble.
func runHost(t *testing.T, tables makeTables) {
	t.Run("plainly", func(t *testing.T) {
		w := newWorld(t, tables(t))
		for _, h := range slices.Concat(hosts, hosts) {
			w.applyHost(h)
			w.converged()
			if again := w.applyHost(h); again.Writes() != 0 {
				t.Errorf("the same once more: %+v", again)
			}
		}
		w.empty()
	})
	t.Run("restarting between", func(t *testing.T) {
		w := newWorld(t, tables(t))
		for _, h := range hosts {
			w.applyHost(h)
			w.converged()
			w.kill()
			if stats := w.r.Prune(t.Context()); stats.Writes() != 0 {
				t.Errorf("prune before the network is known: %+v", stats)
			}
			w.converged()
			if stats := w.applyHost(h); stats.Writes() != 0 {
				t.Errorf("apply after a restart: %+v", stats)
			}
			w.converged()
		}
	})
	t.Run("every write failing once", func(t *testing.T) { failHost(t, tables) })
	t.Run("dying at every write", func(t *testing.T) { dieHost(t, tables) })
}

func failHost(t *testing.T, tables makeTables) {
	for failing := 1; ; failing++ {
		w := newWorld(t, tables(t))
		asked := 0
		w.fail = func(maps.Write) error {
			if asked++; asked == failing {
				return errInjected
			}
			return nil
		}
		for _, h := range hosts {
			w.applyHost(h)
		}
		total := asked
		w.settle()
		w.converged()
		if failing > total {
			return
		}
	}
}

func dieHost(t *testing.T, tables makeTables) {
	for last := range hosts {
		for dying := 1; ; dying++ {
			w := newWorld(t, tables(t))
			for _, h := range hosts[:last] {
				w.applyHost(h)
			}
			w.converged()
			w.wantHost(hosts[last])
			dead := w.until(dying, func() { w.r.ApplyHost(hosts[last]) })
			w.kill()
			w.r.Prune(t.Context())
			w.check()
			w.applyHost(hosts[last])
			w.converged()
			w.empty()
			if !dead {
				break
			}
		}
	}
}

// Clients are let in last and kept out first, whatever they need is there in
// between.
func TestHostOrder(t *testing.T) {
	w := newWorld(t, smallTables())
	w.applyHost(hosts[1])
	w.converged()
	var order []string
	w.fail = func(write maps.Write) error {
		if step := write.Table + " " + write.Op.String(); len(order) == 0 || order[len(order)-1] != step {
			order = append(order, step)
		}
		return nil
	}
	w.applyHost(hosts[3])
	want := []string{
		"pod_ranges put", "egress_addrs put", "local_addrs put",
		"local_addrs delete", "egress_addrs delete", "pod_ranges delete",
	}
	if !slices.Equal(order, want) {
		t.Errorf("order: %v", order)
	}
}

// Pains A32: an address that is added costs what it needs, and nothing else.
func TestA32OneAddressCostsItsEntryOnly(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Packet: maps.PacketSizes{LocalAddrs: 2000}}))
	var many host.Tables
	for i := range 1000 {
		many.Addresses = append(many.Addresses, host.Address{Addr: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), NodePorts: true})
	}
	w.reader = nil
	w.applyHost(many)
	more := many
	more.Addresses = append(slices.Clone(many.Addresses), host.Address{Addr: netip.MustParseAddr("192.0.2.9"), NodePorts: true})
	if stats := w.applyHost(more); stats.Puts != 1 || stats.Stores != 1 || stats.Deletes != 0 {
		t.Errorf("one address more: %+v", stats)
	}
	if stats := w.applyHost(many); stats.Deletes != 1 || stats.Stores != 1 || stats.Puts != 0 {
		t.Errorf("one fewer: %+v", stats)
	}
	w.converged()
}

func TestHostWithoutRoom(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Packet: maps.PacketSizes{LocalAddrs: 2, PodRanges: 1}}))
	w.applyHost(tablesOf("", "192.0.2.1", "192.0.2.2", "10.0.0.0/8"))
	w.converged()
	// What goes makes room for what comes.
	w.applyHost(tablesOf("", "192.0.2.2", "192.0.2.3", "10.1.0.0/16"))
	w.converged()
	w.applyHost(tablesOf("", "192.0.2.2", "192.0.2.3", "192.0.2.4"))
	pending := w.r.Pending()
	if len(pending) != 1 || pending[0].Service != (model.Name{}) || !pending[0].Full ||
		!strings.HasPrefix(pending[0].Err.Error(), "address 192.0.2.4: ") || w.r.NextRetry().IsZero() {
		t.Fatalf("pending: %+v", pending)
	}
	w.applyHost(tablesOf("", "192.0.2.2", "192.0.2.4"))
	w.converged()
}

// An address of the node may be a frontend's, too: neither takes the other's
// bit away.
func TestHostAndFrontendShareABit(t *testing.T) {
	w := newWorld(t, smallTables())
	a := serviceOf("a", spec{frontends: []string{"10.0.0.1:80"}})
	shared := tablesOf("", "10.0.0.1 nodeports")
	w.apply(a)
	w.applyHost(shared)
	w.apply(serviceOf("a"))
	w.elapse()
	w.converged()
	w.apply(a)
	w.applyHost(host.Tables{})
	w.converged()
	w.applyHost(shared)
	w.r.Prune(t.Context())
	if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
		t.Errorf("drifts: %+v, %v", drifts, err)
	}
	w.kill()
	w.apply(a)
	w.r.Prune(t.Context())
	w.converged()
}

// Where the packet path is switched off, all that is left out is its tables.
func TestWithoutPacketPath(t *testing.T) {
	w := newWorld(t, maps.NewMemory(maps.Sizes{Frontends: 10, Services: 10, Slots: 10, Backends: 10}))
	a := serviceOf("a", spec{ranges: []string{"192.0.2.0/24"}, frontends: []string{"10.0.0.1:80"}, backends: []string{"10.1.0.1:8080"}})
	w.apply(a)
	if stats := w.r.ApplyHost(hosts[1]); stats.Writes() != 0 {
		t.Errorf("wrote %+v", stats)
	}
	f, there, _ := w.tables.Frontends.Get(frontendKey(a.Ports[0].Frontends[0].FrontendKey))
	if !there || f.Flags&abi.FlagSourceRanges == 0 {
		t.Errorf("frontend %+v, %v: the socket hooks would not leave it alone", f, there)
	}
	w.r.Prune(t.Context())
	if drifts, err := w.r.Verify(t.Context()); err != nil || len(drifts) > 0 {
		t.Errorf("drifts: %+v, %v", drifts, err)
	}
	w.gate <- struct{}{}
	if _, err := w.r.Repair(t.Context()); err != nil {
		t.Error(err)
	}
	if p := w.r.Pending(); len(p) > 0 {
		t.Errorf("pending: %+v", p)
	}
}

// host returns random tables about the node.
func (g *generator) host() host.Tables {
	h := hosts[g.IntN(len(hosts))]
	h.Addresses = slices.DeleteFunc(slices.Clone(h.Addresses), func(a host.Address) bool {
		used := slices.ContainsFunc(h.Sources, func(s host.Source) bool { return s.Addr == a.Addr })
		return !used && g.IntN(3) == 0
	})
	return h
}
