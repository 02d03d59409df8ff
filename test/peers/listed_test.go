// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// listed is a line of docs/reference/differences.md that shows in these
// networks.
type listed struct {
	// row is the line's first column, word by word.
	row string
	// explains tells whether the line accounts for a difference.
	explains func(view) bool
	// shows tells whether this machine is one where it shows; nil: all are.
	shows func() bool
}

// view is a difference as the lines look at it.
type view struct {
	difference
	settings
	own   []string // the addresses of who asks
	pairs []pairOf // who answered in both worlds, if the same did
}

// pairOf is one who answered, with whom he saw in either world.
type pairOf struct{ who, theirs, ours string }

// keepsClient: the same answer, but in our world they see the client itself
// where they saw a node in the other.
func (v view) keepsClient() bool {
	if len(v.pairs) == 0 {
		return false
	}
	for _, p := range v.pairs {
		if p.theirs != p.ours && !slices.Contains(v.own, p.ours) {
			return false
		}
	}
	return true
}

// hairpin: who asks has answered himself.
func (v view) hairpin() bool {
	return slices.ContainsFunc(v.pairs, func(p pairOf) bool { return p.who == v.Origin && p.theirs != p.ours })
}

// socket: what asks has a socket that Beeline's hooks see.
func (v view) socket() bool { return v.Origin != client && v.Origin != machine && v.Origin != meshed }

// ofSocketHooks: the sockets' hooks serve this frontend; a NodePort on the own
// node only.
func (v view) ofSocketHooks() bool {
	own := nodePort1
	if v.Origin == pod2 {
		own = nodePort2
	}
	return v.socket() && slices.Contains([]string{clusterIP, loadBalancer, externalIP, own}, v.Frontend) ||
		v.socket() && v.Origin != pod2 && strings.HasPrefix(v.Frontend, "NodePort of cni0")
}

// Settings that lines depend on.
const (
	masqueradeAll = "masquerade all"
	podsNotTold   = "pods not told"
	iptables      = "iptables"
)

func listing() []listed {
	return []listed{
		{"a pod asks a Service and gets itself", func(v view) bool {
			return v.ofSocketHooks() && v.keepsClient() && v.hairpin()
		}, nil},
		{"an external address of a Service, asked for by a process of this node", func(v view) bool {
			return v.ofSocketHooks() && v.Frontend != clusterIP && v.keepsClient()
		}, nil},
		{"masquerade-all, and a process of this node asks a ClusterIP", func(v view) bool {
			return v.name == masqueradeAll && v.ofSocketHooks() && v.keepsClient()
		}, nil},
		{"the source address of the node's own processes", func(v view) bool {
			return v.Origin == node1 && v.Frontend == clusterIP && v.keepsClient()
		}, nil},
		{"external traffic, policy Cluster, an endpoint on this node", func(v view) bool {
			return v.Frontend != clusterIP && v.keepsClient()
		}, nil},
		{"no cluster CIDR, policy Local, and a process of this node asks an external address", func(v view) bool {
			return v.name == podsNotTold && v.ofSocketHooks() && v.Frontend != clusterIP && v.theirs != noAnswer && seen(v.ours) != nil
		}, nil},
		{"a datagram of a socket that is not connected, refused", func(v view) bool {
			return v.ofSocketHooks() && v.Network == unconnected && v.theirs == noAnswer && v.ours == refused
		}, nil},
		{"a datagram of a socket that is not connected, policy Local, no local endpoint", func(v view) bool {
			return v.ofSocketHooks() && v.Frontend == clusterIP && v.Network == unconnected && v.theirs == noAnswer && v.ours == denied
		}, nil},
		{"a process of the node itself is refused or dropped", func(v view) bool {
			return v.Origin == node1 && (v.theirs == denied && (v.ours == refused || v.ours == noAnswer) ||
				v.name == iptables && v.theirs == noAnswer && v.ours == refused)
		}, nil},
		{"ping of a ClusterIP", func(v view) bool {
			return v.Network == ping && v.Frontend == clusterIP && strings.HasPrefix(v.theirs, refused) && v.ours == noAnswer
		}, nil},
		{"a pod gets itself by way of another node's NodePort, policy Local", func(v view) bool {
			return v.name == iptables && v.Origin == local && v.Frontend == nodePort2 &&
				strings.Contains(v.theirs, local+" sees ") && strings.Contains(v.ours, noAnswer)
		}, nil},
		{"a free address of a Service range", func(v view) bool {
			return v.name == iptables && v.Service == "unallocated" && v.Frontend == clusterIP &&
				strings.HasPrefix(v.theirs, unreachable) && v.ours == noAnswer
		}, nil},
		{"an answer by UDP and IPv6, in fragments, of a pod on a bridge, with br_netfilter", func(v view) bool {
			return v.Network == udpWide && v.Family == families[1] && v.theirs == noAnswer && seen(v.ours) != nil
		}, bridgeNetfilter},
		{"an unknown port of a ClusterIP", func(v view) bool {
			return v.name == iptables && strings.HasSuffix(v.Service, "unknown port") && v.ours == refused
		}, nil},
	}
}

// bridgeNetfilter: the kernel shows netfilter what bridges forward.
func bridgeNetfilter() bool {
	_, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
	return err == nil
}

// explain returns the line that accounts for a difference, or nil.
func explain(w *world, s settings, d difference) *listed {
	v := view{difference: d, settings: s}
	for _, a := range w.addrs[d.Origin] {
		v.own = append(v.own, a.String())
	}
	if d.Origin == node1 {
		v.own = append(v.own, "10.244.1.1", "fd00:244:1::1")
	}
	theirs, ours := seen(d.theirs), seen(d.ours)
	if len(theirs) == len(ours) {
		for who, whom := range theirs {
			if ours[who] == "" {
				v.pairs = nil
				break
			}
			v.pairs = append(v.pairs, pairOf{who, whom, ours[who]})
		}
	}
	for _, l := range listing() {
		if l.explains(v) {
			return &l
		}
	}
	return nil
}

// seen reads an outcome of answers only: who saw whom. Anything else in it, or
// one who saw different clients, makes it nil.
func seen(outcome string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(outcome, ", ") {
		who, whom, ok := strings.Cut(part, " sees ")
		if !ok || strings.Contains(whom, " ") || out[who] != "" {
			return nil
		}
		out[who] = whom
	}
	return out
}

// rows are the first columns of the table in the reference.
func rows(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference/differences.md")
	check(t, err)
	for line := range strings.Lines(string(text)) {
		if columns := strings.Split(line, "|"); len(columns) > 2 {
			all = append(all, strings.TrimSpace(columns[1]))
		}
	}
	return all
}

func TestEveryListedDifferenceIsInTheReference(t *testing.T) {
	documented := rows(t)
	for _, l := range listing() {
		if !slices.Contains(documented, l.row) {
			t.Errorf("docs/reference/differences.md has no line %q", l.row)
		}
	}
}
