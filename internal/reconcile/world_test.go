// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// world is a Reconciler on tables that a strict reader watches: after every
// single write it plays each program that may be running, those that began
// just now and those that began earlier and have read half of what they need.
type world struct {
	t      testing.TB
	tables *maps.Tables // unwatched
	r      *Reconciler
	clock  time.Time
	gate   chan struct{} // one element lets one grace period end
	// hurried: grace periods end at once, and the reader plays only programs
	// that no write interrupts.
	hurried bool
	// scarce: there is too little room to keep every client's way open.
	scarce bool

	desired map[model.Name]plan.Service
	hosts   []host.Tables // wanted since the tables last held what is desired; the last one is
	allowed map[abi.FrontendKey]*allowed
	reader  *reader // nil where the tables are too large to read them all the time

	writes int // of the present reconciler
	fail   func(maps.Write) error
	crash  int // the write before which the reconciler dies; 0: none
	live   map[identity]string
}

// allowed is what a client of a frontend may see at present.
type allowed struct {
	absent  bool
	values  map[[2]uint32]bool                 // flags, affinity
	content [abi.SetKinds]map[string]bool      // see reader.content
	members [abi.SetKinds]map[abi.Backend]bool // address and port only
	ports   map[plan.PortID]bool               // that have wanted the frontend
	// admitted and refused are clients whom source ranges let in or keep out.
	admitted, refused map[netip.Addr]bool
}

// clients have every relation to the source ranges of the tests.
var clients = []netip.Addr{
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200"),
	netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("10.9.9.9"),
}

// identity is what a flow remembers of its backend.
type identity struct{ index, generation uint32 }

type died struct{}

var errInjected = errors.New("injected")

var smallPacket = maps.PacketSizes{LocalAddrs: 20, PodRanges: 6, SourceRanges: 200, EgressAddrs: 20}

func smallTables() *maps.Tables {
	return maps.NewMemory(maps.Sizes{Frontends: 100, Services: 150, Slots: 2000, Backends: 600, Packet: smallPacket})
}

func newWorld(t testing.TB, tables *maps.Tables) *world {
	w := &world{
		t: t, tables: tables, clock: time.Unix(1000, 0),
		desired: map[model.Name]plan.Service{}, allowed: map[abi.FrontendKey]*allowed{},
		live: map[identity]string{},
	}
	w.reader = &reader{w: w}
	w.boot()
	return w
}

// boot starts a new Reconciler on the tables as they are.
func (w *world) boot() {
	w.t.Helper()
	w.writes, w.crash = 0, 0
	w.gate = make(chan struct{}, 1)
	gate := w.gate
	tables := maps.Watch(w.tables, maps.Watcher{
		Refuse: func(write maps.Write) error {
			if w.writes++; w.writes == w.crash {
				panic(died{})
			}
			if w.fail != nil && write.Op != maps.Store {
				return w.fail(write)
			}
			return nil
		},
		Wrote: func(maps.Write) { w.check() },
	})
	w.r = New(tables, Options{
		Now: func() time.Time { return w.clock },
		Wait: func(ctx context.Context) error {
			if w.hurried {
				return ctx.Err()
			}
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	})
	w.gate <- struct{}{}
	if err := w.r.Restore(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	select {
	case <-w.gate: // there was nothing to wait for
	default:
		if w.reader != nil {
			w.reader.forget()
		}
	}
	w.t.Cleanup(w.r.Close)
}

// kill ends the reconciler as kill -9 does.
func (w *world) kill() {
	w.r.Close()
	w.boot()
}

// want makes plans the desired state without telling the reconciler.
func (w *world) want(plans ...plan.Service) {
	for _, p := range plans {
		if len(p.Ports)+len(p.Addresses) == 0 {
			delete(w.desired, p.Name)
		} else {
			w.desired[p.Name] = p
		}
	}
	w.allow(false)
}

// apply wants plans and applies them.
func (w *world) apply(plans ...plan.Service) Stats {
	w.want(plans...)
	stats := w.r.Apply(w.t.Context(), plans)
	w.check()
	return stats
}

// applyUntil applies, but dies before the given write; it reports whether it
// came to that.
func (w *world) applyUntil(write int, plans ...plan.Service) (dead bool) {
	w.want(plans...)
	return w.until(write, func() { w.r.Apply(w.t.Context(), plans) })
}

// until does something, but dies before the given write; it reports whether it
// came to that.
func (w *world) until(write int, do func()) (dead bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != (died{}) {
				panic(r)
			}
			dead = true
		}
	}()
	w.writes, w.crash = 0, write
	do()
	w.elapse()
	w.crash = 0
	return false
}

