// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// Traffic is what a Service port has had since its index is its own, and what
// it has now.
type Traffic struct {
	// Sockets are sockets of this node that got a backend; Flows are flows of
	// the packet path.
	Sockets uint64 `json:"sockets"`
	Flows   uint64 `json:"flows"`
	// Packets and bytes of the packet path, from the IP header on. What a
	// socket sends after it got its backend is not seen.
	RequestPackets uint64 `json:"requestPackets"`
	ReplyPackets   uint64 `json:"replyPackets"`
	RequestBytes   uint64 `json:"requestBytes"`
	ReplyBytes     uint64 `json:"replyBytes"`
	// Refusals counts what was refused or dropped, by reason.
	Refusals map[string]uint64 `json:"refusals,omitempty"`
	// ActiveSockets are TCP sockets connected through it, ActiveFlows flows
	// that have not expired.
	ActiveSockets int `json:"activeSockets"`
	ActiveFlows   int `json:"activeFlows"`
}

// Refused is how much was refused or dropped in all.
func (t Traffic) Refused() (sum uint64) {
	for _, n := range t.Refusals {
		sum += n
	}
	return sum
}

// Add adds what another Service port has had.
func (t *Traffic) Add(o Traffic) {
	t.Sockets += o.Sockets
	t.Flows += o.Flows
	t.RequestPackets += o.RequestPackets
	t.ReplyPackets += o.ReplyPackets
	t.RequestBytes += o.RequestBytes
	t.ReplyBytes += o.ReplyBytes
	t.ActiveSockets += o.ActiveSockets
	t.ActiveFlows += o.ActiveFlows
	for reason, n := range o.Refusals {
		if t.Refusals == nil {
			t.Refusals = map[string]uint64{}
		}
		t.Refusals[reason] += n
	}
}

// Activity is how many connections there are at present, by Service index and
// by backend index.
type Activity struct {
	sockets, flows map[uint32]int
	backends       map[backendID]int
}

type backendID struct{ index, generation uint32 }

// ReadActivity counts the connections.
func ReadActivity(t *maps.Tables, timeouts FlowTimeouts) (Activity, error) {
	a := Activity{sockets: map[uint32]int{}, flows: map[uint32]int{}, backends: map[backendID]int{}}
	err := t.Peers.Each(func(_ uint64, p abi.Peer) bool {
		a.sockets[p.Service]++
		a.backends[backendID{p.Backend, p.Generation}]++
		return true
	})
	if err != nil {
		return a, fmt.Errorf("count TCP sockets: %w", err)
	}
	now := maps.Monotonic()
	for i := range t.Flows.Len() {
		f, ok := t.Flows.Load(i)
		if ok && !expired(&f, now, &timeouts) {
			a.flows[f.Service]++
			a.backends[backendID{f.Backend, f.Generation}]++
		}
	}
	return a, nil
}

// ReadTraffic returns what Service ports have had, by index. Those that have had
// nothing are missing; what was refused for no Service is under abi.ServiceNone.
func ReadTraffic(t *maps.Tables, a Activity) (map[uint32]Traffic, error) {
	all := map[uint32]Traffic{}
	counts, err := t.Traffic.Counts()
	if err != nil {
		return nil, err
	}
	for i, c := range counts {
		if c != (abi.ServiceCount{}) {
			all[uint32(i)] = Traffic{
				Sockets: c.Sockets, Flows: c.Flows,
				RequestPackets: c.Packets[abi.FlowRequest], ReplyPackets: c.Packets[abi.FlowReply],
				RequestBytes: c.Bytes[abi.FlowRequest], ReplyBytes: c.Bytes[abi.FlowReply],
			}
		}
	}
	refusals, err := t.Traffic.Refusals()
	if err != nil {
		return nil, err
	}
	for k, n := range refusals {
		v := all[k.Service]
		v.Add(Traffic{Refusals: map[string]uint64{abi.Counter(k.Reason).String(): n}})
		all[k.Service] = v
	}
	for service, n := range a.sockets {
		v := all[service]
		v.ActiveSockets = n
		all[service] = v
	}
	for service, n := range a.flows {
		v := all[service]
		v.ActiveFlows = n
		all[service] = v
	}
	return all, nil
}
