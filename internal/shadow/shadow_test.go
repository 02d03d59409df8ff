// SPDX-License-Identifier: Apache-2.0

package shadow

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

var (
	pod    = netip.MustParseAddrPort("10.244.0.5:8080")
	other  = netip.MustParseAddrPort("10.244.0.6:8080")
	vip    = netip.MustParseAddr("10.96.0.80")
	client = Client{Name: "outside", Addr: netip.MustParseAddr("203.0.113.7"), Device: "eth0"}
)

// view has one Service with a ClusterIP and a NodePort.
func view() oracle.View {
	name := model.Name{Namespace: "default", Name: "web"}
	id := plan.PortID{Service: name, Protocol: model.TCP, Family: model.IPv4}
	return oracle.View{
		Config: plan.Config{RefuseUnknownPorts: true},
		Local:  []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Services: []plan.Service{{
			Name: name, Addresses: []netip.Addr{vip},
			Ports: []plan.Port{{
				ID: id,
				Frontends: []plan.Frontend{
					{FrontendKey: plan.FrontendKey{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: model.TCP}, Kind: plan.NodePort},
					{FrontendKey: plan.FrontendKey{Addr: vip, Port: 80, Protocol: model.TCP}, Kind: plan.ClusterIP},
				},
				Backends: []plan.Backend{{Addr: pod}, {Addr: other}},
				Cluster:  plan.Set{Members: []int{0, 1}},
			}},
		}},
	}
}

func TestCompare(t *testing.T) {
	both := func(masquerade bool) map[netip.AddrPort]bool {
		return map[netip.AddrPort]bool{pod: masquerade, other: masquerade}
	}
	for _, c := range []struct {
		name   string
		theirs Theirs
		reach  []string
	}{
		{"agree", func(p oracle.Packet, local bool) (Decision, error) {
			switch {
			case p.Destination.Addr() == vip && p.Destination.Port() != 80:
				return Decision{Verdict: oracle.Reject}, nil
			case local:
				return Decision{oracle.Translate, both(true)}, nil
			}
			return Decision{oracle.Translate, both(false)}, nil
		}, nil},
		{"rules for nothing", func(oracle.Packet, bool) (Decision, error) {
			return Decision{Verdict: oracle.Pass}, nil
		}, []string{"opens", "opens", "differs"}},
		{"no source NAT anywhere", func(p oracle.Packet, _ bool) (Decision, error) {
			if p.Destination.Port() == 65535 {
				return Decision{Verdict: oracle.Reject}, nil
			}
			return Decision{oracle.Translate, both(false)}, nil
		}, []string{"source"}},
		{"an endpoint less", func(p oracle.Packet, local bool) (Decision, error) {
			if p.Destination.Port() == 65535 {
				return Decision{Verdict: oracle.Reject}, nil
			}
			return Decision{oracle.Translate, map[netip.AddrPort]bool{pod: local}}, nil
		}, []string{"differs", "differs"}},
		{"everything open", func(p oracle.Packet, local bool) (Decision, error) {
			return Decision{oracle.Translate, both(local)}, nil
		}, []string{"closes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Compare(World{View: view(), Clients: []Client{client}}, c.theirs)
			var reach []string
			for _, m := range r.Mismatches {
				reach = append(reach, m.Reach)
			}
			if len(reach) != len(c.reach) {
				t.Fatalf("got %+v, want %v", r.Mismatches, c.reach)
			}
			for i := range reach {
				if reach[i] != c.reach[i] {
					t.Errorf("got %+v, want %v", r.Mismatches, c.reach)
				}
			}
			if r.Asked != 3 {
				t.Errorf("asked %d times", r.Asked)
			}
		})
	}
}

func TestWhatIsNotUnderstoodIsSaidOnce(t *testing.T) {
	r := Compare(World{View: view(), Clients: []Client{client}}, func(oracle.Packet, bool) (Decision, error) {
		return Decision{}, errors.New("match string")
	})
	if len(r.Unknown) != 1 || len(r.Mismatches) != 0 {
		t.Errorf("%+v", r)
	}
}