func (w *world) all() []plan.Service {
	var plans []plan.Service
	for _, p := range w.desired {
		plans = append(plans, p)
	}
	slices.SortFunc(plans, func(a, b plan.Service) int { return a.Name.Compare(b.Name) })
	return plans
}

// elapse lets grace periods end until nothing waits for one.
func (w *world) elapse() {
	if w.hurried {
		must(w.r.Drain(w.t.Context()))
	}
	for !w.r.grace.idle() {
		w.r.grace.start()
		w.check() // the reader sees that a period begins
		w.gate <- struct{}{}
		w.r.reclaim(w.r.grace.await(w.t.Context()))
	}
}

// settle retries without failures until nothing is pending.
func (w *world) settle() {
	w.t.Helper()
	w.fail = nil
	w.elapse()
	for range 5 {
		w.clock = w.clock.Add(time.Hour)
		w.r.Retry(w.t.Context())
		w.check()
		w.elapse()
	}
	if p := w.r.Pending(); len(p) > 0 {
		w.t.Fatalf("still pending: %+v", p)
	}
}

// settleWhatFits retries and checks those Services that are not pending.
func (w *world) settleWhatFits() {
	w.t.Helper()
	w.fail = nil
	for range 5 {
		w.clock = w.clock.Add(time.Hour)
		w.r.Retry(w.t.Context())
		w.elapse()
	}
	fits := gomaps.Clone(w.desired)
	for _, p := range w.r.Pending() {
		if !p.Full {
			w.t.Fatalf("pending: %+v", p)
		}
		delete(fits, p.Service)
	}
	want, got := desiredView(fits, w.host()), tableView(w.t, w.tables)
	for id, p := range want.Ports {
		if diff := cmp.Diff(p, got.Ports[id]); diff != "" {
			w.t.Fatalf("port %s: -want +got\n%s", id, diff)
		}
	}
	for key, f := range want.Frontends {
		if diff := cmp.Diff(f, got.Frontends[key]); diff != "" {
			w.t.Fatalf("frontend %s: -want +got\n%s", key, diff)
		}
	}
	for id := range got.Ports {
		if _, ok := desiredView(w.desired, w.host()).Ports[id]; !ok {
			w.t.Fatalf("port %s is left over", id)
		}
	}
	if len(got.Garbage) > 0 {
		w.t.Fatalf("garbage: %v", got.Garbage)
	}
	w.checkBooks()
}

// converged checks that the tables hold exactly what is desired, and from now
// on allows readers nothing else.
func (w *world) converged() {
	w.t.Helper()
	if p := w.r.Pending(); len(p) > 0 {
		w.t.Fatalf("pending: %+v", p)
	}
	if diff := cmp.Diff(desiredView(w.desired, w.host()), tableView(w.t, w.tables)); diff != "" {
		w.t.Fatalf("tables: -want +got\n%s", diff)
	}
	w.checkBooks()
	w.hosts = []host.Tables{w.host()}
	w.allow(true)
	w.check()
}

// checkBooks compares what the reconciler believes is used with what is.
func (w *world) checkBooks() {
	w.t.Helper()
	slots, backends := 0, 0
	for i := range w.tables.Sets.Services() {
		for kind := range abi.SetKind(abi.SetKinds) {
			_, count := abi.UnpackSet(w.tables.Sets.Load(i, kind))
			slots += int(count)
		}
	}
	for i := range w.tables.Backends.Len() {
		if w.tables.Backends.Load(i).State != uint8(abi.BackendFree) {
			backends++
		}
	}
	frontends, _ := maps.Len(w.tables.Frontends)
	names, _ := maps.Len(w.tables.Services)
	want := []Usage{
		{abi.MapFrontends, frontends, w.tables.Frontends.Capacity()},
		{abi.MapServices, names, w.tables.Services.Capacity()},
		{abi.MapSlots, slots, int(w.tables.Slots.Len())},
		{abi.MapBackends, backends, int(w.tables.Backends.Len())},
	}
	if p := w.tables.Packet; p != nil {
		want = append(want, usage(abi.MapSourceRanges, p.SourceRanges), usage(abi.MapLocalAddrs, p.LocalAddrs),
			usage(abi.MapPodRanges, p.PodRanges), usage(abi.MapEgressAddrs, p.EgressAddrs))
	}
	if diff := cmp.Diff(want, w.r.Usage()); diff != "" && w.r.grace.idle() {
		w.t.Fatalf("usage: -tables +reconciler\n%s", diff)
	}
}

