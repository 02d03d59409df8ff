// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func TestNext(t *testing.T) {
	running := Seen{Rules: true, Running: true, Covered: true, Counted: true}
	stopped := Seen{Rules: true, Covered: true, Counted: true}
	uncounted := Seen{Rules: true, Covered: true}
	with := func(s Seen, change func(*Seen)) Seen { change(&s); return s }
	busy := func(s Seen) Seen { return with(s, func(s *Seen) { s.Foreign = 3 }) }
	unknown := Seen{Unknown: errors.New("netlink")}
	past, future := noon.Add(-time.Second), noon.Add(time.Second)
	for _, c := range []struct {
		name   string
		from   Phase
		want   Request
		seen   Seen
		phase  Phase
		action Action
		why    string
	}{
		{"no kube-proxy", "", Request{Wish: Serve}, Seen{}, Alone, Nothing, ""},
		{"no kube-proxy to wait for", "", Request{Wish: Wait}, Seen{}, Alone, Nothing, ""},
		{"starts beside kube-proxy", "", Request{Wish: Serve}, running, Sharing, Nothing, "still runs"},
		{"starts beside rules", "", Request{Wish: Serve}, stopped, Sharing, Nothing, "rules stay"},
		{"starts and waits", "", Request{Wish: Wait}, running, Waiting, Nothing, "beeline takeover"},
		{"goes on waiting", Waiting, Request{Wish: Wait}, running, Waiting, Nothing, ""},
		{"kube-proxy gone while waiting", Waiting, Request{Wish: Wait}, Seen{}, Sharing, Nothing, "not counted yet"},
		{"kube-proxy stopped while waiting", Waiting, Request{Wish: Takeover}, uncounted, Sharing, Nothing, "not counted yet"},
		{"... and it is late", Waiting, Request{Takeover, past}, uncounted, Sharing, Nothing, "not counted yet"},
		{"starts beside the rules of a stopped kube-proxy", "", Request{Wish: Takeover}, uncounted, Sharing, Nothing, "not counted yet"},
		{"comes again beside them", Returned, Request{Wish: Takeover}, uncounted, Sharing, Nothing, "not counted yet"},
		{"another mind, kube-proxy stopped", Returning, Request{Takeover, past}, uncounted, Sharing, Nothing, "not counted yet"},
		{"agent restarts in the middle", Sharing, Request{Wish: Takeover}, uncounted, Sharing, Nothing, "not counted yet"},
		{"agent restarts, rules gone", Sharing, Request{Wish: Takeover}, Seen{}, Sharing, Nothing, "not counted yet"},
		{"a count of another phase", Waiting, Request{Wish: Takeover}, stopped, Sharing, Nothing, "not counted yet"},
		{"takes over", Waiting, Request{Wish: Takeover}, running, Sharing, Nothing, "still runs"},
		{"never waits again once it serves", Alone, Request{Wish: Wait}, running, Sharing, Nothing, ""},
		{"kube-proxy still runs", Sharing, Request{Wish: Takeover}, busy(running), Sharing, Nothing, "3"},
		{"flows left", Sharing, Request{Wish: Takeover}, busy(stopped), Sharing, Nothing, "to end: 3"},
		{"flows left, not yet late", Sharing, Request{Takeover, future}, busy(stopped), Sharing, Nothing, "to end: 3"},
		{"flows left, late", Sharing, Request{Takeover, past}, busy(stopped), Alone, RemoveRules, "removed"},
		{"late, but kube-proxy runs", Sharing, Request{Takeover, past}, busy(running), Sharing, Nothing, "still runs"},
		{"no flows left", Sharing, Request{Wish: Takeover}, stopped, Alone, RemoveRules, "removed"},
		{"no flows left, but nobody asked", Sharing, Request{Wish: Serve}, stopped, Sharing, Nothing, "rules stay"},
		{"legacy rules", Sharing, Request{Wish: Takeover}, with(stopped, func(s *Seen) { s.Irremovable = errors.New("legacy") }), Sharing, Nothing, "legacy"},
		{"NodePorts would go", Sharing, Request{Takeover, past}, with(stopped, func(s *Seen) { s.Unserved = errors.New("NodePorts") }), Sharing, Nothing, "NodePorts"},
		{"somebody else removed the rules", Sharing, Request{Wish: Serve}, Seen{Counted: true}, Alone, Nothing, "gone"},
		{"... while flows live", Sharing, Request{Wish: Serve}, busy(Seen{Counted: true}), Sharing, Nothing, ""},
		{"kube-proxy comes back", Alone, Request{Wish: Takeover}, running, Sharing, Nothing, "still runs"},

		{"rollback without kube-proxy", Alone, Request{Wish: Rollback}, Seen{}, Alone, Nothing, "to be started"},
		{"rollback without kube-proxy, late", Alone, Request{Rollback, past}, Seen{}, Alone, Nothing, "to be started"},
		{"rollback to rules that nobody keeps", Sharing, Request{Wish: Rollback}, stopped, Sharing, Nothing, "to be started"},
		{"rollback before kube-proxy is ready", Alone, Request{Wish: Rollback}, Seen{Rules: true, Running: true}, Alone, Nothing, "written rules"},
		{"rollback before it is ready, late", Alone, Request{Rollback, past}, with(running, func(s *Seen) { s.Covered = false; s.Own = 1 }), Returned, Leave, ""},
		{"rollback", Alone, Request{Wish: Rollback}, with(running, func(s *Seen) { s.Own = 2 }), Returning, Nothing, "2"},
		{"rollback of a takeover under way", Sharing, Request{Wish: Rollback}, with(running, func(s *Seen) { s.Own = 2 }), Returning, Nothing, "2"},
		{"rollback, sockets in use", Returning, Request{Wish: Rollback}, with(running, func(s *Seen) { s.Datagrams = true }), Returning, Nothing, "in use"},
		{"rollback, late", Returning, Request{Rollback, past}, with(running, func(s *Seen) { s.Own = 2 }), Returned, Leave, "cleanup"},
		{"rollback done", Returning, Request{Wish: Rollback}, running, Returned, Leave, "cleanup"},
		{"rollback, rules gone", Returning, Request{Wish: Rollback}, Seen{Running: true}, Sharing, Nothing, "serving again"},
		{"another mind in the middle", Returning, Request{Wish: Takeover}, running, Sharing, Nothing, ""},
		{"the Node is not known, kube-proxy serves", "", Request{}, running, Waiting, Nothing, "has been read"},
		{"the Node is not known, nobody serves", "", Request{}, Seen{}, Alone, Nothing, ""},
		{"the Node is not known, was given back", Returned, Request{}, running, Returned, Nothing, ""},
		{"cannot look, starts", "", Request{Wish: Serve}, unknown, Sharing, Nothing, "on hold: netlink"},
		{"cannot look, starts and waits", "", Request{Wish: Wait}, unknown, Waiting, Nothing, "on hold"},
		{"cannot look, alone", Alone, Request{Wish: Rollback}, unknown, Alone, Nothing, "on hold"},
		{"cannot look, rules stay", Sharing, Request{Takeover, past}, unknown, Sharing, Nothing, "on hold"},
		{"cannot look in the middle of a rollback", Returning, Request{Rollback, past}, unknown, Returning, Nothing, "on hold"},
		{"the Node is not known, in the middle of a rollback", Returning, Request{}, running, Returning, Nothing, ""},
		{"stays away", Returned, Request{Wish: Rollback}, Seen{}, Returned, Nothing, ""},
		{"comes again", Returned, Request{Wish: Takeover}, running, Sharing, Nothing, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, action := Next(State{Phase: c.from, Gone: noon.Add(-time.Minute)}, c.want, c.seen, noon)
			if got.Phase != c.phase || action != c.action || !strings.Contains(got.Why, c.why) {
				t.Errorf("got %s, action %d, %q; want %s, action %d, %q", got.Phase, action, got.Why, c.phase, c.action, c.why)
			}
		})
	}
}

