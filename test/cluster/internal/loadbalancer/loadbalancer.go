// SPDX-License-Identifier: Apache-2.0

// Package loadbalancer is a cloud's load balancer controller without a cloud:
// it gives Services of type LoadBalancer addresses, and has packets to them
// routed to the nodes that want them. Clients' addresses stay as they are.
package loadbalancer

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// period of looking at Services and at nodes' health checks; cloud providers
// take seconds.
const period = 500 * time.Millisecond

// Network is what the controller works on.
type Network interface {
	// SetRoute sends packets for addr to the nodes with these addresses of the
	// same family, spread over them; to nobody if there are none.
	SetRoute(addr netip.Addr, nodes []netip.Addr) error
	// RemoveRoute forgets the address.
	RemoveRoute(addr netip.Addr) error
	// Client reaches the nodes.
	Client() *http.Client
}

// Controller serves one cluster.
type Controller struct {
	client  kubernetes.Interface
	network Network
	pools   map[corev1.IPFamily]netip.Prefix
	nodes   [][]netip.Addr // each node's addresses
	log     *slog.Logger

	services corelisters.ServiceLister
	claims   map[key]claim
}

// key is a Service's namespace and name.
type key struct{ namespace, name string }

// claim is what a Service has.
type claim struct {
	addrs  []netip.Addr
	routed map[netip.Addr][]netip.Addr // by address: the nodes
}

// New makes a controller that gives out addresses of the pools.
// Nodes are each node's addresses, at most one of a family.
func New(
	client kubernetes.Interface, network Network, pools map[corev1.IPFamily]netip.Prefix, nodes [][]netip.Addr, log *slog.Logger,
) *Controller {
	return &Controller{client: client, network: network, pools: pools, nodes: nodes, log: log, claims: map[key]claim{}}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(c.client, 0)
	c.services = factory.Core().V1().Services().Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for ctx.Err() == nil {
		if err := c.sync(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("load balancer", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(period):
		}
	}
}

// sync brings addresses, routes and statuses to what Services ask for.
func (c *Controller) sync(ctx context.Context) error {
	all, err := c.services.List(labels.Everything())
	if err != nil {
		return err
	}
	wanted := map[key]bool{}
	for _, s := range all {
		if wants(s) {
			wanted[key{s.Namespace, s.Name}] = true
		}
	}
	for k, held := range c.claims {
		if wanted[k] {
			continue
		}
		for addr := range held.routed {
			if err := c.network.RemoveRoute(addr); err != nil {
				return err
			}
		}
		delete(c.claims, k)
	}
	for _, s := range all {
		if err := c.serve(ctx, s); err != nil {
			return fmt.Errorf("Service %s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	return nil
}

func wants(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
}

// serve does everything for one Service.
func (c *Controller) serve(ctx context.Context, s *corev1.Service) error {
	if !wants(s) {
		// Its routes are gone by now.
		s, err := c.finalize(ctx, s, false)
		if err == nil && s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
			err = c.publish(ctx, s, nil)
		}
		return err
	}
	s, err := c.finalize(ctx, s, true)
	if err != nil {
		return err
	}
	k := key{s.Namespace, s.Name}
	held, ok := c.claims[k]
	if !ok {
		held.routed = map[netip.Addr][]netip.Addr{}
	}
	if held.addrs, err = c.allocate(s, held.addrs); err != nil {
		return err
	}
	c.claims[k] = held
	healthy := c.healthy(ctx, s)
	for _, addr := range held.addrs {
		nodes := ofFamily(healthy, addr)
		if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			nodes = stay(nodes, held.routed[addr])
		}
		if before, ok := held.routed[addr]; ok && slices.Equal(before, nodes) {
			continue
		}
		if err := c.network.SetRoute(addr, nodes); err != nil {
			return err
		}
		held.routed[addr] = nodes
	}
	return c.publish(ctx, s, held.addrs)
}

// cleanupFinalizer keeps a Service until what a load balancer has of it is gone
// (k8s.io/cloud-provider/service/helpers).
const cleanupFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// finalize adds the finalizer or removes it, and returns the Service as it is then.
func (c *Controller) finalize(ctx context.Context, s *corev1.Service, hold bool) (*corev1.Service, error) {
	if slices.Contains(s.Finalizers, cleanupFinalizer) == hold {
		return s, nil
	}
	s = s.DeepCopy()
	if hold {
		s.Finalizers = append(s.Finalizers, cleanupFinalizer)
	} else {
		s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == cleanupFinalizer })
	}
	updated, err := c.client.CoreV1().Services(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) { // it went with its last finalizer
		return s, nil
	}
	return updated, err
}

