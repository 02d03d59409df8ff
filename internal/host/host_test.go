// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// network makes a network of "eth0 192.0.2.1 2001:db8::1": a device with its
// addresses, numbered from 1. Words of their own, "down" and "in2" (a member of
// device 2), are no addresses; lo is the loopback device, vrf a VRF.
func network(devices ...string) model.Network {
	var n model.Network
	for i, text := range devices {
		words := strings.Fields(text)
		d := model.Device{Index: i + 1, Name: words[0], Up: true, Loopback: words[0] == "lo", VRF: words[0] == "vrf"}
		for _, w := range words[1:] {
			if w == "down" {
				d.Up = false
			} else if master, ok := strings.CutPrefix(w, "in"); ok {
				d.Master, _ = strconv.Atoi(master)
			} else {
				d.Addresses = append(d.Addresses, netip.MustParseAddr(w))
			}
		}
		n.Devices = append(n.Devices, d)
	}
	return n
}

// node is a node whose status has these addresses.
func node(addrs ...string) model.Node {
	n := model.Node{Name: "node"}
	for _, a := range addrs {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	return n
}

func (a Address) String() string {
	if a.NodePorts {
		return a.Addr.String() + " nodeports"
	}
	return a.Addr.String()
}

func (s Source) String() string { return fmt.Sprintf("%d %v %v", s.Device, s.Family, s.Addr) }

func texts[T fmt.Stringer](all []T) (texts []string) {
	for _, v := range all {
		texts = append(texts, v.String())
	}
	return texts
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: -want +got\n%s", what, diff)
	}
}

func TestAddresses(t *testing.T) {
	const lo, eth0 = "lo 127.0.0.1 ::1", "eth0 192.0.2.1 2001:db8::1 fe80::1"
	for name, c := range map[string]struct {
		network  []string
		serving  []string // nodePortAddresses
		loopback bool
		want     []string
	}{
		"all addresses serve, loopback never": {
			network: []string{lo, eth0},
			want:    []string{"192.0.2.1 nodeports", "2001:db8::1 nodeports", "fe80::1 nodeports"},
		},
		"a range of one family leaves the other as it is": {
			network: []string{lo, eth0, "eth1 198.51.100.1"}, serving: []string{"198.51.100.0/24"},
			want: []string{"192.0.2.1", "198.51.100.1 nodeports", "2001:db8::1 nodeports", "fe80::1 nodeports"},
		},
		"primary addresses only": {
			network: []string{lo, eth0, "eth1 198.51.100.1"}, serving: []string{"primary"},
			want: []string{"192.0.2.1 nodeports", "198.51.100.1", "2001:db8::1 nodeports", "fe80::1"},
		},
		"IPv4 loopback on request, IPv6 never": {
			network: []string{lo, eth0}, serving: []string{"all"}, loopback: true,
			want: []string{"127.0.0.1 nodeports", "192.0.2.1 nodeports", "2001:db8::1 nodeports", "fe80::1 nodeports"},
		},
		"loopback requested, and not in the ranges": {
			network: []string{lo, "eth0 192.0.2.1"}, serving: []string{"192.0.2.0/24"}, loopback: true,
			want: []string{"192.0.2.1 nodeports"},
		},
		// Pains A32: a VIP that keepalived or kube-vip puts on lo or eth0.
		"an address that comes later": {
			network: []string{lo + " 203.0.113.9", "eth0 192.0.2.1 203.0.113.10"},
			want:    []string{"192.0.2.1 nodeports", "203.0.113.9 nodeports", "203.0.113.10 nodeports"},
		},
		"a device that is down: its address is the node's still": {
			network: []string{lo, "eth0 down 192.0.2.1"},
			want:    []string{"192.0.2.1 nodeports"},
		},
		"one address on two devices": {
			network: []string{lo, "eth0 192.0.2.1", "veth1 169.254.1.1", "veth2 169.254.1.1"},
			want:    []string{"169.254.1.1 nodeports", "192.0.2.1 nodeports"},
		},
		"no network": {},
	} {
		t.Run(name, func(t *testing.T) {
			var config plan.Config
			var err error
			if config.NodePortAddresses, err = plan.ParseNodePortAddresses(c.serving); err != nil {
				t.Fatal(err)
			}
			config.NodePortAddresses.IPv4Loopback = c.loopback
			got := New(network(c.network...), node("192.0.2.1", "2001:db8::1"), config, Ports{})
			same(t, "addresses", texts(got.Addresses), c.want)
		})
	}
}

