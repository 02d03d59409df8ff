// SPDX-License-Identifier: Apache-2.0

package oracle

import "github.com/beeline-net/beeline/internal/model"

// AskSocket says what the socket hooks make of a connect() or send() of a
// process on this node. What they pass is decided by the packet path.
func (o *Oracle) AskSocket(p Packet) Answer {
	q := query{Oracle: o, packet: p}
	if q.packet.Scope == Unknown || q.packet.Scope == External {
		q.packet.Scope = Pod // whoever has a socket here is inside
	}
	q.answer.Scope = q.packet.Scope
	if p.Protocol != model.TCP && p.Protocol != model.UDP {
		q.step("the socket hooks leave %v to the packet path", p.Protocol)
		return q.answer
	}
	m, ok := q.ownFrontend()
	switch {
	case !ok:
		q.noFrontend()
		return q.answer
	case len(m.frontend.SourceRanges) > 0:
		q.answer.Port, q.answer.Frontend = m.port.ID, m.frontend
		q.step("it has source ranges: a socket has no address yet, so the packet path decides")
		return q.answer
	}
	q.answer.Port, q.answer.Frontend = m.port.ID, m.frontend
	q.socket = true
	q.choose(m)
	return q.answer
}
