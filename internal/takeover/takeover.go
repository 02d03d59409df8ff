// SPDX-License-Identifier: Apache-2.0

// Package takeover decides how a node is handed over from kube-proxy to Beeline
// and back, so that no connection breaks: a flow stays with whoever began it. It
// is pure: what it sees is told, what is to be done it says. The way of a
// handover is in docs/architecture/04-takeover.md.
package takeover

import (
	"fmt"
	"time"
)

// Wish is what an operator wants of a node.
type Wish string

// The wishes.
const (
	// Serve takes new flows at once, leaves those of netfilter to it, and touches
	// no rule of kube-proxy.
	Serve Wish = "serve"
	// Wait takes nothing as long as kube-proxy serves.
	Wait Wish = "wait"
	// Takeover serves, and removes kube-proxy's rules when it has been stopped and
	// netfilter translates none of its flows any more.
	Takeover Wish = "takeover"
	// Rollback begins no new flows once kube-proxy serves, keeps those it has
	// until they end, and then leaves the node.
	Rollback Wish = "rollback"
)

// ParseWish understands the names of wishes.
func ParseWish(text string) (Wish, error) {
	switch w := Wish(text); w {
	case Serve, Wait, Takeover, Rollback:
		return w, nil
	}
	return "", fmt.Errorf("%q: must be %s, %s, %s or %s", text, Serve, Wait, Takeover, Rollback)
}

// Phase is how far a node is.
type Phase string

// The phases.
const (
	// Alone: there is no kube-proxy; every flow is Beeline's.
	Alone Phase = "alone"
	// Waiting: every flow is kube-proxy's.
	Waiting Phase = "waiting"
	// Sharing: new flows are Beeline's, older ones netfilter's.
	Sharing Phase = "sharing"
	// Returning: new flows are kube-proxy's, older ones Beeline's.
	Returning Phase = "returning"
	// Returned: every flow is kube-proxy's, and Beeline has left the kernel.
	Returned Phase = "returned"
)

// KeepsForeign reports whether netfilter has flows in that phase.
func (p Phase) KeepsForeign() bool { return p == Sharing }

// RefusesNew reports whether Beeline begins no flows in that phase.
func (p Phase) RefusesNew() bool { return p == Waiting || p == Returning }

// Request is a wish with what belongs to it.
type Request struct {
	// Wish is empty while it is not known: the Node object, which may say it, has
	// not been read yet.
	Wish Wish `json:"wish"`
	// Deadline is when flows need not be waited for any more; zero: never.
	Deadline time.Time `json:"deadline,omitzero"`
}

// Seen is what there is on the node.
type Seen struct {
	// Unknown says why it is not known what there is; nil: it is. Nothing goes on
	// then.
	Unknown error
	// Rules: kube-proxy has rules here.
	Rules bool
	// Running: kube-proxy works here, and how that is known.
	Running bool
	How     string
	// Covered: kube-proxy's rules have every ClusterIP that Beeline serves.
	Covered bool
	// Foreign is how many flows to Services netfilter translates, if they were
	// Counted: they are while the node is Sharing.
	Foreign int
	Counted bool
	// Own is how many flows Beeline's packet path has.
	Own int
	// Datagrams: a UDP socket used a flow from before a rollback lately.
	Datagrams bool
	// Irremovable says why the rules cannot be removed; nil if they can.
	Irremovable error
	// Unserved says what nobody would serve without kube-proxy's rules; nil:
	// Beeline serves everything.
	Unserved error
}

// State is what is remembered of a handover, across restarts of the agent.
type State struct {
	Phase Phase     `json:"phase"`
	Since time.Time `json:"since"`
	// Why says in one line what is waited for, or what was done last.
	Why string `json:"why,omitempty"`
	// Flows that are waited for: netfilter's, or Beeline's in a rollback.
	Flows int `json:"flows"`

	// Undecided: the phase was entered before the wish was known.
	Undecided bool `json:"undecided,omitempty"`
	// Gone is since when kube-proxy is not seen to run; zero while it is.
	Gone time.Time `json:"gone,omitzero"`
	// Removed is when Beeline took kube-proxy's rules away, and Back when they
	// came back although it is not seen to run; zero: they did not.
	Removed time.Time `json:"removed,omitzero"`
	Back    time.Time `json:"back,omitzero"`
}

