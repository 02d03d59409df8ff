// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/loadbalancer"
)

// startLoadBalancer runs the controller until the cluster is closed.
func (c *Cluster) startLoadBalancer() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.dirs.Kubeconfig())
	if err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	if err := spreadByPorts(c.control); err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	for _, pool := range []netip.Prefix{loadBalancersV4, loadBalancersV6} {
		if err := silence(c.control, pool); err != nil {
			return fmt.Errorf("load balancer: %w", err)
		}
	}
	pools := map[corev1.IPFamily]netip.Prefix{corev1.IPv4Protocol: loadBalancersV4, corev1.IPv6Protocol: loadBalancersV6}
	var nodes [][]netip.Addr
	for _, plan := range c.plans {
		nodes = append(nodes, plan.addresses())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loadbalancer.New(client, newRouter(c.control), pools, nodes, c.log).Run(ctx)
	}()
	c.doors = append(c.doors, func() error {
		cancel()
		<-done
		return nil
	})
	return nil
}

// spreadByPorts has each connection choose its node, not each client.
func spreadByPorts(ns *lab.Namespace) error {
	return ns.Do(func() error {
		return errors.Join(
			os.WriteFile("/proc/sys/net/ipv4/fib_multipath_hash_policy", []byte("1"), 0),
			os.WriteFile("/proc/sys/net/ipv6/fib_multipath_hash_policy", []byte("1"), 0))
	})
}

// silence has packets to addresses that no Service has get lost, as they do in
// a real network: the sender is told nothing. They go to a station that is not
// there.
func silence(ns *lab.Namespace, pool netip.Prefix) error {
	err := ns.Do(func() error {
		link, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		nobody := pool.Addr() // a network's own address is given to nobody
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: nobody.AsSlice(), HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0},
		}); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{
			Dst: ipNet(pool), LinkIndex: link.Attrs().Index, Gw: nobody.AsSlice(),
			Flags: int(netlink.FLAG_ONLINK), Src: clientAddress(pool.Addr()).AsSlice(),
		})
	})
	if err != nil {
		return fmt.Errorf("route %s to nobody: %w", pool, err)
	}
	return nil
}

// router routes in the control plane's namespace, which stands for the world.
type router struct {
	ns     *lab.Namespace
	client *http.Client
}

func newRouter(ns *lab.Namespace) router {
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = ns.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	return router{ns, &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

func (r router) Client() *http.Client { return r.client }

func (r router) SetRoute(addr netip.Addr, nodes []netip.Addr) error {
	if err := r.RemoveRoute(addr); err != nil {
		return err
	}
	route := &netlink.Route{Dst: hostNet(addr), Src: clientAddress(addr).AsSlice()}
	if len(nodes) == 0 {
		route.Type = unix.RTN_UNREACHABLE
	}
	err := r.ns.Do(func() error {
		link, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		for _, node := range nodes {
			route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: node.AsSlice()})
		}
		return netlink.RouteAdd(route)
	})
	if err != nil {
		return fmt.Errorf("route %s: %w", addr, err)
	}
	return nil
}

func (r router) RemoveRoute(addr netip.Addr) error {
	err := r.ns.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: hostNet(addr)}) })
	if err != nil && !errors.Is(err, unix.ESRCH) { // ESRCH: there is none
		return fmt.Errorf("remove route %s: %w", addr, err)
	}
	return nil
}

func hostNet(addr netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(addr, addr.BitLen())) }