func usage[K comparable, V any](name string, h maps.Hash[K, V]) Usage {
	n, _ := maps.Len(h)
	return Usage{name, n, h.Capacity()}
}

// allow adds what is desired now to what clients may see, or makes it all
// that they may.
func (w *world) allow(only bool) {
	if only {
		w.allowed = map[abi.FrontendKey]*allowed{}
		if w.reader != nil {
			w.reader.captured = nil
		}
	}
	seen := map[abi.FrontendKey]bool{}
	for _, s := range w.desired {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				seen[frontendKey(f.FrontendKey)] = true
				w.allowFrontend(f, p)
			}
		}
		for _, addr := range s.Addresses {
			key := frontendKey(plan.FrontendKey{Addr: addr})
			seen[key] = true
			w.allowedAt(key).values[[2]uint32{abi.FlagAddress, 0}] = true
		}
	}
	for key, a := range w.allowed {
		a.absent = a.absent || !seen[key]
		// Until a frontend has moved on, its clients see what becomes of the
		// Service port that it leaves.
		for _, s := range w.desired {
			for _, p := range s.Ports {
				if a.ports[p.ID] {
					a.add(p)
				}
			}
		}
	}
}

func (w *world) allowedAt(key abi.FrontendKey) *allowed {
	a := w.allowed[key]
	if a == nil {
		a = &allowed{values: map[[2]uint32]bool{}, ports: map[plan.PortID]bool{}}
		a.admitted, a.refused = map[netip.Addr]bool{}, map[netip.Addr]bool{}
		_, there, _ := w.tables.Frontends.Get(key)
		a.absent = !there
		for kind := range a.content {
			a.content[kind], a.members[kind] = map[string]bool{}, map[abi.Backend]bool{}
		}
		w.allowed[key] = a
	}
	return a
}

func (w *world) allowFrontend(f plan.Frontend, p plan.Port) {
	a := w.allowedAt(frontendKey(f.FrontendKey))
	a.values[[2]uint32{frontendFlags(f), affinitySecs(f.AffinityTimeout)}] = true
	a.ports[p.ID] = true
	a.admit(f.SourceRanges)
}

// admit allows what source ranges say about clients.
func (a *allowed) admit(ranges []netip.Prefix) {
	for _, c := range clients {
		if len(ranges) == 0 || slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(c) }) {
			a.admitted[c] = true
		} else {
			a.refused[c] = true
		}
	}
}

func (a *allowed) add(p plan.Port) {
	if i := slices.IndexFunc(p.Frontends, guarded); i >= 0 {
		a.admit(p.Frontends[i].SourceRanges)
	}
	for i, set := range []plan.Set{p.Cluster, p.Local} {
		kind := abi.SetKind(i)
		if !uses(&p, kind) {
			continue
		}
		a.content[kind][planContent(p, set)] = true
		for _, m := range set.Members {
			b := p.Backends[m].Addr
			a.members[kind][abi.Backend{Addr: abi.Addr(b.Addr()), Port: abi.Port(b.Port())}] = true
		}
	}
}

func planContent(p plan.Port, s plan.Set) string {
	if len(s.Members) == 0 {
		return [...]string{plan.Reject: "reject", plan.Drop: "drop"}[s.Empty]
	}
	var addrs []string
	for _, m := range s.Members {
		addrs = append(addrs, p.Backends[m].Addr.String())
	}
	return strings.Join(addrs, " ")
}

// check is called after every write.
func (w *world) check() {
	if w.reader == nil {
		return
	}
	if w.hurried {
		w.reader.forget()
	}
	w.reader.check()
	w.checkHost()
}

