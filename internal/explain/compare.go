// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/oracle"
)

// compare holds the program's answer against the oracle's. They may differ where
// an answer is random, in which backend of those; nowhere else.
func (e *explainer) compare(p *Path) {
	run, said := e.Kernel.Packet.Run, p.answer
	if run.Established {
		return // the oracle was asked about a new flow
	}
	disagree := func(format string, args ...any) {
		e.Disagreements = append(e.Disagreements, fmt.Sprintf(format, args...))
	}
	if run.Verdict != said.Verdict && !ownReason(run.Reasons) {
		disagree("the program says %v, the oracle %v", run.Verdict, said.Verdict)
		return
	}
	if run.Scope != oracle.Unknown && run.Scope != said.Scope {
		disagree("the program takes the client for %v, the oracle for %v", run.Scope, said.Scope)
	}
	if !run.Backend.IsValid() || run.Verdict != oracle.Translate {
		return
	}
	i := slices.IndexFunc(said.Backends, func(b oracle.Backend) bool { return b.Addr == run.Backend })
	if i < 0 {
		disagree("the program chose %v, which the oracle does not find eligible", run.Backend)
		return
	}
	if nat := run.Source.Addr() != e.Question.Client.Addr; nat != said.Backends[i].SourceNAT {
		disagree("%v sees %v by the program; source NAT by the oracle: %v", run.Backend, run.Source.Addr(), said.Backends[i].SourceNAT)
	}
}

// ownReason: what only the program can know, such as a missing route or a full
// table, is no disagreement.
func ownReason(counters []string) bool {
	own := []string{
		"flow_table_full", "flow_stray", "snat_no_port", "snat_no_address", "no_route", "too_big",
		"handed_back", "ttl_expired", "rewrite_failed", "icmp_limited", "malformed",
	}
	return slices.ContainsFunc(counters, func(c string) bool { return slices.Contains(own, c) })
}

// outcome says in a line what the client sees.
func (e *explainer) outcome() {
	client := strings.TrimSpace(e.Question.Client.Text)
	switch e.verdict {
	case oracle.Translate:
		var addrs []string
		for _, b := range e.decided.Backends {
			addrs = append(addrs, b.Addr.String())
		}
		if run := e.Kernel.Packet.Run; run != nil && run.Backend.IsValid() && e.decided.Verdict == oracle.Translate && len(addrs) == 0 {
			addrs = []string{run.Backend.String()}
		}
		const shown = 5
		text := strings.Join(addrs[:min(len(addrs), shown)], ", ")
		if more := len(addrs) - shown; more > 0 {
			text += fmt.Sprintf(" or %d more", more)
		}
		e.Becomes = "goes to " + text
		if len(addrs) > 1 {
			e.Becomes = "goes to one of " + text
		}
	case oracle.Reject:
		e.Becomes = "is refused at once (ECONNREFUSED, ICMP port unreachable)"
	case oracle.Drop:
		e.Becomes = "gets no answer and times out"
	case oracle.Pass:
		e.Becomes = "is left alone: it goes where the routes lead"
	}
	if client != "" {
		e.Becomes = "a connection from " + client + " " + e.Becomes
	}
}
