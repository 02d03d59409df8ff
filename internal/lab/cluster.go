// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
)

// Cluster is nodes on one wire, each with a bridge for its pods, routed to each
// other, both families: a cluster's network without a cluster.
//
//	node n    192.168.77.n   fd77::n
//	its pods  10.244.n.0/24  fd00:244:n::/64, the node has .1
type Cluster struct {
	Nodes []*Node
	// Wire is the namespace with the bridge between the nodes.
	Wire *Namespace
	lab  *Lab
}

// Outside is a host that is no node, behind a router.
type Outside struct {
	Name   string
	NS     *Namespace
	V4, V6 netip.Addr
}

// Node is a network namespace with a cgroup and a BPF filesystem of its own.
type Node struct {
	Name   string
	Index  int
	NS     *Namespace
	Cgroup *Cgroup
	BPFFS  string
	V4, V6 netip.Addr

	lab  *Lab
	pods int
}

// Pod is a network namespace on a node's bridge, and a cgroup below the node's.
type Pod struct {
	Name   string
	Node   *Node
	NS     *Namespace
	Cgroup *Cgroup
	V4, V6 netip.Addr
}

// Cluster makes nodes named node1, node2, ...
func (l *Lab) Cluster(nodes int) (*Cluster, error) {
	wire, err := l.Namespace("wire")
	if err != nil {
		return nil, err
	}
	if err := wire.Bridge("br0"); err != nil {
		return nil, err
	}
	c := &Cluster{lab: l, Wire: wire}
	for i := 1; i <= nodes; i++ {
		n, err := l.addNode(wire, i)
		if err != nil {
			return nil, fmt.Errorf("node %d: %w", i, err)
		}
		c.Nodes = append(c.Nodes, n)
	}
	for _, n := range c.Nodes {
		for _, other := range c.Nodes {
			if n == other {
				continue
			}
			if err := errors.Join(
				n.NS.Route(fmt.Sprintf("10.244.%d.0/24", other.Index), other.V4.String()),
				n.NS.Route(fmt.Sprintf("fd00:244:%d::/64", other.Index), other.V6.String())); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (l *Lab) addNode(wire *Namespace, i int) (_ *Node, err error) {
	n := &Node{
		Name: fmt.Sprintf("node%d", i), Index: i, lab: l,
		V4: netip.AddrFrom4([4]byte{192, 168, 77, byte(i)}),
		V6: netip.MustParseAddr(fmt.Sprintf("fd77::%d", i)),
	}
	if n.NS, err = l.Namespace(n.Name); err != nil {
		return nil, err
	}
	if n.Cgroup, err = l.Cgroup(n.Name); err != nil {
		return nil, err
	}
	if n.BPFFS, err = l.BPFFS(); err != nil {
		return nil, err
	}
	port := "to-" + n.Name
	return n, errors.Join(
		Connect(wire, port, n.NS, "eth0"),
		wire.Enslave(port, "br0"),
		n.NS.Address("eth0", n.V4.String()+"/24"),
		n.NS.Address("eth0", n.V6.String()+"/64"),
		n.NS.Bridge("cni0"),
		n.NS.Address("cni0", fmt.Sprintf("10.244.%d.1/24", i)),
		n.NS.Address("cni0", fmt.Sprintf("fd00:244:%d::1/64", i)),
		n.NS.Forward())
}

// Outside makes the wire a router, and a host behind it: the nodes' default
// route leads there, and the router knows the way to their pods. It may be
// called once.
//
//	the router  192.168.77.254, 203.0.113.1   fd77::fe, 2001:db8:7::1
//	the host    203.0.113.2                   2001:db8:7::2
func (c *Cluster) Outside(name string) (*Outside, error) {
	o := &Outside{Name: name, V4: netip.MustParseAddr("203.0.113.2"), V6: netip.MustParseAddr("2001:db8:7::2")}
	var err error
	if o.NS, err = c.lab.Namespace(name); err != nil {
		return nil, err
	}
	port := "to-" + name
	if err := errors.Join(
		Connect(c.Wire, port, o.NS, "eth0"),
		c.Wire.Address(port, "203.0.113.1/24"),
		c.Wire.Address(port, "2001:db8:7::1/64"),
		c.Wire.Address("br0", "192.168.77.254/24"),
		c.Wire.Address("br0", "fd77::fe/64"),
		c.Wire.Forward(),
		o.NS.Address("eth0", o.V4.String()+"/24"),
		o.NS.Address("eth0", o.V6.String()+"/64"),
		o.NS.Route("0.0.0.0/0", "203.0.113.1"),
		o.NS.Route("::/0", "2001:db8:7::1")); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	for _, n := range c.Nodes {
		if err := errors.Join(
			n.NS.Route("0.0.0.0/0", "192.168.77.254"),
			n.NS.Route("::/0", "fd77::fe"),
			c.Wire.Route(fmt.Sprintf("10.244.%d.0/24", n.Index), n.V4.String()),
			c.Wire.Route(fmt.Sprintf("fd00:244:%d::/64", n.Index), n.V6.String())); err != nil {
			return nil, fmt.Errorf("host %s: %w", name, err)
		}
	}
	return o, nil
}

// Pod makes a pod. Names are unique in the lab and have at most 13 bytes,
// because the node's end of the wire is named after them.
func (n *Node) Pod(name string) (_ *Pod, err error) {
	n.pods++
	host := n.pods + 1
	p := &Pod{
		Name: name, Node: n,
		V4: netip.AddrFrom4([4]byte{10, 244, byte(n.Index), byte(host)}),
		V6: netip.MustParseAddr(fmt.Sprintf("fd00:244:%d::%x", n.Index, host)),
	}
	if p.NS, err = n.lab.Namespace(name); err != nil {
		return nil, err
	}
	if p.Cgroup, err = n.lab.Cgroup(filepath.Join(n.Name, name)); err != nil {
		return nil, err
	}
	port := "v-" + name
	return p, errors.Join(
		Connect(n.NS, port, p.NS, "eth0"),
		n.NS.Enslave(port, "cni0"),
		p.NS.Address("eth0", p.V4.String()+"/24"),
		p.NS.Address("eth0", p.V6.String()+"/64"),
		p.NS.Route("0.0.0.0/0", fmt.Sprintf("10.244.%d.1", n.Index)),
		p.NS.Route("::/0", fmt.Sprintf("fd00:244:%d::1", n.Index)))
}