// reader plays the datapath (bpf/lib/lb.h) on the tables of a world.
type reader struct {
	w *world
	// captured is what programs have read that may still be running, and in
	// which step the youngest of them began; period is the grace period that runs, and from which step on
	// its programs are not waited for.
	captured map[capture]int
	step     int
	born     int // step in which the program that is being resumed began
	period   *retired
	from     int
	ranges   map[uint32][]netip.Prefix // source ranges at present, by Service port
}

// capture is what a program has read so far on its way from key to backend.
type capture struct {
	stage   stage
	key     abi.FrontendKey
	value   abi.Frontend
	kind    abi.SetKind
	word    uint64
	index   uint32
	backend abi.Backend
}

type stage int

const (
	hasFrontend stage = iota
	hasWord
	hasIndex
	hasBackend // knows that it is alive and is about to read the address
)

func (c capture) String() string {
	return fmt.Sprintf("stage %d of %s: %+v kind %v word %#x index %d", c.stage, keyString(c.key), c.value, c.kind, c.word, c.index)
}

// forget drops all programs: a grace period has passed.
func (d *reader) forget() { d.captured, d.period = nil, nil }

func (d *reader) check() {
	d.follow()
	d.step++
	d.ranges = sourceRanges(d.w.tables)
	for c, born := range d.captured {
		d.born = born
		d.resume(c)
	}
	d.born = d.step
	for key := range d.w.allowed {
		d.resume(capture{stage: -1, key: key})
	}
	d.identities()
}

// follow drops the programs that the reconciler's grace periods have outlived.
func (d *reader) follow() {
	now := d.w.r.grace.waiting
	if now == d.period {
		return
	}
	if d.period != nil {
		for c, born := range d.captured {
			if born < d.from {
				delete(d.captured, c)
			}
		}
	}
	d.period, d.from = now, d.step+1
}

func (d *reader) capture(c capture) {
	if d.captured == nil {
		d.captured = map[capture]int{}
	}
	d.captured[c] = max(d.captured[c], d.born)
}

// resume runs a program to its end, capturing it after each read.
func (d *reader) resume(c capture) {
	w, a := d.w, d.w.allowed[c.key]
	if a == nil { // began before the last convergence check
		return
	}
	if c.stage < hasFrontend {
		v, found, _ := w.tables.Frontends.Get(c.key)
		if !wildcard(c.key) && !w.tables.Filter.Has(abi.FilterBit(c.key.Addr)) {
			found = false
		}
		if !found {
			if !a.absent {
				w.t.Fatalf("write %d: frontend %s is absent", w.writes, keyString(c.key))
			}
			return
		}
		c.stage, c.value = hasFrontend, v
		d.capture(c)
	}
	if c.stage == hasFrontend {
		if !a.values[[2]uint32{c.value.Flags, c.value.AffinitySecs}] {
			w.t.Fatalf("write %d: frontend %s has unexpected value %+v", w.writes, keyString(c.key), c.value)
		}
		if c.value.Service == maps.NoService {
			return
		}
		d.access(c, a)
		for kind := range abi.SetKind(abi.SetKinds) {
			if picks(c.value.Flags, kind) {
				d.resumeSet(c, kind, a)
			}
		}
		return
	}
	d.resumeMember(c, a)
}

// access checks whom source_allowed (bpf/lib/frontend.h) lets in.
func (d *reader) access(c capture, a *allowed) {
	if d.w.tables.Packet == nil {
		return
	}
	for _, client := range clients {
		in := slices.ContainsFunc(d.ranges[c.value.Service], func(r netip.Prefix) bool { return r.Contains(client) })
		switch admitted := in || !guards(c.value.Flags); {
		case admitted && !a.admitted[client]:
			d.w.t.Fatalf("write %d: %v: lets %v in by %v", d.w.writes, c, client, d.ranges[c.value.Service])
		case !admitted && !a.refused[client] && !d.w.scarce:
			d.w.t.Fatalf("write %d: %v: keeps %v out by %v", d.w.writes, c, client, d.ranges[c.value.Service])
		}
	}
}

// sourceRanges reads the source ranges by Service port.
func sourceRanges(tables *maps.Tables) map[uint32][]netip.Prefix {
	ranges := map[uint32][]netip.Prefix{}
	if tables.Packet == nil {
		return ranges
	}
	must(tables.Packet.SourceRanges.Each(func(key abi.SourceRangeKey, _ uint32) bool {
		ranges[key.Service] = append(ranges[key.Service], netip.MustParsePrefix(rangeString(key)))
		return true
	}))
	return ranges
}