// Settle is how long kube-proxy must not be seen before it counts as stopped: it
// may be on its way to another version.
const Settle = 10 * time.Second

// believeBack is how long a kube-proxy counts as running that nobody sees, but
// that put its rules back after Beeline had removed them.
const believeBack = 10 * time.Minute

// Awaited reports whether kube-proxy is not there, but is counted on: on a node
// that boots it may be started after Beeline.
func (s State) Awaited(w Wish, now time.Time) bool {
	return (w == Wait || w == "") && !s.Gone.IsZero() && !s.Stopped(now)
}

// Stopped reports whether kube-proxy has been away for long enough.
func (s State) Stopped(now time.Time) bool { return !s.Gone.IsZero() && now.Sub(s.Gone) >= Settle }

// Action is what has to be done on the way to a State.
type Action uint8

// The actions.
const (
	Nothing Action = iota
	// RemoveRules takes kube-proxy's rules away.
	RemoveRules
	// Leave takes Beeline out of the kernel.
	Leave
)

// Next returns the state that follows and what has to be done for it. If that
// fails, the old state stays. A zero State is that of an agent that starts.
func Next(s State, r Request, seen Seen, now time.Time) (State, Action) {
	if s.Undecided && r.Wish != "" {
		s.Phase, s.Undecided = "", false // as if it started only now
		if r.Wish == Wait {
			s.Gone = time.Time{}
		}
	}
	switch {
	case seen.Unknown != nil:
	case seen.Running:
		s.Gone, s.Back = time.Time{}, time.Time{}
	case s.Gone.IsZero():
		s.Gone = now
	}
	q := question{s, r, seen, now}
	switch {
	case seen.Unknown != nil:
		return q.unknown()
	case r.Wish == "" && s.Phase != "":
		return s, Nothing
	}
	switch s.Phase {
	case Waiting:
		return q.waiting()
	case Sharing:
		return q.sharing()
	case Returning:
		return q.returning()
	case Returned:
		return q.returned()
	default:
		return q.alone()
	}
}

type question struct {
	State
	request Request
	seen    Seen
	now     time.Time
}

// late reports whether waiting for flows has an end that has come.
func (q question) late() bool {
	return !q.request.Deadline.IsZero() && !q.now.Before(q.request.Deadline)
}

func (q question) to(p Phase, flows int, format string, args ...any) State {
	since := q.Since
	if p != q.Phase {
		since = q.now
	}
	next := q.State
	next.Phase, next.Since, next.Flows, next.Why = p, since, flows, fmt.Sprintf(format, args...)
	return next
}

// unknown stays where it is. An agent that starts takes new flows, if it may,
// and leaves netfilter's and the rules alone.
func (q question) unknown() (State, Action) {
	phase := q.Phase
	if phase == "" {
		phase = Sharing
		if q.request.Wish != Serve && q.request.Wish != Takeover {
			phase = Waiting
		}
		q.Undecided = true
	}
	return q.to(phase, q.Flows, "on hold: %v", q.seen.Unknown), Nothing
}

// running reports whether kube-proxy works here, as far as anybody can know.
func (q question) running() (how string, yes bool) {
	switch {
	case q.seen.Running:
		return q.seen.How, true
	case !q.Back.IsZero() && q.now.Sub(q.Back) < believeBack:
		return "its rules came back after they had been removed", true
	}
	return "", false
}

func (q question) alone() (State, Action) {
	there := q.seen.Rules || q.seen.Running
	if q.Phase == Alone && q.seen.Rules && !q.seen.Running && !q.Removed.IsZero() {
		q.Back = q.now
	}
	switch {
	case q.request.Wish == Rollback:
		return q.beginRollback(Alone)
	case !there && q.request.Wish == Wait && q.Phase == "" && !q.Stopped(q.now):
		return q.awaited()
	case !there:
		q.Undecided = q.Undecided || q.request.Wish == ""
		return q.to(Alone, 0, ""), Nothing
	case q.request.Wish == "":
		q.Undecided = true
		return q.to(Waiting, 0, "kube-proxy serves; what is wanted of this node is not known before its Node has been read"), Nothing
	case q.request.Wish == Wait && q.Phase == "":
		return q.to(Waiting, 0, "kube-proxy serves; `beeline takeover` begins"), Nothing
	}
	return q.sharing()
}

