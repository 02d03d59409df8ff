// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/apiserver"
)

// pair is both worlds before one API server.
type pair struct {
	t            *testing.T
	api          *apiserver.Server
	theirs, ours *world
	marks        int
	shown        map[string]int // lines of the reference, and how often
}

func newPair(t *testing.T) *pair {
	t.Helper()
	lab.RequireRoot(t)
	kubeProxy, beeline := proxies(t)
	p := &pair{t: t, api: apiserver.New(t), shown: map[string]int{}}
	p.theirs, p.ours = newWorld(t, kubeProxy, p.api), newWorld(t, beeline, p.api)
	p.api.Put(p.theirs.objects()...)
	return p
}

// restart runs both proxies with other settings.
func (p *pair) restart(s settings) {
	p.t.Helper()
	for _, w := range []*world{p.theirs, p.ours} {
		w.stop()
		w.start(s)
	}
}

// settle waits until both proxies have heard all there is: a Service that comes
// last works on every node.
func (p *pair) settle() {
	p.t.Helper()
	p.marks++
	last := &service{name: fmt.Sprintf("last-%d", p.marks), number: 60000 + p.marks, endpoints: []endpoint{{local, ready}}}
	last.edit = func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeClusterIP
		s.Spec.ExternalIPs = nil
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	all := objects(p.ours, last)
	p.api.Put(all...)
	deadline := time.Now().Add(40 * time.Second)
	for _, w := range []*world{p.theirs, p.ours} {
		for _, from := range []string{node1, node2} {
			for family := range families {
				ask := order{Probe: &probe{Network: tcp, To: last.frontends(w, family)[clusterIP].String(), Tries: 1}}
				for {
					saw, err := w.actors[from].do(ask)
					if err == nil && strings.Contains(saw[0], " sees ") {
						break
					}
					if time.Now().After(deadline) {
						p.t.Fatalf("%s on %s does not come to the end of the changes: %v, %v", w.proxy.name, from, saw, err)
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
		}
	}
	p.api.Drop(all...)
}

// backends are the kinds of backends that a Service may have.
var backends = map[string][]endpoint{
	"local":                           {{local, ready}},
	"remote":                          {{remote, ready}},
	"local and remote":                {{local, ready}, {remote, ready}},
	"none":                            nil,
	"local not ready":                 {{local, notReady}},
	"local terminating":               {{local, terminating}},
	"remote terminating":              {{remote, terminating}},
	"local terminating, remote ready": {{local, terminating}, {remote, ready}},
	"local ended":                     {{local, ended}},
	"local host network":              {{node1, ready}},
	"remote host network":             {{node2, ready}},
}

func matrix() (all []*service) {
	var names []string
	for name := range backends {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, external := range []corev1.ServiceExternalTrafficPolicy{"Cluster", "Local"} {
			for _, internal := range []corev1.ServiceInternalTrafficPolicy{"Cluster", "Local"} {
				all = append(all, &service{
					name:   strings.ToLower(strings.NewReplacer(" ", "-", ",", "").Replace(fmt.Sprintf("%s-%s-%s", name, external, internal))),
					number: len(all) + 1, external: external, internal: internal, endpoints: backends[name],
				})
			}
		}
	}
	return all
}

// pods tells pods by address.
const pods = "clusterCIDR: 10.244.0.0/16,fd00:244::/32\n"

// stages are the settings that both are run with, one after the other.
func stages() []settings {
	return []settings{
		{name: "pods told by address", more: pods},
		{name: "masquerade all", more: pods + "nftables: {masqueradeAll: true}"},
		{name: "pods not told"},
		{name: "pods told by node", more: "detectLocalMode: NodeCIDR"},
		{name: "pods told by bridge", more: "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}"},
		{name: "pods told by device", more: "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cni}"},
		{name: "some NodePort addresses", more: pods + "nodePortAddresses: [10.244.0.0/16]"},
		{name: "iptables", mode: "iptables", more: pods},
	}
}

func TestPeers(t *testing.T) {
	p := newPair(t)
	ordinary, extra := matrix(), special(p.ours)
	for _, w := range []*world{p.theirs, p.ours} {
		w.balance(byName(extra, "ip-mode-proxy"))
	}
	p.api.Put(objects(p.ours, append(ordinary, extra...)...)...)
	few := []*service{
		byName(ordinary, "local-cluster-cluster"), byName(ordinary, "remote-cluster-cluster"),
		byName(ordinary, "local-and-remote-local-local"), byName(ordinary, "none-cluster-cluster"),
	}
	for i, s := range stages() {
		t.Run(s.name, func(t *testing.T) {
			withMesh := append(slices.Clone(everyone), meshed)
			all := append(cells(p.ours, withMesh, []string{tcp, udp}, few...), elsewhereCells(p.ours, few[0])...)
			if i == 0 {
				all = append(cells(p.ours, everyone, protocols, ordinary...), specialCells(p.ours, extra)...)
				all = append(all, elsewhereCells(p.ours, few[0])...)
				all = append(all, cells(p.ours, []string{meshed}, protocols, few...)...)
			}
			p.hold(t, s, all)
		})
	}
	t.Run("narrow links", func(t *testing.T) { p.holdNarrow(t, stages()[0], few) })
	for _, l := range listing() {
		if p.shown[l.row] == 0 && !t.Failed() && (l.shows == nil || l.shows()) {
			t.Errorf("the reference lists a difference that does not show: %s", l.row)
		}
	}
	t.Logf("cells that differ as the reference says: %v", p.shown)
}

// hold holds both worlds against each other under some settings, one group of
// cells after the other.
func (p *pair) hold(t *testing.T, s settings, groups ...[]cell) {
	start := time.Now()
	p.restart(s)
	p.settle()
	settled := time.Now()
	count := 0
	for _, all := range groups {
		for _, d := range p.compare(s, all) {
			t.Errorf("%v:\n\tkube-proxy: %s\n\tBeeline:    %s", d.cell, d.theirs, d.ours)
		}
		count += len(all)
	}
	t.Logf("%d cells in %v, after %v to start", count,
		time.Since(settled).Round(time.Millisecond), settled.Sub(start).Round(time.Millisecond))
}

func byName(services []*service, name string) *service {
	for _, s := range services {
		if s.name == name {
			return s
		}
	}
	panic("no Service " + name)
}