func (d *reader) resumeSet(c capture, kind abi.SetKind, a *allowed) {
	c.stage, c.kind, c.word = hasWord, kind, d.w.tables.Sets.Load(c.value.Service, kind)
	d.capture(c)
	d.resumeMember(c, a)
}

func (d *reader) resumeMember(c capture, a *allowed) {
	w := d.w
	if c.stage == hasWord {
		if content := d.content(c); !a.content[c.kind][content] {
			w.t.Fatalf("write %d: %v: set is %q, allowed %v", w.writes, c, content, a.content[c.kind])
		}
		base, count := abi.UnpackSet(c.word)
		for i := base; i < base+count; i++ {
			member := c
			member.stage, member.index = hasIndex, w.tables.Slots.Load(i)
			d.capture(member)
			d.resumeMember(member, a)
		}
		return
	}
	b := w.tables.Backends.Load(c.index)
	if c.stage == hasIndex {
		if b.Service != c.value.Service || b.Generation == 0 {
			w.t.Fatalf("write %d: %v: finds dead or foreign backend %+v", w.writes, c, b)
		}
		c.stage, c.backend = hasBackend, b
		d.capture(c)
	}
	if b.Addr != c.backend.Addr || b.Port != c.backend.Port {
		w.t.Fatalf("write %d: %v: backend %+v became %+v", w.writes, c, c.backend, b)
	}
	if !a.members[c.kind][abi.Backend{Addr: b.Addr, Port: b.Port}] {
		w.t.Fatalf("write %d: %v: picks %v, not allowed", w.writes, c, netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)))
	}
}

// content is what a set offers, in the form of planContent.
func (d *reader) content(c capture) string {
	base, count := abi.UnpackSet(c.word)
	if count == 0 {
		return [...]string{abi.EmptyReject: "reject", abi.EmptyDrop: "drop"}[base]
	}
	var addrs []string
	for i := base; i < base+count; i++ {
		b := d.w.tables.Backends.Load(d.w.tables.Slots.Load(i))
		addr := netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)).String()
		if b.Generation == 0 || b.Service != c.value.Service {
			addr = "stale"
		}
		addrs = append(addrs, addr)
	}
	return strings.Join(addrs, " ")
}

// identities checks that an index and its generation never mean two things.
func (d *reader) identities() {
	for i := range d.w.tables.Backends.Len() {
		if d.w.r.backends.taken[i/64] == 0 {
			continue
		}
		b := d.w.tables.Backends.Load(i)
		if b.Generation == 0 || b.State == uint8(abi.BackendFree) {
			continue
		}
		name, _, _ := d.w.tables.Services.Get(b.Service)
		id, _ := portID(name)
		what := fmt.Sprint(id, abi.NetIP(b.Addr), abi.Port(b.Port))
		key := identity{i, b.Generation}
		if was, ok := d.w.live[key]; ok && was != what {
			d.w.t.Fatalf("backend %d generation %d was %s and is %s", i, b.Generation, was, what)
		}
		d.w.live[key] = what
	}
}

// view is the meaning of tables, free of indexes.
type view struct {
	Frontends map[string]frontendView
	Ports     map[string]portView
	Filter    []uint32
	Host      host.Tables
	Garbage   []string
}

type frontendView struct {
	Port                string
	Flags, AffinitySecs uint32
}

type portView struct {
	Cluster, Local string
	Backends       []string
	Ranges         []string
}