// beginRollback stops taking new flows as soon as somebody else takes them.
func (q question) beginRollback(stay Phase) (State, Action) {
	_, running := q.running()
	switch {
	case !running:
		return q.to(stay, q.seen.Foreign, "rollback: waiting for kube-proxy to be started on this node"), Nothing
	case !q.seen.Covered && !q.late():
		return q.to(stay, q.seen.Foreign, "rollback: waiting for kube-proxy to have written rules for all Services"), Nothing
	}
	return q.returning()
}

func (q question) awaited() (State, Action) {
	return q.to(Waiting, 0, "kube-proxy is not there; waiting whether it comes"), Nothing
}

func (q question) waiting() (State, Action) {
	switch {
	case !q.seen.Rules && !q.seen.Running && q.request.Wish == Wait && !q.Stopped(q.now):
		return q.awaited()
	case !q.seen.Rules && !q.seen.Running:
		return q.sharing()
	case q.request.Wish == Wait:
		return q.to(Waiting, 0, "kube-proxy serves; `beeline takeover` begins"), Nothing
	case q.request.Wish == Rollback:
		return q.to(Waiting, 0, "kube-proxy serves, as a rollback wants"), Nothing
	}
	return q.sharing()
}

func (q question) sharing() (State, Action) {
	left := q.seen.Foreign
	how, running := q.running()
	if !q.seen.Rules {
		running = q.seen.Running
	}
	counted := q.seen.Counted && q.Phase == Sharing
	switch {
	case q.request.Wish == Rollback:
		return q.beginRollback(Sharing)
	case !q.seen.Rules && !running && !counted:
		return q.to(Sharing, left, "kube-proxy and its rules are gone; the flows that they began are not counted yet"), Nothing
	case !q.seen.Rules && !running && left == 0:
		return q.to(Alone, 0, "kube-proxy and its rules are gone"), Nothing
	case running:
		return q.to(Sharing, left, "kube-proxy still runs on this node (%s); flows that it began: %d", how, left), Nothing
	case q.request.Wish != Takeover:
		return q.to(Sharing, left, "kube-proxy's rules stay (wish %q); flows that they began: %d", q.request.Wish, left), Nothing
	case q.seen.Unserved != nil:
		return q.to(Sharing, left, "kube-proxy's rules stay: %v", q.seen.Unserved), Nothing
	case !counted:
		// Also when it is late: somebody has to take new flows before the rules go.
		return q.to(Sharing, left, "the flows that netfilter translates are not counted yet"), Nothing
	case left > 0 && !q.late():
		return q.to(Sharing, left, "waiting for the flows that netfilter translates to end: %d", left), Nothing
	case !q.Stopped(q.now):
		return q.to(Sharing, left, "kube-proxy was stopped; waiting whether it comes back"), Nothing
	case q.seen.Irremovable != nil:
		return q.to(Sharing, left, "no flow needs kube-proxy's rules any more, but: %v", q.seen.Irremovable), Nothing
	}
	q.Removed, q.Back = q.now, time.Time{}
	return q.to(Alone, 0, "kube-proxy's rules were removed"), RemoveRules
}

func (q question) returning() (State, Action) {
	switch {
	case q.request.Wish != Rollback && q.request.Wish != Wait:
		return q.sharing()
	case !q.seen.Rules:
		// Nobody serves new clients. Better late than never.
		return q.to(Sharing, q.seen.Foreign, "kube-proxy's rules are gone in the middle of a rollback: serving again"), Nothing
	case (q.seen.Own > 0 || q.seen.Datagrams) && !q.late():
		return q.to(Returning, q.seen.Own, "waiting for Beeline's flows to end: %d of the packet path, UDP sockets: %s",
			q.seen.Own, map[bool]string{true: "in use", false: "quiet"}[q.seen.Datagrams]), Nothing
	}
	return q.to(Returned, 0, "kube-proxy serves; remove Beeline's DaemonSet, then run `beeline cleanup`"), Leave
}

func (q question) returned() (State, Action) {
	if q.request.Wish == Takeover || q.request.Wish == Serve {
		return q.sharing()
	}
	return q.to(Returned, 0, "kube-proxy serves; remove Beeline's DaemonSet, then run `beeline cleanup`"), Nothing
}
