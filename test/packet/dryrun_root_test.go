// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
)

// A dry run decides as the programs do, and leaves every table of the node as it
// was, whatever comes: new flows, established ones, pins, refusals.
func TestADryRunDecidesAlikeAndWritesNothing(t *testing.T) {
	dice := rand.New(rand.NewPCG(7, 2))
	d := newDuel(t, false, true)
	for range 20 {
		d.addService(dice)
	}
	dry := d.dryRun(datapath.PacketOptions{
		RefuseUnknownPorts: true, MasqueradeLocal: true, DetectLocal4: true, DetectLocal6: true,
		ICMPRate: 1000000, ICMPBurst: 1000000,
	})
	seen, compared := map[abi.TraceStage]int{}, 0
	for range 100 {
		f := d.packet(dice)
		if f.Src.Addr() == f.Dst.Addr() {
			continue
		}
		for _, f := range []Frame{f, reply(f)} { // the second goes on with the flow, if one was made
			before := d.dump()
			for range 3 {
				r, err := d.dry(dry, f)
				check(t, err)
				seen[abi.TraceStage(r.Trace.Stage)]++
			}
			if after := d.dump(); !bytes.Equal(before, after) {
				t.Fatalf("%v -> %v: a dry run changed a table", f.Src, f.Dst)
			}
			if d.alike(dry, f) {
				compared++
			}
		}
	}
	if compared == 0 {
		t.Error("no dry run chose the backend that the program chose")
	}
	for _, s := range []abi.TraceStage{abi.TraceNothing, abi.TraceNoFrontend, abi.TraceRefused, abi.TraceTranslated} {
		if seen[s] == 0 {
			t.Errorf("no packet ended at stage %d: %v", s, seen)
		}
	}
}

// reply is what comes next from the same client.
func reply(f Frame) Frame {
	if f.Proto == TCP {
		f.Flags = ACK
	}
	return f
}

// alike runs both and compares verdict, counters and bytes. The backend is random,
// and what a verdict is depends on where it runs: so of a packet that goes to one
// only the verdict is compared, with that of a dry run that chose the same.
// Returns whether there was one.
func (d *duel) alike(dry *datapath.DryRun, f Frame) bool {
	d.t.Helper()
	want, err := d.dry(dry, f)
	check(d.t, err)
	translated := want.Trace.Stage == uint32(abi.TraceTranslated)
	byBackend := map[netip.AddrPort]datapath.DryVerdict{}
	if translated {
		byBackend = d.dryByBackend(dry, f)
	}
	before := d.counters()
	got := d.in(f)
	var counted []abi.Counter
	for i := range abi.Counters {
		if name := abi.Counter(i).String(); d.counters()[name] != before[name] {
			counted = append(counted, abi.Counter(i))
		}
	}
	if !slices.Equal(counted, want.Counters) {
		d.t.Fatalf("%v -> %v, protocol %d: the dry run counts %v, the program %v", f.Src, f.Dst, f.Proto, want.Counters, counted)
	}
	verdict, known := want.Verdict, true
	if translated {
		to, err := Read(got.bytes, false)
		check(d.t, err)
		verdict, known = byBackend[to.Dst]
	}
	if known && got.verdict != int(verdict) {
		d.t.Fatalf("%v -> %v, protocol %d: the dry run says %d, the program %d", f.Src, f.Dst, f.Proto, verdict, got.verdict)
	}
	if !translated && !bytes.Equal(got.bytes, want.Packet) {
		d.t.Fatalf("%v -> %v: the dry run makes\n% x\nand the program\n% x", f.Src, f.Dst, want.Packet, got.bytes)
	}
	return translated && known
}

// dryByBackend asks until, most likely, every backend was chosen once.
func (d *duel) dryByBackend(dry *datapath.DryRun, f Frame) map[netip.AddrPort]datapath.DryVerdict {
	d.t.Helper()
	verdicts := map[netip.AddrPort]datapath.DryVerdict{}
	for range 8 {
		r, err := d.dry(dry, f)
		check(d.t, err)
		to, err := Read(r.Packet, false)
		check(d.t, err)
		if old, seen := verdicts[to.Dst]; seen && old != r.Verdict {
			d.t.Fatalf("%v -> %v by %v: dry runs say %d and %d", f.Src, f.Dst, to.Dst, old, r.Verdict)
		}
		verdicts[to.Dst] = r.Verdict
	}
	return verdicts
}

func (w *world) dryRun(opts datapath.PacketOptions) *datapath.DryRun {
	w.t.Helper()
	dry, err := datapath.NewDryRun(w.maps, opts)
	check(w.t, err)
	w.t.Cleanup(func() { _ = dry.Close() })
	return dry
}

func (w *world) dry(dry *datapath.DryRun, f Frame) (r datapath.DryResult, err error) {
	err = w.ns.Do(func() error {
		r, err = dry.Run("ingress", w.uplink, w.frame(f).Bytes())
		return err
	})
	return r, err
}

// dump is the content of every table that programs write.
func (w *world) dump() []byte {
	w.t.Helper()
	var tokens []abi.RateBucket
	check(w.t, w.maps[abi.MapICMPTokens].Lookup(uint32(0), &tokens))
	pins := map[string]abi.Affinity{}
	var key abi.AffinityKey
	var pin abi.Affinity
	each := w.maps[abi.MapAffinities].Iterate()
	for each.Next(&key, &pin) {
		text, err := json.Marshal(key)
		check(w.t, err)
		pins[string(text)] = pin
	}
	check(w.t, each.Err())
	var fragments int
	var id abi.FragmentKey
	var ports abi.Fragment
	all := w.maps[abi.MapFragments].Iterate()
	for all.Next(&id, &ports) {
		fragments++
	}
	check(w.t, all.Err())
	text, err := json.Marshal(map[string]any{
		"flows": w.flows(), "hints": w.hints(), "counters": w.counters(), "tokens": tokens, "pins": pins, "fragments": fragments,
	})
	check(w.t, err)
	return text
}
