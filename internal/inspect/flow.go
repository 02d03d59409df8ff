// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// Flow is one flow of the packet path.
type Flow struct {
	Protocol string       `json:"protocol"`
	State    string       `json:"state"`
	Client   Party        `json:"client"`
	Service  *ServicePort `json:"service,omitempty"`
	Frontend string       `json:"frontend"`
	Backend  Party        `json:"backend"`
	// Source is what the backend sees, where that is not the client.
	Source string `json:"source,omitempty"`
	Local  bool   `json:"local"`
	// BackendGone: the backend was removed since the flow began.
	BackendGone bool `json:"backendGone,omitempty"`
	// IdleSeconds since the last packet, give or take one; AgeSeconds since the
	// first.
	IdleSeconds int64 `json:"idleSeconds"`
	AgeSeconds  int64 `json:"ageSeconds"`
	// Expired: it may be replaced, and goes on if it is not.
	Expired bool `json:"expired,omitempty"`

	frontend netip.Addr
}

// FlowFilter picks flows. A zero field picks all.
type FlowFilter struct {
	Service  string
	Address  netip.Prefix
	Protocol model.Protocol
	State    string
	// Expired also picks flows that may be replaced.
	Expired bool
}

// FlowTimeouts says how long silent flows are kept.
type FlowTimeouts [abi.Timeouts]time.Duration

// flowStates are the states by their timeout.
func flowStates() [abi.Timeouts]string {
	return [...]string{
		abi.TimeoutTCPOpening: "opening", abi.TimeoutTCPAnswered: "answered", abi.TimeoutTCPEstablished: "established",
		abi.TimeoutTCPHalfClosed: "half-closed", abi.TimeoutTCPClosed: "closed", abi.TimeoutTCPReset: "reset",
		abi.TimeoutUDPUnanswered: "unanswered", abi.TimeoutUDPAnswered: "answered",
		abi.TimeoutSCTPOpening: "opening", abi.TimeoutSCTPEstablished: "established", abi.TimeoutSCTPClosed: "closed",
	}
}

// FlowStates lists the states that flows can have.
func FlowStates() []string {
	return []string{"opening", "unanswered", "answered", "established", "half-closed", "closed", "reset"}
}

// flowState names a flow's state. That it was reset is said even where it is kept
// longer than one that certainly ended.
func flowState(f *abi.Flow) string {
	if f.Flags&abi.FlowRst != 0 && model.Protocol(f.Tuple[abi.FlowRequest].Protocol) == model.TCP {
		return flowStates()[abi.TimeoutTCPReset]
	}
	return flowStates()[flowTimeout(f)]
}

// flowTimeout is flow_timeout of bpf/lib/flow_state.h.
func flowTimeout(f *abi.Flow) abi.FlowTimeout {
	const fins = abi.FlowFinRequest | abi.FlowFinReply
	flags := f.Flags
	switch model.Protocol(f.Tuple[abi.FlowRequest].Protocol) {
	case model.TCP:
		switch {
		case flags&abi.FlowRst != 0 && (flags&abi.FlowAssured == 0 || flags&fins != 0):
			return abi.TimeoutTCPReset
		case flags&abi.FlowRst != 0:
			return abi.TimeoutTCPHalfClosed // the reset may be anybody's
		case flags&fins == fins:
			return abi.TimeoutTCPClosed
		case flags&fins != 0:
			return abi.TimeoutTCPHalfClosed
		case flags&abi.FlowAssured != 0:
			return abi.TimeoutTCPEstablished
		case flags&abi.FlowReplied != 0:
			return abi.TimeoutTCPAnswered
		}
		return abi.TimeoutTCPOpening
	case model.SCTP:
		switch {
		case flags&(abi.FlowRst|fins) != 0:
			return abi.TimeoutSCTPClosed
		case flags&abi.FlowAssured != 0:
			return abi.TimeoutSCTPEstablished
		}
		return abi.TimeoutSCTPOpening
	}
	if flags&abi.FlowReplied != 0 {
		return abi.TimeoutUDPAnswered
	}
	return abi.TimeoutUDPUnanswered
}

// expired reports whether a flow may be replaced at a time on the kernel's
// monotonic clock.
func expired(f *abi.Flow, now uint64, timeouts *FlowTimeouts) bool {
	return int64(now)-int64(f.SeenNs) > int64(timeouts[flowTimeout(f)])
}

// Flows calls show for the flows that the filter picks, until it returns false.
func Flows(t *maps.Tables, n *Names, timeouts FlowTimeouts, f FlowFilter, show func(Flow) bool) {
	now := maps.Monotonic()
	for i := range t.Flows.Len() {
		record, ok := t.Flows.Load(i)
		if !ok {
			continue
		}
		flow := n.flow(t, &record, now, &timeouts)
		if f.matches(&flow, model.Protocol(record.Tuple[abi.FlowRequest].Protocol)) && !show(flow) {
			return
		}
	}
}

func (n *Names) flow(t *maps.Tables, f *abi.Flow, now uint64, timeouts *FlowTimeouts) Flow {
	asked, reply := &f.Tuple[abi.FlowRequest], &f.Tuple[abi.FlowReply]
	frontend := n.party(asked.Dst, asked.Dport)
	v := Flow{
		Protocol:    protocolName(asked.Protocol),
		State:       flowState(f),
		Client:      n.party(asked.Src, asked.Sport),
		Service:     n.Service(f.Service),
		Frontend:    frontend.Address,
		Backend:     n.party(reply.Src, reply.Sport),
		Local:       f.Flags&abi.FlowLocal != 0,
		IdleSeconds: max(0, int64(now)-int64(f.SeenNs)) / int64(time.Second),
		AgeSeconds:  max(0, int64(now)-int64(f.CreatedNs)) / int64(time.Second),
		Expired:     expired(f, now, timeouts),
		frontend:    frontend.at.Addr(),
	}
	v.BackendGone = f.Backend >= t.Backends.Len() || t.Backends.Load(f.Backend).Generation != f.Generation
	if f.Flags&abi.FlowSNAT != 0 {
		v.Source = n.party(reply.Dst, reply.Dport).Address
	}
	return v
}

func (f FlowFilter) matches(v *Flow, protocol model.Protocol) bool {
	switch {
	case v.Expired && !f.Expired,
		f.Service != "" && (v.Service == nil || !v.Service.Matches(f.Service)),
		f.Protocol != 0 && f.Protocol != protocol,
		f.State != "" && f.State != v.State:
		return false
	case !f.Address.IsValid():
		return true
	}
	return f.Address.Contains(v.Client.at.Addr()) || f.Address.Contains(v.Backend.at.Addr()) || f.Address.Contains(v.frontend)
}
