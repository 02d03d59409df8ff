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
	running := Seen{Rules: true, Running: true, Covered: true}
	stopped := Seen{Rules: true, Covered: true}
	with := func(s Seen, change func(*Seen)) Seen { change(&s); return s }
	busy := func(s Seen) Seen { return with(s, func(s *Seen) { s.Foreign = 3 }) }
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
		{"kube-proxy gone while waiting", Waiting, Request{Wish: Wait}, Seen{}, Alone, Nothing, ""},
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
		{"somebody else removed the rules", Sharing, Request{Wish: Serve}, Seen{}, Alone, Nothing, "gone"},
		{"... while flows live", Sharing, Request{Wish: Serve}, busy(Seen{}), Sharing, Nothing, ""},
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
		{"stays away", Returned, Request{Wish: Rollback}, Seen{}, Returned, Nothing, ""},
		{"comes again", Returned, Request{Wish: Takeover}, running, Sharing, Nothing, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, action := Next(State{Phase: c.from}, c.want, c.seen, noon)
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