// allocate returns an address of each of the Service's families: those it has,
// that it asks for, or free ones.
func (c *Controller) allocate(s *corev1.Service, have []netip.Addr) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, family := range s.Spec.IPFamilies {
		pool := c.pools[family]
		if i := slices.IndexFunc(have, pool.Contains); i >= 0 {
			addrs = append(addrs, have[i])
			continue
		}
		addr, err := c.free(pool, s)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func (c *Controller) free(pool netip.Prefix, s *corev1.Service) (netip.Addr, error) {
	used := map[netip.Addr]bool{}
	for _, held := range c.claims {
		for _, addr := range held.addrs {
			used[addr] = true
		}
	}
	// What the status says is kept when the controller starts anew.
	wishes := []string{s.Spec.LoadBalancerIP}
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		wishes = append(wishes, ingress.IP)
	}
	for _, wish := range wishes {
		if addr, err := netip.ParseAddr(wish); err == nil && pool.Contains(addr) && !used[addr] {
			return addr, nil
		}
	}
	for addr := pool.Addr().Next(); pool.Contains(addr); addr = addr.Next() {
		if !used[addr] {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address of %s is free", pool)
}

// healthy returns the addresses of the nodes that want the Service's traffic:
// all, or those whose health check port says so.
func (c *Controller) healthy(ctx context.Context, s *corev1.Service) [][]netip.Addr {
	if s.Spec.HealthCheckNodePort == 0 {
		return c.nodes
	}
	var healthy [][]netip.Addr
	for _, node := range c.nodes {
		ctx, cancel := context.WithTimeout(ctx, period)
		url := fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(node[0], uint16(s.Spec.HealthCheckNodePort)))
		if c.answers(ctx, url) {
			healthy = append(healthy, node)
		}
		cancel()
	}
	return healthy
}

func (c *Controller) answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := c.network.Client().Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func ofFamily(nodes [][]netip.Addr, like netip.Addr) []netip.Addr {
	var addrs []netip.Addr
	for _, node := range nodes {
		for _, addr := range node {
			if addr.Is4() == like.Is4() {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// stay is the one node that the clients of a Service with session affinity are
// sent to: a node knows nothing of what another remembers. It remains the same
// while it is healthy.
func stay(nodes, before []netip.Addr) []netip.Addr {
	for _, node := range nodes {
		if slices.Equal(before, []netip.Addr{node}) {
			return before
		}
	}
	return nodes[:min(1, len(nodes))]
}

// publish writes the addresses into the Service's status, if they are not there.
func (c *Controller) publish(ctx context.Context, s *corev1.Service, addrs []netip.Addr) error {
	same := slices.EqualFunc(s.Status.LoadBalancer.Ingress, addrs, func(i corev1.LoadBalancerIngress, a netip.Addr) bool {
		return i.IP == a.String()
	})
	if same {
		return nil
	}
	s = s.DeepCopy()
	s.Status.LoadBalancer.Ingress = nil
	mode := corev1.LoadBalancerIPModeVIP
	for _, addr := range addrs {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress,
			corev1.LoadBalancerIngress{IP: addr.String(), IPMode: &mode})
	}
	_, err := c.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{})
	return err
}