// Only a change of phase changes since when it is so.
func TestSince(t *testing.T) {
	before := noon.Add(-time.Hour)
	seen := Seen{Rules: true, Running: true}
	if s, _ := Next(State{Phase: Sharing, Since: before}, Request{Wish: Serve}, seen, noon); !s.Since.Equal(before) {
		t.Errorf("the same phase since %v", s.Since)
	}
	if s, _ := Next(State{Phase: Waiting, Since: before}, Request{Wish: Serve}, seen, noon); !s.Since.Equal(noon) {
		t.Errorf("another phase since %v", s.Since)
	}
}

// An agent that started before the Node was known decides when it is, as if it
// started then.
func TestDecidesLate(t *testing.T) {
	running := Seen{Rules: true, Running: true}
	for _, c := range []struct {
		name  string
		first Seen
		then  Request
		want  Phase
	}{
		{"waits", running, Request{Wish: Wait}, Waiting},
		{"serves", running, Request{Wish: Serve}, Sharing},
		{"kube-proxy came meanwhile, and is to serve", Seen{}, Request{Wish: Wait}, Waiting},
		{"kube-proxy stopped meanwhile", running, Request{Wish: Takeover}, Sharing},
		{"could not look at first", Seen{Unknown: errors.New("netlink")}, Request{Wish: Wait}, Waiting},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := Next(State{}, Request{}, c.first, noon)
			if s, _ = Next(s, Request{}, c.first, noon); !s.Undecided {
				t.Errorf("decided without a wish: %+v", s)
			}
			s, _ = Next(s, c.then, running, noon)
			if s.Phase != c.want || s.Undecided {
				t.Errorf("%+v, want %s", s, c.want)
			}
		})
	}
}

