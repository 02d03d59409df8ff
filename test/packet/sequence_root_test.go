// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// Random packets of a few clients through tables that are far too small, with
// answers, ends, silence and removed backends in between. Whatever happens: a
// packet goes where the oracle lets it go; an established flow stays as it is; an
// answer reaches who asked or nobody; no flow is half; no two look alike.
func TestRandomFlowsInSmallTables(t *testing.T) {
	for _, size := range []uint32{4, 16, 64} {
		for seed := range uint64(2) {
			play(t, size, rand.New(rand.NewPCG(uint64(size), seed)))
		}
	}
}

// sequence is a duel with a memory of what was said.
type sequence struct {
	*duel
	dice   *rand.Rand
	oracle *oracle.Oracle
	talks  map[talkKey]*talk
	done   map[string]int
}

type talkKey struct {
	client, to netip.AddrPort
	proto      uint8
}

// talk is what a client and a backend have of each other.
type talk struct {
	seen     Frame // the last request as the backend got it
	local    bool  // the backend runs on this node
	answered bool
	// held: nothing but time or its backend's end may take it away.
	held   bool
	ending bool // the client has said goodbye
	idle   time.Duration
}

func play(t *testing.T, size uint32, dice *rand.Rand) {
	t.Helper()
	d := newDuelOf(t, size, false, false)
	for range 6 {
		d.addService(dice)
	}
	s := &sequence{d, dice, oracle.New(d.view), map[talkKey]*talk{}, map[string]int{}}
	for i := range 1000 {
		switch n := dice.IntN(100); {
		case n < 60:
			s.request()
		case n < 92:
			s.answer()
		case n < 96:
			s.silence()
		default:
			s.removeEndpoint()
		}
		if i%100 == 99 {
			s.sound()
		}
	}
	t.Logf("%d records: %v; counters %v", size, s.done, d.counters())
	if s.done["kept"] == 0 || s.done["answered"] == 0 {
		t.Errorf("the dice are loaded: %v", s.done)
	}
}

// request sends a client's packet, the first or a later one.
func (s *sequence) request() {
	s.t.Helper()
	p := s.view.Services[s.dice.IntN(len(s.view.Services))].Ports[0]
	to := p.Frontends[s.dice.IntN(len(p.Frontends))].FrontendKey
	side := sides[0]
	if p.ID.Family == model.IPv6 {
		side = sides[1]
	}
	if to.Addr.IsUnspecified() {
		to.Addr = side.node
	}
	client := port([]netip.Addr{side.client, side.other}[s.dice.IntN(2)], uint16(2000+s.dice.IntN(4)))
	key := talkKey{client, port(to.Addr, to.Port), uint8(to.Protocol)}
	f, old := opening(key.proto, key.client, key.to), s.talks[key]
	ends, opens := false, key.proto != UDP
	if old != nil && s.dice.IntN(4) > 0 {
		f, opens = goesOn(f), false
		if ends = key.proto == TCP && s.dice.IntN(8) == 0; ends {
			f.Flags = FIN | ACK
		}
	}
	q := oracle.Packet{Protocol: model.Protocol(key.proto), Source: client.Addr(), Destination: key.to, Pinned: s.pinned(s.oracle, f)}
	free := s.oracle.Ask(q)
	if old != nil {
		q.Flow = old.seen.Dst
	}
	kept := s.oracle.Ask(q)
	before, r := s.counters(), s.in(f)
	got, err := Read(r.bytes, false)
	check(s.t, err)
	translated := err == nil && got.Dst != f.Dst && r.verdict != shot && got.Proto == f.Proto
	if !translated {
		s.refused(f, r, free, before, old)
		delete(s.talks, key)
		return
	}
	allowed := free.Backends
	if kept.Verdict == oracle.Translate {
		allowed = append(slices.Clone(allowed), kept.Backends...)
	}
	i := slices.IndexFunc(allowed, func(b oracle.Backend) bool { return b.Addr == got.Dst })
	if i < 0 {
		s.t.Fatalf("%v -> %v, protocol %d: became %v -> %v, which is none of %v", f.Src, f.Dst, f.Proto, got.Src, got.Dst, allowed)
	}
	now := &talk{seen: got, local: allowed[i].Local}
	if old != nil && old.seen.Src == got.Src && old.seen.Dst == got.Dst && !(old.ending && opens) {
		now.local, now.held, now.ending = old.local, old.held, old.ending
		now.answered = old.held || old.answered && s.replied(key) // else it may be another one that looks the same
		s.done["kept"]++
	} else if gone := old != nil && opens && !slices.ContainsFunc(p.Backends, func(b plan.Backend) bool { return b.Addr == q.Flow }); gone {
		s.done["begun elsewhere"]++ // nobody connects to a removed backend again
	} else if old != nil && old.held && kept.Verdict == oracle.Translate && len(kept.Backends) == 1 && kept.Backends[0].Addr == old.seen.Dst {
		s.t.Fatalf("%v -> %v, protocol %d: was held as %v -> %v and became %v -> %v; %v; counters %v",
			f.Src, f.Dst, f.Proto, old.seen.Src, old.seen.Dst, got.Src, got.Dst, kept.Steps, s.counters())
	}
	now.ending = now.ending || ends
	now.held = (now.held || now.answered && !opens) && !now.ending
	s.talks[key] = now
}

