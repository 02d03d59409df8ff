// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"sync"
)

// cell is one probe: who asks whom, and how.
type cell struct {
	Service  string
	Frontend string
	Origin   string
	Family   string
	Network  string

	to     netip.AddrPort
	tries  int
	sticky bool // of several backends it is to meet one
}

func (c cell) String() string {
	return fmt.Sprintf("%s | %s | %s | %s | %s", c.Service, c.Frontend, c.Origin, c.Family, c.Network)
}

// Kinds of frontends, as cells name them.
const (
	clusterIP    = "ClusterIP"
	nodePort1    = "NodePort of node1"
	nodePort2    = "NodePort of node2"
	loadBalancer = "LoadBalancer"
	externalIP   = "ExternalIP"
)

var (
	families  = [2]string{"IPv4", "IPv6"}
	protocols = []string{tcp, udp, unconnected}
	everyone  = []string{client, pod, machine, local, node1, pod2}
)

// frontends are all addresses of a Service, of a family.
func (s *service) frontends(w *world, family int) map[string]netip.AddrPort {
	port := uint16(s.nodePort())
	return map[string]netip.AddrPort{
		clusterIP:    netip.AddrPortFrom(at(clusters[family], s.number), servicePort),
		externalIP:   netip.AddrPortFrom(at(external[family], s.number), servicePort),
		loadBalancer: netip.AddrPortFrom(at(balanced[family], s.number), servicePort),
		nodePort1:    netip.AddrPortFrom(w.addrs[node1][family], port),
		nodePort2:    netip.AddrPortFrom(w.addrs[node2][family], port),
	}
}

// cells are the probes of Services from everywhere.
func cells(w *world, origins, networks []string, services ...*service) (all []cell) {
	for _, s := range services {
		tries := 4
		if s.several() {
			tries = 14
		}
		for family := range families {
			for frontend, to := range s.frontends(w, family) {
				for _, origin := range origins {
					for _, network := range networks {
						all = append(all, cell{s.name, frontend, origin, families[family], network, to, tries, false})
					}
				}
			}
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].String() < all[j].String() })
	return all
}

// outcomes are what each cell's client met.
type outcomes map[string]string

// probe runs cells, some of each origin at a time.
func (w *world) probe(cells []cell, parallel int) outcomes {
	out, turns := outcomes{}, map[string]chan struct{}{}
	for _, c := range cells {
		if turns[c.Origin] == nil {
			turns[c.Origin] = make(chan struct{}, parallel)
		}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, c := range cells {
		turn := turns[c.Origin]
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			saw, err := w.actors[c.Origin].do(order{Probe: &probe{Network: c.Network, To: c.to.String(), Tries: c.tries}})
			if err != nil {
				saw = []string{err.Error()}
			}
			if c.sticky && len(saw) == 1 && strings.Contains(saw[0], " sees ") {
				saw = []string{"always the same backend"}
			}
			mu.Lock()
			defer mu.Unlock()
			out[c.String()] = strings.Join(saw, ", ")
		})
	}
	all.Wait()
	return out
}

// difference is a cell whose clients meet different things.
type difference struct {
	cell
	theirs, ours string
}

// compare probes both worlds. What differs and is not listed is asked again, in
// peace: a machine that is busy makes answers late.
func (p *pair) compare(s settings, cells []cell) (differ []difference) {
	parallel := 24
	for round := range 4 {
		var a, b outcomes
		var each sync.WaitGroup
		each.Go(func() { a = p.theirs.probe(cells, parallel) })
		each.Go(func() { b = p.ours.probe(cells, parallel) })
		each.Wait()
		var again []cell
		differ = nil
		for _, c := range cells {
			d := difference{c, a[c.String()], b[c.String()]}
			if d.theirs == d.ours {
				continue
			}
			if l := explain(p.ours, s, d); l != nil {
				p.shown[l.row]++
				continue
			}
			differ = append(differ, d)
			c.tries = 14
			again = append(again, c)
		}
		if cells, parallel = again, 4; len(cells) == 0 {
			break
		}
		p.t.Logf("round %d: %d cells differ", round+1, len(differ))
	}
	return differ
}
