// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/contract"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// What becomes of packets is tested by the table in internal/contract. Here is
// the rest of an answer.

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

func ask(t *testing.T, yaml string, p oracle.Packet) oracle.Answer {
	t.Helper()
	o, _, err := contract.Rule{Services: []contract.Service{{
		YAML: yaml, Endpoints: []string{"10.244.1.5 here", "10.244.2.5 there"},
	}}}.Oracle()
	if err != nil {
		t.Fatal(err)
	}
	return o.Ask(p)
}

func to(dst, from string) oracle.Packet {
	return oracle.Packet{Protocol: model.TCP, Source: netip.MustParseAddr(from), Destination: netip.MustParseAddrPort(dst)}
}

func TestAffinityIsKeyedByClientAndServicePort(t *testing.T) {
	const sticky = `{spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90}}}}`
	want := &oracle.Affinity{
		Client: netip.MustParseAddr(contract.Outside),
		Port: plan.PortID{
			Service: model.Name{Namespace: "shop", Name: "web"}, Port: "http", Protocol: model.TCP, Family: model.IPv4,
		},
		Timeout: 90 * time.Second,
	}
	for _, dst := range []string{"10.96.0.10:80", "198.51.100.10:80", "192.0.2.80:80", "172.18.0.2:30080"} {
		answer := ask(t, sticky, to(dst, contract.Outside))
		if diff := cmp.Diff(want, answer.Affinity, byValue); diff != "" {
			t.Errorf("%s: %s", dst, diff)
		}
	}
	if answer := ask(t, "", to("10.96.0.10:80", contract.Pod)); answer.Affinity != nil {
		t.Errorf("affinity %v without being asked for", answer.Affinity)
	}
}

func TestStepsTellWhy(t *testing.T) {
	const local = `{spec: {externalTrafficPolicy: Local, loadBalancerSourceRanges: [10.0.0.0/8]}}`
	tests := []struct {
		name   string
		packet oracle.Packet
		want   []string
	}{{
		"short-circuit", to("198.51.100.10:80", contract.Pod), []string{
			"client 10.244.1.9 is pod (detect-local ClusterCIDR)",
			"198.51.100.10:80/TCP is LoadBalancer of shop/web:http/TCP/IPv4",
			"source range 10.0.0.0/8 lets 10.244.1.9 pass",
			"clients inside the cluster are not bound by the external traffic policy",
			"2 of the 2 backends may be chosen (cluster set)",
		},
	}, {
		"kept out", to("198.51.100.10:80", contract.Outside), []string{
			"client 203.0.113.7 is external",
			"198.51.100.10:80/TCP is LoadBalancer of shop/web:http/TCP/IPv4",
			"no source range lets 203.0.113.7 pass",
		},
	}, {
		"NodePort from outside", to("172.18.0.2:30080", contract.Outside), []string{
			"client 203.0.113.7 is external",
			"172.18.0.2:30080 is NodePort of shop/web:http/TCP/IPv4",
			"1 of the 2 backends may be chosen (local set)",
		},
	}, {
		"loopback", to("127.0.0.1:30080", "127.0.0.1"), []string{
			"client 127.0.0.1 is node: one of its addresses",
			"127.0.0.1 does not serve NodePorts",
			"127.0.0.1:30080 is no frontend",
		},
	}, {
		"hairpin", to("10.96.0.10:80", "10.244.1.5"), []string{
			"client 10.244.1.5 is pod (detect-local ClusterCIDR)",
			"10.96.0.10:80/TCP is ClusterIP of shop/web:http/TCP/IPv4",
			"source NAT: 10.244.1.5 is client and backend",
			"2 of the 2 backends may be chosen (cluster set)",
		},
	}, {
		"unknown port", to("10.96.0.10:81", contract.Pod), []string{
			"client 10.244.1.9 is pod (detect-local ClusterCIDR)",
			"10.96.0.10 is a ClusterIP of shop/web, which has no such port",
		},
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, ask(t, local, test.packet).Steps); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhoAsksMayKnowTheScope(t *testing.T) {
	packet := to("198.51.100.10:80", "192.168.1.1")
	for scope, backends := range map[oracle.Scope]int{oracle.Unknown: 1, oracle.Pod: 2, oracle.Node: 2, oracle.External: 1} {
		packet.Scope = scope
		answer := ask(t, `{spec: {externalTrafficPolicy: Local}}`, packet)
		if len(answer.Backends) != backends {
			t.Errorf("%v: %d backends, want %d", scope, len(answer.Backends), backends)
		}
	}
}

// FuzzAsk asks anything in the worlds of the contract: an answer is always
// consistent in itself.
func FuzzAsk(f *testing.F) {
	rules := contract.Rules()
	oracles := make([]*oracle.Oracle, len(rules))
	for i, rule := range rules {
		var err error
		if oracles[i], _, err = rule.Oracle(); err != nil {
			f.Fatal(err)
		}
	}
	addresses := strings.Fields(`10.244.1.9 10.244.1.5 10.244.2.5 172.18.0.2 203.0.113.7 127.0.0.1 ::1 0.0.0.0 ::
		10.96.0.10 10.96.0.11 198.51.100.10 192.0.2.80 fd00:10:96::10 fd00:172:18::2 ::ffff:10.96.0.10 fe80::1%eth0`)
	ports := []uint16{0, 53, 80, 81, 8080, 30080}
	for seed := range uint64(200) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		d := rand.New(rand.NewPCG(seed, 1))
		addr := func() (a netip.Addr) {
			if d.IntN(20) > 0 {
				a = netip.MustParseAddr(addresses[d.IntN(len(addresses))])
			}
			return a
		}
		flow := func() (ap netip.AddrPort) {
			if d.IntN(4) == 0 {
				ap = netip.AddrPortFrom(addr(), 8080)
			}
			return ap
		}
		for range 100 {
			p := oracle.Packet{
				Protocol: []model.Protocol{model.TCP, model.UDP, model.SCTP, 0}[d.IntN(4)],
				Source:   addr(), Destination: netip.AddrPortFrom(addr(), ports[d.IntN(len(ports))]),
				Device: []string{"", "cni0", "eth0"}[d.IntN(3)], Scope: oracle.Scope(d.IntN(4)),
				Flow: flow(), Pinned: flow(),
			}
			checkAnswer(t, p, oracles[d.IntN(len(oracles))].Ask(p))
		}
	})
}

func checkAnswer(t *testing.T, p oracle.Packet, a oracle.Answer) {
	t.Helper()
	fail := func(why string) { t.Errorf("%s:\n%+v\n%+v", why, p, a) }
	if (a.Verdict == oracle.Translate) != (len(a.Backends) > 0) {
		fail("backends do not fit the verdict")
	}
	if a.Verdict == oracle.Pass && a.Frontend != nil {
		fail("passes, but has a frontend")
	}
	if a.Scope == oracle.Unknown || len(a.Steps) == 0 {
		fail("no scope or no steps")
	}
	if (a.Frontend == nil) != (a.Port == plan.PortID{}) {
		fail("frontend without port")
	}
	established := slices.ContainsFunc(a.Backends, func(b oracle.Backend) bool { return b.Addr == p.Flow })
	for _, b := range a.Backends {
		if b.State == plan.Draining && !established {
			fail("a new flow to a draining backend")
		}
		if a.Frontend != nil && a.Frontend.ExternalLocal && a.Scope == oracle.External && !b.Local && !established {
			fail("policy Local is not kept")
		}
	}
}