// On a node that boots kube-proxy may come after Beeline: who waits for it waits
// a while, and takes neither flows nor ports.
func TestWaitsForKubeProxyToCome(t *testing.T) {
	wait := Request{Wish: Wait}
	for _, c := range []struct {
		name  string
		first Request
		since time.Duration // how long the Node could not be read
	}{
		{"the wish is known", wait, 0},
		{"the Node is read late", Request{}, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := noon.Add(c.since)
			s, _ := Next(State{}, c.first, Seen{}, noon)
			if !s.Awaited(c.first.Wish, noon.Add(9*time.Second)) || s.Awaited(Serve, noon) || s.Awaited(wait.Wish, noon.Add(Settle)) {
				t.Errorf("awaited: %+v", s)
			}
			for at := range 10 {
				s, _ = Next(s, wait, Seen{}, begin.Add(time.Duration(at)*time.Second))
				if s.Phase != Waiting {
					t.Fatalf("after %d s: %+v", at, s)
				}
			}
			if came, _ := Next(s, wait, Seen{Running: true}, begin.Add(Settle)); came.Phase != Waiting || came.Awaited(Wait, begin.Add(Settle)) {
				t.Errorf("it came: %+v", came)
			}
			s, _ = Next(s, wait, Seen{}, begin.Add(Settle))
			if s, _ = Next(s, wait, Seen{Counted: true}, begin.Add(Settle+time.Second)); s.Phase != Alone {
				t.Errorf("nobody came: %+v", s)
			}
		})
	}
}

// A kube-proxy that is replaced by another version is not one that was stopped.
func TestSettles(t *testing.T) {
	takeover := Request{Wish: Takeover}
	s := State{Phase: Sharing}
	step := func(seen Seen, at time.Duration) Action {
		var a Action
		s, a = Next(s, takeover, seen, noon.Add(at))
		return a
	}
	step(Seen{Rules: true, Running: true, Counted: true}, 0)
	step(Seen{Rules: true, Counted: true}, time.Second)
	step(Seen{Rules: true, Running: true, Counted: true}, 8*time.Second)
	if a := step(Seen{Rules: true, Counted: true}, 9*time.Second); a != Nothing {
		t.Error("removed at once")
	}
	if a := step(Seen{Rules: true, Counted: true}, 18*time.Second); a != Nothing || s.Stopped(noon.Add(18*time.Second)) {
		t.Error("removed after 9 s")
	}
	if a := step(Seen{Rules: true, Counted: true}, 19*time.Second); a != RemoveRules {
		t.Errorf("10 s after kube-proxy was seen last: %+v", s)
	}
}

// Rules that come back have somebody who writes them, seen or not.
func TestRulesComeBack(t *testing.T) {
	takeover := Request{Wish: Takeover}
	long := noon.Add(-time.Hour)
	s, a := Next(State{Phase: Sharing, Gone: long}, takeover, Seen{Rules: true, Counted: true}, noon)
	if a != RemoveRules {
		t.Fatalf("%+v", s)
	}
	s, _ = Next(s, takeover, Seen{}, noon.Add(time.Second))
	for _, at := range []time.Duration{2 * time.Second, time.Minute, 9 * time.Minute} {
		if s, a = Next(s, takeover, Seen{Rules: true, Counted: true}, noon.Add(at)); s.Phase != Sharing || a != Nothing || !strings.Contains(s.Why, "came back") {
			t.Errorf("after %v: action %d, %+v", at, a, s)
		}
	}
	if back, _ := Next(s, Request{Wish: Rollback}, Seen{Rules: true, Covered: true, Own: 1}, noon.Add(9*time.Minute)); back.Phase != Returning {
		t.Errorf("rollback to it: %+v", back)
	}
	if again, a := Next(s, takeover, Seen{Rules: true, Counted: true}, noon.Add(11*time.Minute)); a != RemoveRules {
		t.Errorf("it may have been stopped: %+v", again)
	}
}
