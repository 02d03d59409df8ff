// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// routes is a Network that only notes.
type routes struct {
	mu sync.Mutex
	to map[netip.Addr][]netip.Addr
}

func (r *routes) SetRoute(addr netip.Addr, nodes []netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to[addr] = nodes
	return nil
}

func (r *routes) RemoveRoute(addr netip.Addr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.to, addr)
	return nil
}

func (r *routes) Client() *http.Client { return http.DefaultClient }

func (r *routes) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.to)
}

// TestServiceComesAndGoes: a Service gets an address, a route and the finalizer
// that clouds set, and loses all of them with its type.
func TestServiceComesAndGoes(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "n"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	client := fake.NewClientset(service)
	network := &routes{to: map[netip.Addr][]netip.Addr{}}
	pools := map[corev1.IPFamily]netip.Prefix{corev1.IPv4Protocol: netip.MustParsePrefix("192.0.2.0/24")}
	nodes := [][]netip.Addr{{netip.MustParseAddr("198.51.100.1")}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(client, network, pools, nodes, slog.Default()).Run(ctx)
	}()
	defer func() { cancel(); <-done }()

	services := client.CoreV1().Services("n")
	await := func(what string, addresses, routes int, finalizer bool) {
		t.Helper()
		var s *corev1.Service
		for range 200 {
			var err error
			if s, err = services.Get(ctx, "s", metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			if len(s.Status.LoadBalancer.Ingress) == addresses && network.count() == routes &&
				slices.Contains(s.Finalizers, cleanupFinalizer) == finalizer {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("%s: %d routes, %+v, finalizers %v", what, network.count(), s.Status.LoadBalancer, s.Finalizers)
	}
	await("a load balancer", 1, 1, true)
	s, err := services.Get(ctx, "s", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Spec.Type = corev1.ServiceTypeClusterIP
	if _, err := services.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("none any more", 0, 0, false)
}

// A client of a Service with session affinity keeps its node as long as that
// one is healthy, and gets another then.
func TestAffinityStaysAtANode(t *testing.T) {
	addrs := func(words ...string) (all []netip.Addr) {
		for _, w := range words {
			all = append(all, netip.MustParseAddr(w))
		}
		return all
	}
	var routed []netip.Addr
	for _, step := range []struct{ healthy, want []netip.Addr }{
		{nil, nil},
		{addrs("198.51.100.2", "198.51.100.3"), addrs("198.51.100.2")},
		{addrs("198.51.100.1", "198.51.100.2", "198.51.100.3"), addrs("198.51.100.2")},
		{addrs("198.51.100.1", "198.51.100.3"), addrs("198.51.100.1")},
		{nil, nil},
	} {
		routed = stay(step.healthy, routed)
		if !slices.Equal(routed, step.want) {
			t.Errorf("healthy %v: to %v, want %v", step.healthy, routed, step.want)
		}
	}
	// The affinity is new, and every node had been routed to.
	if got := stay(addrs("198.51.100.1", "198.51.100.2"), addrs("198.51.100.1", "198.51.100.2")); len(got) != 1 {
		t.Errorf("to %v, want one node", got)
	}
}