func desiredView(desired map[model.Name]plan.Service, h host.Tables) view {
	v := view{Frontends: map[string]frontendView{}, Ports: map[string]portView{}, Host: h}
	filter := map[uint32]bool{}
	for _, a := range h.Addresses {
		filter[abi.FilterBit(abi.Addr(a.Addr))] = true
	}
	for _, s := range desired {
		for _, p := range s.Ports {
			pv := portView{Cluster: planContent(p, p.Cluster), Local: planContent(p, p.Local)}
			for i, b := range p.Backends {
				var kinds []string
				for kind, set := range []plan.Set{p.Cluster, p.Local} {
					if slices.Contains(set.Members, i) {
						kinds = append(kinds, fmt.Sprint(kind))
					}
				}
				pv.Backends = append(pv.Backends, fmt.Sprint(b.Addr, b.State, b.Local, kinds))
			}
			slices.Sort(pv.Backends)
			if i := slices.IndexFunc(p.Frontends, guarded); i >= 0 {
				pv.Ranges = rangeStrings(p.Frontends[i].SourceRanges)
			}
			v.Ports[p.ID.String()] = pv
			for _, f := range p.Frontends {
				key := frontendKey(f.FrontendKey)
				v.Frontends[keyString(key)] = frontendView{p.ID.String(), frontendFlags(f), affinitySecs(f.AffinityTimeout)}
				if !f.Addr.IsUnspecified() {
					filter[abi.FilterBit(key.Addr)] = true
				}
			}
		}
		for _, addr := range s.Addresses {
			v.Frontends[addr.String()] = frontendView{Flags: abi.FlagAddress}
			filter[abi.FilterBit(abi.Addr(addr))] = true
		}
	}
	for bit := range filter {
		v.Filter = append(v.Filter, bit)
	}
	slices.Sort(v.Filter)
	return v
}

func rangeStrings(ranges []netip.Prefix) []string {
	var texts []string
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	slices.Sort(texts)
	return texts
}

func tableView(t testing.TB, tables *maps.Tables) view {
	v := view{Frontends: map[string]frontendView{}, Ports: map[string]portView{}}
	names := map[uint32]string{maps.NoService: ""}
	sets := func(i uint32, kind abi.SetKind) string {
		return (&reader{w: &world{tables: tables}}).content(capture{
			kind: kind, word: tables.Sets.Load(i, kind), value: abi.Frontend{Service: i}})
	}
	garbage := func(format string, args ...any) { v.Garbage = append(v.Garbage, fmt.Sprintf(format, args...)) }
	err := tables.Services.Each(func(i uint32, n abi.ServiceName) bool {
		id, ok := portID(n)
		if _, twice := v.Ports[id.String()]; !ok || twice {
			garbage("name %d: %v", i, id)
		}
		names[i] = id.String()
		v.Ports[id.String()] = portView{Cluster: sets(i, abi.SetCluster), Local: sets(i, abi.SetLocal)}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables.Sets.Services() {
		if _, ok := names[i]; !ok && tables.Sets.Load(i, abi.SetCluster)|tables.Sets.Load(i, abi.SetLocal) != 0 {
			garbage("set words of %d", i)
		}
	}
	for i := range tables.Backends.Len() {
		b := tables.Backends.Load(i)
		p, ok := v.Ports[names[b.Service]]
		switch {
		case b.State == uint8(abi.BackendFree) && b.Generation == 0:
		case b.State == uint8(abi.BackendFree) || b.Generation == 0 || !ok:
			garbage("backend %d: %+v", i, b)
		default:
			p.Backends = append(p.Backends, backendString(b))
			slices.Sort(p.Backends)
			v.Ports[names[b.Service]] = p
		}
	}
	for i, ranges := range sourceRanges(tables) {
		p, ok := v.Ports[names[i]]
		if !ok {
			garbage("source ranges of %d: %v", i, ranges)
			continue
		}
		p.Ranges = rangeStrings(ranges)
		v.Ports[names[i]] = p
	}
	v.Host = hostOf(tables)
	err = tables.Frontends.Each(func(key abi.FrontendKey, f abi.Frontend) bool {
		v.Frontends[keyString(key)] = frontendView{names[f.Service], f.Flags, f.AffinitySecs}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for bit := range tables.Filter.Len() {
		if tables.Filter.Has(bit) {
			v.Filter = append(v.Filter, bit)
		}
	}
	return v
}

func backendString(b abi.Backend) string {
	state := map[uint8]plan.State{
		uint8(abi.BackendActive):      plan.Active,
		uint8(abi.BackendTerminating): plan.Terminating,
		uint8(abi.BackendDraining):    plan.Draining,
	}[b.State]
	var kinds []string
	for kind := range abi.SetKinds {
		if b.Sets>>kind&1 == 1 {
			kinds = append(kinds, fmt.Sprint(kind))
		}
	}
	return fmt.Sprint(netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port)), state, b.Local == 1, kinds)
}