// Pains A36: the source of what leaves is one that the other side can answer to.
func TestA36Sources(t *testing.T) {
	for name, c := range map[string]struct {
		network []string
		node    []string
		bind    string
		want    []string
	}{
		"members of a VRF, one without an address": {
			network: []string{"lo 127.0.0.1 ::1", "vrf 203.0.113.1", "eth0 in2", "eth1 in2 198.51.100.1", "eth2", "br0 192.0.2.9", "veth1 in6"},
			node:    []string{"203.0.113.1"},
			want: []string{"0 IPv4 203.0.113.1", "2 IPv4 203.0.113.1", "3 IPv4 203.0.113.1", "4 IPv4 198.51.100.1",
				"6 IPv4 192.0.2.9"},
		},
		"each device its own": {
			network: []string{"lo 127.0.0.1 ::1", "eth0 192.0.2.1 2001:db8::1", "eth1 198.51.100.1 198.51.100.2", "cni0 10.1.0.1"},
			node:    []string{"192.0.2.1", "2001:db8::1"},
			want: []string{"0 IPv4 192.0.2.1", "0 IPv6 2001:db8::1", "2 IPv4 192.0.2.1", "2 IPv6 2001:db8::1",
				"3 IPv4 198.51.100.1", "4 IPv4 10.1.0.1"},
		},
		"never a link-local address": {
			network: []string{"lo 127.0.0.1 ::1", "veth1 169.254.1.1 fe80::1", "eth0 fe80::2 2001:db8::1 192.0.2.1"},
			node:    []string{"192.0.2.1", "2001:db8::1"},
			want:    []string{"0 IPv4 192.0.2.1", "0 IPv6 2001:db8::1", "3 IPv4 192.0.2.1", "3 IPv6 2001:db8::1"},
		},
		"the node's main address is not on the first device": {
			network: []string{"lo 127.0.0.1", "docker0 172.17.0.1", "eth0 192.0.2.1"},
			node:    []string{"192.0.2.1"},
			want:    []string{"0 IPv4 192.0.2.1", "2 IPv4 172.17.0.1", "3 IPv4 192.0.2.1"},
		},
		"the node's addresses are on lo, its devices have none (BGP to the host)": {
			network: []string{"lo 127.0.0.1 192.0.2.1 ::1 2001:db8::1", "eth0 fe80::1", "eth1 fe80::2"},
			node:    []string{"192.0.2.1", "2001:db8::1"},
			want:    []string{"0 IPv4 192.0.2.1", "0 IPv6 2001:db8::1"},
		},
		"a status that is not true: the node has another address": {
			network: []string{"lo 127.0.0.1", "eth0 192.0.2.1"},
			node:    []string{"203.0.113.1"},
			want:    []string{"0 IPv4 192.0.2.1", "2 IPv4 192.0.2.1"},
		},
		"no status yet": {
			network: []string{"lo 127.0.0.1", "eth0 192.0.2.1"},
			want:    []string{"0 IPv4 192.0.2.1", "2 IPv4 192.0.2.1"},
		},
		"--bind-address": {
			network: []string{"lo 127.0.0.1", "eth0 192.0.2.1", "eth1 198.51.100.1"},
			node:    []string{"192.0.2.1"}, bind: "198.51.100.1",
			want: []string{"0 IPv4 198.51.100.1", "2 IPv4 192.0.2.1", "3 IPv4 198.51.100.1"},
		},
		"nothing leaves by a device that is down": {
			network: []string{"lo 127.0.0.1", "eth0 down 192.0.2.1", "eth1 198.51.100.1"},
			want:    []string{"0 IPv4 198.51.100.1", "3 IPv4 198.51.100.1"},
		},
		"no network": {node: []string{"192.0.2.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var config plan.Config
			if c.bind != "" {
				config.BindAddress = netip.MustParseAddr(c.bind)
			}
			got := New(network(c.network...), node(c.node...), config, Ports{})
			same(t, "sources", texts(got.Sources), c.want)
		})
	}
}