// replied reports whether the table knows an answer in that flow.
func (s *sequence) replied(key talkKey) bool {
	return slices.ContainsFunc(s.flows(), func(f abi.Flow) bool {
		q := f.Tuple[abi.FlowRequest]
		return abi.NetIP(q.Src) == key.client.Addr() && abi.Port(q.Sport) == key.client.Port() && q.Protocol == key.proto &&
			abi.NetIP(q.Dst) == key.to.Addr() && abi.Port(q.Dport) == key.to.Port() && f.Flags&abi.FlowReplied != 0
	})
}

// refused checks that a packet which was not translated was not to be, or that
// there was no room for it.
func (s *sequence) refused(f Frame, r result, want oracle.Answer, before map[string]uint64, old *talk) {
	s.t.Helper()
	if old != nil && old.held && f.Proto != UDP {
		s.t.Fatalf("%v -> %v, protocol %d: its flow was held, and the packet was not translated: verdict %d", f.Src, f.Dst, f.Proto, r.verdict)
	}
	s.done["refused"]++
	switch after := s.counters(); {
	case want.Verdict != oracle.Translate:
	case after["flow_table_full"] > before["flow_table_full"], after["snat_no_port"] > before["snat_no_port"]:
		s.done["no room"]++
	case r.verdict == pass && f.Proto != UDP && f.Flags != SYN: // on the node's own address: the stack's
	default:
		s.t.Fatalf("%v -> %v, protocol %d: verdict %d, want one of %v; counters %v", f.Src, f.Dst, f.Proto, r.verdict, want.Backends, after)
	}
}

// answer sends what a backend says to what it got last.
func (s *sequence) answer() {
	s.t.Helper()
	if len(s.talks) == 0 {
		return
	}
	keys := make([]talkKey, 0, len(s.talks))
	for k := range s.talks {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b talkKey) int {
		return slices.Compare([]string{a.client.String(), a.to.String(), string(rune(a.proto))}, []string{b.client.String(), b.to.String(), string(rune(b.proto))})
	})
	key := keys[s.dice.IntN(len(keys))]
	talk := s.talks[key]
	f := answer(talk.seen)
	if talk.answered {
		f = goesOn(f)
	}
	r := s.out(f)
	if !talk.local {
		r = s.in(f)
	}
	if r.verdict == shot {
		s.t.Fatalf("the answer %v -> %v was dropped; counters %v", f.Src, f.Dst, s.counters())
	}
	got, err := Read(r.bytes, false)
	check(s.t, err)
	switch {
	case got.Src == key.to && got.Dst == key.client:
		s.done["answered"]++
		talk.answered, talk.idle = true, 0
		if key.proto == UDP {
			talk.held = true
		}
	case !talk.held && (cmp.Equal(describe(got), describe(f)) || s.talks[talkKey{got.Dst, got.Src, key.proto}] != nil):
		s.done["too late"]++ // its flow had to go, and another may look like it since
		delete(s.talks, key)
	default:
		s.t.Fatalf("the answer %v -> %v to %v of %v became %v -> %v, protocol %d; held: %v, idle %v; %v; counters %v", f.Src, f.Dst, key.to, key.client, got.Src, got.Dst, key.proto, talk.held, talk.idle, s.done, s.counters())
	}
}

// silence lets time pass.
func (s *sequence) silence() {
	d := []time.Duration{30 * time.Second, time.Hour}[s.dice.IntN(2)]
	s.updateFlows(func(f *abi.Flow) { f.SeenNs -= uint64(d) })
	for key, talk := range s.talks {
		talk.idle += d
		limit := 100 * time.Second // see config_flow_timeout_secs
		if key.proto == TCP {
			limit = 20 * time.Hour
		}
		if talk.idle > limit {
			talk.held = false
		}
	}
}

// removeEndpoint takes a backend away, and brings another one.
func (s *sequence) removeEndpoint() {
	n := s.dice.IntN(len(s.services))
	k, p := s.services[n], &s.view.Services[n].Ports[0]
	if len(k.endpoints) == 0 {
		return
	}
	i := s.dice.IntN(len(k.endpoints))
	old := k.endpoints[i]
	e := &endpoint{at: port(old.at.Addr(), old.at.Port()+10), local: old.local}
	k.endpoints[i] = e
	p.Backends = slices.Clone(p.Backends)
	p.Backends[i].Addr = e.at
	frontends := k.frontends
	k.frontends = nil // those stay as they are
	s.world.addService(k)
	k.frontends = frontends
	s.removeBackend(old)
	s.oracle = oracle.New(s.view)
	s.done["removed"]++
}

// sound checks the table as a whole.
func (s *sequence) sound() {
	s.t.Helper()
	s.wantWholeFlows()
	s.wantNothingHeld()
	for direction := range (abi.Flow{}).Tuple {
		seen := map[abi.FlowTuple]bool{}
		for _, f := range s.flows() {
			if tuple := f.Tuple[direction]; seen[tuple] {
				s.t.Errorf("two flows have the tuple %+v", tuple)
			} else {
				seen[tuple] = true
			}
		}
	}
}

// newDuelOf is a duel with a flow table of that size.
func newDuelOf(t *testing.T, flows uint32, masqueradeAll, detect bool) *duel {
	d := newDuel(t, masqueradeAll, detect)
	small := newMaps(t, flows)
	d.maps[abi.MapFlows], d.maps[abi.MapFlowIndex] = small[abi.MapFlows], small[abi.MapFlowIndex]
	d.load(datapath.PacketOptions{RefuseUnknownPorts: true, MasqueradeLocal: true, MasqueradeAll: masqueradeAll,
		DetectLocal4: detect, DetectLocal6: detect, ICMPRate: 1000000, ICMPBurst: 1000000})
	return d
}
