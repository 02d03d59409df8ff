// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/model"
)

func TestSmoke(t *testing.T) {
	p := New(Config{NodeName: "a", AllowExternalIPs: true})
	name := model.Name{Namespace: "ns", Name: "web"}
	svc := &model.Service{
		Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		Ports: []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
	}
	es := []model.EndpointSlice{{
		Name: model.Name{Namespace: "ns", Name: "web-1"}, Service: name, Family: model.IPv4,
		Ports:     []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		Endpoints: []model.Endpoint{{Addr: netip.MustParseAddr("10.1.0.1"), Ready: true, Serving: true, Node: "a"}},
	}}
	id := PortID{Service: name, Port: "http", Protocol: model.TCP, Family: model.IPv4}
	want := []Service{{Name: name, Ports: []Port{{
		ID:        id,
		Frontends: []Frontend{{FrontendKey: FrontendKey{netip.MustParseAddr("10.0.0.1"), 80, model.TCP}}},
		Backends:  []Backend{{Addr: netip.MustParseAddrPort("10.1.0.1:8080"), Local: true}},
		Cluster:   Set{Members: []int{0}},
	}}}}
	if diff := cmp.Diff(want, p.Update(name, svc, es), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); diff != "" {
		t.Fatal(diff)
	}
	if got := p.Update(name, svc, es); got != nil {
		t.Fatal(got)
	}
	if got := p.Update(name, nil, nil); len(got) != 1 || !got[0].Empty() {
		t.Fatal(got)
	}
	if len(p.services)+len(p.claims)+len(p.targets.first)+len(p.targets.more)+len(p.problems) != 0 {
		t.Fatal("something left")
	}
}
