// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// Event is something that went on in the kernel, with names.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is socket, flow, refused or dropped.
	Kind     string `json:"kind"`
	Hook     string `json:"hook"`
	Protocol string `json:"protocol"`
	// Client has no address at the socket: its source is not chosen yet.
	Client Client `json:"client"`
	// Service is missing where the address is nobody's, or nobody's any more.
	Service *ServicePort `json:"service,omitempty"`
	// Frontend is what the client asked for.
	Frontend string `json:"frontend"`
	Backend  *Party `json:"backend,omitempty"`
	// Source is what the backend sees, where that is not the client.
	Source string `json:"source,omitempty"`
	// Reason is why nothing came of it; Meaning says it in words.
	Reason  string `json:"reason,omitempty"`
	Meaning string `json:"meaning,omitempty"`
	Ifindex uint32 `json:"ifindex,omitempty"`

	frontend netip.Addr
}

// Client is who asked: an address, or a process of this node.
type Client struct {
	Party
	Process string `json:"process,omitempty"`
	PID     uint32 `json:"pid,omitempty"`
	// NetNS is the cookie of the network namespace, Cgroup the cgroup's id.
	NetNS  uint64 `json:"netns,omitempty"`
	Cgroup uint64 `json:"cgroup,omitempty"`
}

func (c Client) String() string {
	if c.Address != "" {
		return c.Party.String()
	}
	return fmt.Sprintf("%s[%d]", c.Process, c.PID)
}

// Line is the event as one line of text, without its time.
func (e Event) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-7s  %-4s  %v → ", e.Kind, e.Protocol, e.Client)
	if e.Service != nil {
		fmt.Fprintf(&b, "%v (%s)", e.Service, e.Frontend)
	} else {
		b.WriteString(e.Frontend)
	}
	if e.Backend != nil && e.Reason == "" {
		fmt.Fprintf(&b, " → %v", e.Backend)
	}
	if e.Source != "" {
		fmt.Fprintf(&b, ", from %s", e.Source)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, "  %s", e.Reason)
	}
	if e.Meaning != "" {
		fmt.Fprintf(&b, ": %s", e.Meaning)
	}
	return b.String()
}

// EventKinds are the names of the kinds, by abi.EventKind.
func EventKinds() []string { return []string{"socket", "flow", "refused", "dropped"} }

func hookName(h uint8) string {
	switch abi.EventHook(h) {
	case abi.EventAtConnect:
		return "connect"
	case abi.EventAtSendmsg:
		return "sendmsg"
	case abi.EventAtIngress:
		return "ingress"
	case abi.EventAtEgress:
		return "egress"
	}
	return fmt.Sprintf("hook %d", h)
}

// clockOffset is what to add to CLOCK_MONOTONIC to get the time of day.
func (n *Names) clockOffset() time.Duration {
	return time.Duration(n.now().UnixNano() - int64(maps.Monotonic()))
}

// event gives names to an event.
func (n *Names) event(e *abi.Event, offset time.Duration) Event {
	frontend := n.party(e.Asked.Dst, e.Asked.Dport)
	v := Event{
		Time:     time.Unix(0, int64(e.TimeNs)+int64(offset)),
		Kind:     "unknown",
		Hook:     hookName(e.Hook),
		Protocol: protocolName(e.Asked.Protocol),
		Service:  n.Service(e.Service),
		Frontend: frontend.Address,
		Ifindex:  e.Ifindex,
		frontend: frontend.at.Addr(),
	}
	if int(e.Kind) < abi.EventKinds {
		v.Kind = EventKinds()[e.Kind]
	}
	if e.Asked.Src != (abi.IP{}) {
		v.Client.Party = n.party(e.Asked.Src, e.Asked.Sport)
	}
	if e.Pid != 0 || e.Netns != 0 {
		comm, _, _ := bytes.Cut(e.Comm[:], []byte{0})
		v.Client.Process, v.Client.PID = printable(string(comm)), e.Pid
		v.Client.NetNS, v.Client.Cgroup = e.Netns, e.Cgroup
	}
	if e.To.Dst != (abi.IP{}) {
		backend := n.party(e.To.Dst, e.To.Dport)
		v.Backend = &backend
		if e.To.Src != (abi.IP{}) && (e.To.Src != e.Asked.Src || e.To.Sport != e.Asked.Sport) {
			v.Source = n.party(e.To.Src, e.To.Sport).Address
		}
	}
	switch abi.EventKind(e.Kind) {
	case abi.EventRefused, abi.EventDropped:
		v.Reason = abi.Counter(e.Reason).String()
		v.Meaning = Meaning(v.Reason)
	}
	return v
}

// printable keeps a process's name, which anybody may choose, from writing to
// a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\ufffd' {
			return '?'
		}
		return r
	}, s)
}

// EventFilter picks events. A zero field picks all.
type EventFilter struct {
	// Service is "namespace/name" or "namespace/name:port".
	Service string
	// Address is of any party.
	Address netip.Prefix
	Kinds   []abi.EventKind
	Reason  string
}

func (f EventFilter) matches(e *Event) bool {
	if e.Service != nil && e.Service.Namespace == "" {
		return false // the agent's own self-test
	}
	if f.Service != "" && (e.Service == nil || !e.Service.Matches(f.Service)) {
		return false
	}
	if f.Reason != "" && e.Reason != f.Reason {
		return false
	}
	if !f.Address.IsValid() || f.Address.Contains(e.frontend) || f.Address.Contains(e.Client.at.Addr()) {
		return true
	}
	return e.Backend != nil && f.Address.Contains(e.Backend.at.Addr())
}

// Watch calls show for every event that the filter picks, until ctx ends or
// show returns false. lost is called when events were lost, with how many so
// far.
func Watch(ctx context.Context, t *maps.Tables, n *Names, f EventFilter, show func(Event) bool, lost func(uint64)) (err error) {
	kernel := maps.EventFilter{Kinds: f.Kinds, Service: abi.ServiceNone}
	l, err := t.Listen(kernel)
	if err != nil {
		return err
	}
	defer func() {
		if closing := l.Close(); err == nil {
			err = closing
		}
	}()
	offset, missed := n.clockOffset(), uint64(0)
	var e abi.Event
	for {
		if err := l.Read(ctx, &e); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if v := n.event(&e, offset); f.matches(&v) && !show(v) {
			return nil
		}
		if !l.Waiting() && l.Lost() != missed {
			missed = l.Lost()
			lost(missed)
		}
	}
}
