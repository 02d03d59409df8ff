// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// namespace holds all objects of the benchmark.
const namespace = "bench"

// The pods: the client is on the first node, the servers on the second.
const (
	clientPod    = "client"
	serverA      = "server-a"
	serverB      = "server-b"
	servicePort  = 80
	clientNode   = 1
	serverNode   = 2
	creators     = 32 // requests to the API server at once
	neverServing = 100
)

// The Services that are connected to. Fillers are named so that some come
// before and some after middle where a proxy sorts by name; a start is seen at
// the first, at one in the middle and at the last. Those have no other use: a
// connection that is tried before kube-proxy has its rules leaves a tracked flow
// without a translation, and a later one from the same port meets it.
const (
	first      = "a"
	startOther = "l"
	middle     = "m"
	last       = "zz"
	flip       = "flip" // changes its server all the time
)

// measured are the Services that are there at every size.
func measured() []string { return []string{first, startOther, middle, last, flip} }

// fillerName names filler i.
func fillerName(i int) string {
	if i%2 == 0 {
		return fmt.Sprintf("a%05d", i)
	}
	return fmt.Sprintf("z%05d", i)
}

// pod runs the load program on a node.
func pod(name string, node int, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			NodeName:                      cluster.NodeName(node),
			EnableServiceLinks:            new(false), // thousands of variables
			TerminationGracePeriodSeconds: new(int64(0)),
			Containers: []corev1.Container{{
				Name: "load", Image: kit.LoadImage + ":latest", ImagePullPolicy: corev1.PullIfNotPresent, Args: args,
			}},
		},
	}
}

// service has no selector: its EndpointSlice is made by hand.
func service(name string, kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.ServiceSpec{
			Type: kind,
			Ports: []corev1.ServicePort{{
				Port: servicePort, TargetPort: intstr.FromInt32(load.Port), Protocol: corev1.ProtocolTCP,
			}},
		},
	}
}

// slice is that of a Service with these endpoints, the first notReady of them
// not ready.
func slice(service string, notReady int, addrs ...netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: service, Namespace: namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "beeline-bench"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(""), Port: new(int32(load.Port)), Protocol: new(corev1.ProtocolTCP)}},
	}
	for i, addr := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{addr.String()},
			NodeName:   new(cluster.NodeName(serverNode)),
			Conditions: discoveryv1.EndpointConditions{Ready: new(i >= notReady)},
		})
	}
	return s
}

// fillers are the Services that only make a cluster large.
type fillers struct {
	client    kubernetes.Interface
	endpoints []netip.Addr // of each
	count     int
	changed   []bool // whether its first endpoint is not ready
}

// fillerEndpoints are those of a filler: addresses of the server node's range
// that no pod has. Nobody connects to them.
func fillerEndpoints(server netip.Addr, count int) []netip.Addr {
	var addrs []netip.Addr
	block := server.As4()
	for i := range count {
		block[3] = byte(neverServing + i)
		addrs = append(addrs, netip.AddrFrom4(block))
	}
	return addrs
}

// grow makes fillers until there are so many.
func (f *fillers) grow(ctx context.Context, count int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for ; f.count < count; f.count++ {
		name := fillerName(f.count)
		f.changed = append(f.changed, false)
		group.Go(func() error {
			return create(ctx, f.client, service(name, corev1.ServiceTypeClusterIP), slice(name, 0, f.endpoints...))
		})
	}
	return group.Wait()
}

func create(ctx context.Context, client kubernetes.Interface, service *corev1.Service, slice *discoveryv1.EndpointSlice) error {
	if _, err := client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make Service %s: %w", service.Name, err)
	}
	if _, err := client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make EndpointSlice %s: %w", slice.Name, err)
	}
	return nil
}

// change makes filler i's first endpoint ready, or not ready any more.
func (f *fillers) change(ctx context.Context, i int) error {
	f.changed[i] = !f.changed[i]
	notReady := 0
	if f.changed[i] {
		notReady = 1
	}
	return update(ctx, f.client, slice(fillerName(i), notReady, f.endpoints...))
}

func update(ctx context.Context, client kubernetes.Interface, slice *discoveryv1.EndpointSlice) error {
	if _, err := client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("change EndpointSlice %s: %w", slice.Name, err)
	}
	return nil
}