// Every source is one of the node's addresses: replies to it must come in.
func TestSourcesAreAddresses(t *testing.T) {
	got := New(network("lo 127.0.0.1 10.0.0.1", "a 192.0.2.1 fe80::1", "b down 192.0.2.2", "c 2001:db8::1"), node("192.0.2.2"), plan.Config{}, Ports{})
	for _, s := range got.Sources {
		if !slices.ContainsFunc(got.Addresses, func(a Address) bool { return a.Addr == s.Addr }) {
			t.Errorf("source %v is not among the addresses %v", s, got.Addresses)
		}
	}
	if len(got.Sources) == 0 {
		t.Error("no sources")
	}
}

func TestPodRanges(t *testing.T) {
	cidrs := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	n := node("192.0.2.1")
	n.PodCIDRs = cidrs("10.1.7.0/24", "fd00:1:7::/64")
	cluster := cidrs("fd00:1::/48", "10.1.3.3/16", "10.1.0.0/16")
	for mode, want := range map[plan.DetectLocalMode][]string{
		plan.DetectNone:                nil,
		plan.DetectClusterCIDR:         {"10.1.0.0/16", "fd00:1::/48"},
		plan.DetectNodeCIDR:            {"10.1.7.0/24", "fd00:1:7::/64"},
		plan.DetectBridgeInterface:     nil,
		plan.DetectInterfaceNamePrefix: nil,
	} {
		t.Run(mode.String(), func(t *testing.T) {
			config := plan.Config{DetectLocal: plan.DetectLocal{Mode: mode, ClusterCIDRs: cluster}}
			same(t, "pod ranges", texts(New(model.Network{}, n, config, Ports{}).PodRanges), want)
		})
	}
}

func TestEqual(t *testing.T) {
	n, m := network("lo 127.0.0.1", "eth0 192.0.2.1"), node("192.0.2.1")
	a := New(n, m, plan.Config{}, Ports{})
	if !a.Equal(New(n, m, plan.Config{}, Ports{})) {
		t.Error("the same differs")
	}
	var reserved Ports
	reserved.Add(8080, 8080)
	ranges := plan.Config{DetectLocal: plan.DetectLocal{Mode: plan.DetectClusterCIDR, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	for name, b := range map[string]Tables{
		"reserved":   New(n, m, plan.Config{}, reserved),
		"pod ranges": New(n, m, ranges, Ports{}),
		"addresses":  New(network("lo 127.0.0.1 192.0.2.9", "eth0 192.0.2.1"), m, plan.Config{}, Ports{}),
		"sources":    New(network("lo 127.0.0.1", "eth9", "eth0 192.0.2.1"), m, plan.Config{}, Ports{}),
	} {
		if a.Equal(b) {
			t.Errorf("other %s make no difference", name)
		}
	}
}

func TestParsePorts(t *testing.T) {
	for list, want := range map[string][]uint16{
		"":                   nil,
		"\n":                 nil,
		"8080\n":             {8080},
		"1,3-5,65535":        {1, 3, 4, 5, 65535},
		"0-1,65534-65535,63": {0, 1, 63, 65534, 65535},
	} {
		ports, err := ParsePorts(list)
		if err != nil {
			t.Errorf("%q: %v", list, err)
		}
		var got []uint16
		for p := range 1 << 16 {
			if ports.Has(uint16(p)) {
				got = append(got, uint16(p))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", list, got, want)
		}
	}
	for _, list := range []string{"x", "1,", "5-3", "65536", "-1", "1-2-3", "1 2"} {
		if _, err := ParsePorts(list); err == nil {
			t.Errorf("%q is accepted", list)
		}
	}
}
