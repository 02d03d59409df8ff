// SPDX-License-Identifier: Apache-2.0

// Package shadow compares what Beeline would decide about every frontend of a
// node with what kube-proxy's rules there decide, without any traffic. It is
// pure: both sides are asked through functions.
package shadow

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// Decision is what one of the two makes of a packet.
type Decision struct {
	Verdict oracle.Verdict
	// Backends are where it may go, and whether they see an address of the node
	// instead of the client's.
	Backends map[netip.AddrPort]bool
}

// Theirs is what kube-proxy's rules decide.
type Theirs func(p oracle.Packet, dstLocal bool) (Decision, error)

// World is what both sides know.
type World struct {
	View oracle.View
	// Clients are whom to ask for.
	Clients []Client
}

// Client is somebody who asks for Services.
type Client struct {
	Name string
	Addr netip.Addr
	// Device is where the client's packets come in; empty for the node itself.
	Device string
}

// Mismatch is a frontend about which the two do not agree for a client.
type Mismatch struct {
	Service  string `json:"service"`
	Frontend string `json:"frontend"`
	Client   string `json:"client"`
	Before   string `json:"kubeProxy"`
	After    string `json:"beeline"`
	// Reach says how reachability changes: opens, closes, differs or source.
	Reach string `json:"reach"`
	// Why are Beeline's reasons.
	Why []string `json:"why,omitempty"`
}

// Report is the outcome.
type Report struct {
	// Asked counts pairs of a frontend and a client.
	Asked      int        `json:"asked"`
	Mismatches []Mismatch `json:"mismatches"`
	// Unknown lists what of kube-proxy's rules is not understood.
	Unknown []string `json:"unknown,omitempty"`
}

// Compare asks both about every frontend, and an unknown port of every ClusterIP.
func Compare(w World, theirs Theirs) Report {
	r := Report{Mismatches: []Mismatch{}}
	ours := oracle.New(w.View)
	unknown := map[string]bool{}
	for _, t := range targets(w.View) {
		for _, c := range w.Clients {
			if model.FamilyOf(c.Addr) != model.FamilyOf(t.at.Addr()) {
				continue
			}
			r.Asked++
			p := oracle.Packet{
				Protocol: t.protocol, Source: c.Addr, Destination: t.at, Device: c.Device,
			}
			before, err := theirs(p, slices.Contains(w.View.Local, t.at.Addr()))
			if err != nil {
				unknown[err.Error()] = true
				continue
			}
			answer := ours.Ask(p)
			if m, differs := compare(before, decided(answer)); differs {
				m.Service, m.Frontend, m.Client = t.service, t.text, fmt.Sprintf("%s (%v)", c.Name, c.Addr)
				m.Why = answer.Steps
				r.Mismatches = append(r.Mismatches, m)
			}
		}
	}
	r.Unknown = slices.Sorted(maps.Keys(unknown))
	return r
}

// target is where somebody may ask.
type target struct {
	service, text string
	at            netip.AddrPort
	protocol      model.Protocol
}

func targets(v oracle.View) (all []target) {
	for _, s := range v.Services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				addrs := []netip.Addr{f.Addr}
				if f.Kind == plan.NodePort {
					addrs = sameFamily(v.Local, f.Addr)
				}
				for _, a := range addrs {
					at := netip.AddrPortFrom(a, f.Port)
					all = append(all, target{p.ID.String(), fmt.Sprintf("%v %v/%v", f.Kind, at, f.Protocol), at, f.Protocol})
				}
			}
		}
		for _, a := range s.Addresses {
			at := netip.AddrPortFrom(a, freePort(s))
			all = append(all, target{s.Name.String(), fmt.Sprintf("unknown port of %v", a), at, model.TCP})
		}
	}
	return all
}

func sameFamily(all []netip.Addr, like netip.Addr) (some []netip.Addr) {
	for _, a := range all {
		if a.Is4() == like.Is4() {
			some = append(some, a)
		}
	}
	return some
}

// freePort is one that the Service does not have.
func freePort(s plan.Service) uint16 {
	port := uint16(65535)
	for {
		taken := slices.ContainsFunc(s.Ports, func(p plan.Port) bool {
			return slices.ContainsFunc(p.Frontends, func(f plan.Frontend) bool { return f.Port == port })
		})
		if !taken {
			return port
		}
		port--
	}
}

func decided(a oracle.Answer) Decision {
	d := Decision{Verdict: a.Verdict, Backends: map[netip.AddrPort]bool{}}
	for _, b := range a.Backends {
		d.Backends[b.Addr] = b.SourceNAT
	}
	return d
}

// compare tells how two decisions differ.
func compare(before, after Decision) (m Mismatch, differs bool) {
	m.Before, m.After = before.String(), after.String()
	was, is := before.Verdict == oracle.Translate, after.Verdict == oracle.Translate
	same := slices.Equal(addresses(before), addresses(after))
	switch {
	case before.Verdict == after.Verdict && same && maps.Equal(before.Backends, after.Backends):
		return m, false
	case is && !was:
		m.Reach = "opens"
	case was && !is:
		m.Reach = "closes"
	case same && was:
		m.Reach = "source"
	default:
		m.Reach = "differs"
	}
	return m, true
}

func addresses(d Decision) []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(d.Backends), netip.AddrPort.Compare)
}

func (d Decision) String() string {
	if d.Verdict != oracle.Translate {
		return d.Verdict.String()
	}
	var parts []string
	for _, a := range addresses(d) {
		text := a.String()
		if d.Backends[a] {
			text += " (source NAT)"
		}
		parts = append(parts, text)
	}
	return "to " + strings.Join(parts, ", ")
}
