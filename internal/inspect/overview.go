// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// Overview is what a node does at a moment: every Service port with its
// frontends, its backends and what it has had.
type Overview struct {
	Time time.Time `json:"time"`
	// Counted is how many Service ports are counted: those with an index below.
	Counted  int          `json:"counted"`
	Services []Serving    `json:"services"`
	NoOnes   Traffic      `json:"noOnes"`
	Counters []Count      `json:"counters"`
	Meanings []NamedThing `json:"meanings"`
}

// NamedThing explains a word.
type NamedThing struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"`
}

// Serving is a Service port at work.
type Serving struct {
	Port
	// State is "ok", "no endpoints", "no local endpoints" or "draining".
	State   string  `json:"state"`
	Traffic Traffic `json:"traffic"`
	// Rates are zero without an earlier overview, see Since.
	Rates Rates `json:"rates"`
	// Working says of each of Backends, in their order, what it does.
	Working []Working `json:"working"`
}

// Working is what a backend does.
type Working struct {
	Pod string `json:"pod,omitempty"`
	// Active are its connections at present.
	Active int `json:"active"`
}

// ReadOverview reads everything. The ports of the agent's own self-test are
// left out. now is the time that it is of.
func ReadOverview(t *maps.Tables, pod func(netip.AddrPort) string, timeouts FlowTimeouts, now time.Time) (Overview, error) {
	o := Overview{Time: now, Counted: t.Traffic.Capacity(), Services: []Serving{}}
	ports, err := Ports(t)
	if err != nil {
		return o, err
	}
	activity, err := ReadActivity(t, timeouts)
	if err != nil {
		return o, err
	}
	traffic, err := ReadTraffic(t, activity)
	if err != nil {
		return o, err
	}
	o.NoOnes = traffic[abi.ServiceNone]
	for _, p := range ports {
		if p.Namespace == "" {
			continue
		}
		s := Serving{Port: p, State: serviceState(p), Traffic: traffic[p.Index], Working: []Working{}}
		for _, b := range p.Backends {
			w := Working{Active: activity.backends[backendID{b.Index, b.Generation}]}
			if pod != nil {
				w.Pod = pod(b.addr)
			}
			s.Working = append(s.Working, w)
		}
		o.Services = append(o.Services, s)
	}
	if o.Counters, err = Counts(t); err != nil {
		return o, err
	}
	for _, c := range o.Counters {
		if m := Meaning(c.Name); m != "" {
			o.Meanings = append(o.Meanings, NamedThing{c.Name, m})
		}
	}
	return o, nil
}

func serviceState(p Port) string {
	switch {
	case len(p.Cluster.Backends) == 0 && len(p.Local.Backends) == 0 && p.Local.Empty == "drop":
		return "no local endpoints"
	case len(p.Cluster.Backends) == 0 && len(p.Local.Backends) == 0:
		return "no endpoints"
	}
	for _, b := range p.Backends {
		if b.State == "active" {
			return "ok"
		}
	}
	return "draining"
}
