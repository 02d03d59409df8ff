// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/beeline-net/beeline/internal/lab"
)

// The address plan. The network has no uplink, so it may be the same in every
// cluster; 198.18.0.0/15 is set aside for benchmarks (RFC 2544).
//
//	control plane  198.18.0.1        fd18::1
//	node n         198.18.0.(10+n)   fd18::(10+n)
//	pods of node n 10.244.n.0/24     fd00:10:244:n::/64
//	Services       10.96.0.0/16      fd00:10:96::/112
//	LoadBalancers  198.18.64.0/24    fd18:0:0:64::/120, routed to the nodes
//	their clients  198.19.0.1        fd19::1, the control plane once more
//
// Whoever comes by a load balancer is from elsewhere: a test takes a client of
// the nodes' own network for a node.
var (
	loadBalancersV4 = netip.MustParsePrefix("198.18.64.0/24")
	loadBalancersV6 = netip.MustParsePrefix("fd18:0:0:64::/120")

	controlPlaneV4 = netip.MustParseAddr("198.18.0.1")
	controlPlaneV6 = netip.MustParseAddr("fd18::1")

	clientV4 = netip.MustParseAddr("198.19.0.1")
	clientV6 = netip.MustParseAddr("fd19::1")
)

const (
	serviceRangeV4 = "10.96.0.0/16"
	serviceRangeV6 = "fd00:10:96::/112"
	podRangeV4     = "10.244.0.0/16"
	podRangeV6     = "fd00:10:244::/56"
	dnsAddress     = "10.96.0.10"
	apiAddress     = "10.96.0.1" // of the Service default/kubernetes
	apiPort        = 6443
	registryPort   = 5000
)

// wire is the device name of nodes' network; bridge is that of the bridge of
// all nodes in the control plane's namespace.
const (
	wire   = "eth0"
	bridge = "br0"
)

// nodeNetwork is what node n's network is made of. IPv6 addresses are invalid
// in a single-stack cluster.
type nodeNetwork struct {
	v4, v6         netip.Addr
	podsV4, podsV6 netip.Prefix
}

func planNode(n int, dual bool) nodeNetwork {
	plan := nodeNetwork{
		v4:     netip.AddrFrom4([4]byte{198, 18, 0, byte(10 + n)}),
		podsV4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24),
	}
	if dual {
		plan.v6 = netip.MustParseAddr(fmt.Sprintf("fd18::%d", 10+n))
		plan.podsV6 = netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n))
	}
	return plan
}

// addresses are the node's addresses of the cluster's families.
func (p nodeNetwork) addresses() []netip.Addr {
	if p.v6.IsValid() {
		return []netip.Addr{p.v4, p.v6}
	}
	return []netip.Addr{p.v4}
}

// pods are the node's pod ranges of the cluster's families.
func (p nodeNetwork) pods() []netip.Prefix {
	if p.podsV6.IsValid() {
		return []netip.Prefix{p.podsV4, p.podsV6}
	}
	return []netip.Prefix{p.podsV4}
}

// clientAddress is that of clients of a load balancer with this address.
func clientAddress(loadBalancer netip.Addr) netip.Addr {
	if loadBalancer.Is4() {
		return clientV4
	}
	return clientV6
}

// buildControlNetwork makes the namespace of the control plane, which is also
// the switch and router between the nodes.
func buildControlNetwork(l *lab.Lab) (*lab.Namespace, error) {
	ns, err := l.Namespace("control")
	if err != nil {
		return nil, err
	}
	return ns, errors.Join(
		ns.Bridge(bridge),
		ns.Address(bridge, netip.PrefixFrom(controlPlaneV4, 24).String()),
		ns.Address(bridge, netip.PrefixFrom(controlPlaneV6, 64).String()),
		ns.Address("lo", netip.PrefixFrom(clientV4, 32).String()),
		ns.Address("lo", netip.PrefixFrom(clientV6, 128).String()),
		ns.Forward())
}

// buildNodeNetwork joins a new namespace to the control plane's bridge.
func buildNodeNetwork(l *lab.Lab, control *lab.Namespace, name string, plan nodeNetwork) (*lab.Namespace, error) {
	ns, err := l.Namespace(name)
	if err != nil {
		return nil, err
	}
	port := "to-" + name
	steps := []error{
		lab.Connect(control, port, ns, wire),
		control.Enslave(port, bridge),
		ns.Address(wire, netip.PrefixFrom(plan.v4, 24).String()),
		ns.Route("0.0.0.0/0", controlPlaneV4.String()),
		ns.Forward(),
		looseReversePath(ns),
	}
	if plan.v6.IsValid() {
		steps = append(steps,
			ns.Address(wire, netip.PrefixFrom(plan.v6, 64).String()),
			ns.Route("::/0", controlPlaneV6.String()))
	}
	return ns, errors.Join(steps...)
}

// looseReversePath accepts packets that came another way than the answer will go.
func looseReversePath(ns *lab.Namespace) error {
	return ns.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/conf/default/rp_filter", []byte("0"), 0))
	})
}

// routePods tells a namespace the way to a node's pods.
func routePods(ns *lab.Namespace, to nodeNetwork) error {
	var errs []error
	for i, pods := range to.pods() {
		errs = append(errs, ns.Route(pods.String(), to.addresses()[i].String()))
	}
	return errors.Join(errs...)
}
