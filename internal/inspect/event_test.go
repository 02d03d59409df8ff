// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

func testTables(t *testing.T) *maps.Tables {
	t.Helper()
	tables := maps.NewMemory(maps.Sizes{Frontends: 8, Services: 8, Slots: 8, Backends: 8})
	name, err := abi.NewServiceName("default", "web", "http", 6, 4)
	if err != nil {
		t.Fatal(err)
	}
	if err := tables.Services.Put(3, name); err != nil {
		t.Fatal(err)
	}
	return tables
}

func flowTuple(src, dst string, protocol uint8) (t abi.FlowTuple) {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	t.Src, t.Sport = abi.Addr(s.Addr()), abi.Port(s.Port())
	t.Dst, t.Dport = abi.Addr(d.Addr()), abi.Port(d.Port())
	t.Protocol = protocol
	return t
}

func TestEventsHaveNames(t *testing.T) {
	pod := func(at netip.AddrPort) string {
		return map[string]string{"10.244.1.5:8080": "web-7d4b"}[at.String()]
	}
	n := NewNames(testTables(t), pod, time.Now)
	socket := abi.Event{Service: 3, Kind: uint8(abi.EventSocket), Pid: 42, Netns: 7}
	copy(socket.Comm[:], "cu\x1brl")
	socket.Asked.Dst, socket.Asked.Dport, socket.Asked.Protocol = abi.Addr(netip.MustParseAddr("10.96.0.10")), abi.Port(80), 6
	socket.To.Dst, socket.To.Dport = abi.Addr(netip.MustParseAddr("10.244.1.5")), abi.Port(8080)
	flow := abi.Event{
		Service: 3, Kind: uint8(abi.EventFlow), Hook: uint8(abi.EventAtIngress),
		Asked: flowTuple("203.0.113.7:4000", "10.96.0.10:80", 17), To: flowTuple("192.0.2.1:1024", "10.244.1.5:8080", 17),
	}
	refused := abi.Event{
		Service: abi.ServiceNone, Kind: uint8(abi.EventRefused), Hook: uint8(abi.EventAtIngress), Reason: 2,
		Asked: flowTuple("[2001:db8::1]:4000", "[fd00::1]:81", 132),
	}
	for _, c := range []struct {
		name  string
		event abi.Event
		want  string
	}{
		{"socket", socket, "socket   TCP   cu?rl[42] → default/web:http (10.96.0.10:80) → web-7d4b (10.244.1.5:8080)"},
		{"flow", flow, "flow     UDP   203.0.113.7:4000 → default/web:http (10.96.0.10:80) → web-7d4b (10.244.1.5:8080), from 192.0.2.1:1024"},
		{"refused", refused, "refused  SCTP  [2001:db8::1]:4000 → [fd00::1]:81  unknown_port: the Service has no such port"},
		{"from the future", abi.Event{Kind: 99, Hook: 99, Reason: 999, Service: 99}, "unknown  protocol 0  [0] → [::]:0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := n.event(&c.event, 0).Line(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestEventsAreFiltered(t *testing.T) {
	n := NewNames(testTables(t), nil, time.Now)
	e := n.event(&abi.Event{
		Service: 3, Kind: uint8(abi.EventDropped), Reason: 1,
		Asked: flowTuple("203.0.113.7:4000", "10.96.0.10:80", 6), To: flowTuple("203.0.113.7:4000", "10.244.1.5:8080", 6),
	}, 0)
	prefix := netip.MustParsePrefix
	for name, c := range map[string]struct {
		filter EventFilter
		want   bool
	}{
		"all":              {EventFilter{}, true},
		"Service":          {EventFilter{Service: "default/web"}, true},
		"port":             {EventFilter{Service: "default/web:http"}, true},
		"another port":     {EventFilter{Service: "default/web:dns"}, false},
		"another Service":  {EventFilter{Service: "default/we"}, false},
		"reason":           {EventFilter{Reason: "no_local_backend"}, true},
		"another reason":   {EventFilter{Reason: "no_backend"}, false},
		"client":           {EventFilter{Address: prefix("203.0.113.0/24")}, true},
		"frontend":         {EventFilter{Address: prefix("10.96.0.10/32")}, true},
		"backend":          {EventFilter{Address: prefix("10.244.0.0/16")}, true},
		"another address":  {EventFilter{Address: prefix("192.0.2.0/24")}, false},
		"both must be met": {EventFilter{Service: "default/web", Reason: "no_backend"}, false},
	} {
		if got := c.filter.matches(&e); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Every reason for which something is refused or dropped is explained.
func TestEveryReasonHasAMeaning(t *testing.T) {
	for i := range abi.Counters {
		name := abi.Counter(i).String()
		if Meaning(name) == "" && name != "icmp_sent" {
			t.Errorf("%s is not explained", name)
		}
	}
}

func TestFlowStates(t *testing.T) {
	for _, c := range []struct {
		protocol uint8
		flags    uint32
		want     string
	}{
		{6, 0, "opening"},
		{6, abi.FlowReplied, "answered"},
		{6, abi.FlowReplied | abi.FlowAssured, "established"},
		{6, abi.FlowReplied | abi.FlowAssured | abi.FlowFinReply, "half-closed"},
		{6, abi.FlowReplied | abi.FlowFinReply | abi.FlowFinRequest, "closed"},
		{6, abi.FlowReplied | abi.FlowAssured | abi.FlowRst, "reset"},
		{17, 0, "unanswered"},
		{17, abi.FlowReplied, "answered"},
		{132, 0, "opening"},
		{132, abi.FlowAssured, "established"},
		{132, abi.FlowRst, "closed"},
	} {
		f := abi.Flow{Flags: abi.FlowUsed | c.flags}
		f.Tuple[0].Protocol = c.protocol
		if got := flowState(&f); got != c.want {
			t.Errorf("protocol %d, flags %#x: %s, want %s", c.protocol, c.flags, got, c.want)
		}
	}
	const established = abi.FlowUsed | abi.FlowReplied | abi.FlowAssured
	for flags, want := range map[uint32]abi.FlowTimeout{
		established | abi.FlowRst:                    abi.TimeoutTCPHalfClosed,
		established | abi.FlowRst | abi.FlowFinReply: abi.TimeoutTCPReset,
		abi.FlowUsed | abi.FlowReplied | abi.FlowRst: abi.TimeoutTCPReset,
		established | abi.FlowFinReply:               abi.TimeoutTCPHalfClosed,
	} {
		f := abi.Flow{Flags: flags}
		f.Tuple[0].Protocol = 6
		if got := flowTimeout(&f); got != want {
			t.Errorf("flags %#x: timeout %v, want %v", flags, got, want)
		}
	}
	timeouts := FlowTimeouts{abi.TimeoutUDPUnanswered: 30 * time.Second}
	f := abi.Flow{SeenNs: 100}
	f.Tuple[0].Protocol = 17
	for now, want := range map[uint64]bool{50: false, 100: false, 100 + 30e9: false, 101 + 30e9: true} {
		if expired(&f, now, &timeouts) != want {
			t.Errorf("at %d: expired is not %v", now, want)
		}
	}
}

func TestRatesSinceAnEarlierOverview(t *testing.T) {
	port := func(index uint32, name string) Port { return Port{Namespace: "default", Name: name, Index: index} }
	start := time.Unix(100, 0)
	before := Overview{Time: start, Services: []Serving{
		{Port: port(1, "a"), Traffic: Traffic{Sockets: 5, Flows: 5, RequestBytes: 100, Refusals: map[string]uint64{"x": 1}}},
		{Port: port(2, "b"), Traffic: Traffic{Sockets: 100}},
		{Port: port(3, "c"), Traffic: Traffic{Sockets: 100}},
	}}
	now := Overview{Time: start.Add(2 * time.Second), Services: []Serving{
		{Port: port(1, "a"), Traffic: Traffic{Sockets: 6, Flows: 8, RequestBytes: 300, Refusals: map[string]uint64{"x": 1, "y": 4}}},
		{Port: port(2, "b"), Traffic: Traffic{Sockets: 1}},
		{Port: port(3, "other"), Traffic: Traffic{Sockets: 200}},
		{Port: port(4, "new"), Traffic: Traffic{Sockets: 7}},
	}}
	now.Since(&before)
	if got := now.Services[0].Rates; got != (Rates{Connections: 2, Refusals: 2, RequestBytes: 100}) {
		t.Errorf("rates %+v", got)
	}
	for _, s := range now.Services[1:] {
		if s.Rates != (Rates{}) {
			t.Errorf("%s: rates %+v, want none", s.Name, s.Rates)
		}
	}
}

func TestPrintableKeepsTerminalsSafe(t *testing.T) {
	if got := printable("a\x1b]0;x\x07\u009bé"); strings.ContainsAny(got, "\x1b\x07\u009b") || !strings.Contains(got, "é") {
		t.Errorf("got %q", got)
	}
}
