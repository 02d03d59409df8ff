// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/test/apiserver"
	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// Where Services and endpoints are in front of an API server that has nothing
// behind it. Every endpoint is an address of the server, so that every Service
// answers.
var (
	serviceRange  = netip.MustParsePrefix("10.96.0.0/12")
	endpointRange = netip.MustParsePrefix("10.128.0.0/10")
)

// probed is how many Services at most have to answer before all are said to.
const probed = 100

// objects are those of the API server.
type objects struct {
	api       *apiserver.Server
	endpoints int // of each Service
	fillers   int
	changed   []bool // whether a filler's first endpoint is not ready
	vips      map[string]netip.Addr
}

func newObjects(endpoints int) (*objects, error) {
	api, err := apiserver.Start()
	if err != nil {
		return nil, err
	}
	o := &objects{api: api, endpoints: endpoints, vips: map[string]netip.Addr{}}
	for n := clientNode; n <= serverNode; n++ {
		api.Put(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: cluster.NodeName(n)},
			Spec:       corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.244.%d.0/24", n)},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.77.%d", n)},
			}},
		})
	}
	api.Put(&networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{serviceRange.String()}},
	})
	for _, name := range measured() {
		o.add(name)
	}
	return o, nil
}

// add makes a Service with its EndpointSlice.
func (o *objects) add(name string) {
	n := len(o.vips)
	o.vips[name] = nth(serviceRange, 256+n) // behind those that clusters keep for themselves
	s := service(name, corev1.ServiceTypeClusterIP)
	s.Spec.ClusterIP = o.vips[name].String()
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	o.api.Put(s, o.slice(name, n, 0))
}

// slice is that of the Service that was added as the nth.
func (o *objects) slice(name string, n, notReady int) *discoveryv1.EndpointSlice {
	var addrs []netip.Addr
	for i := range o.endpoints {
		addrs = append(addrs, nth(endpointRange, 256+n*o.endpoints+i))
	}
	return slice(name, notReady, addrs...)
}

// nth is an address of a range.
func nth(p netip.Prefix, n int) netip.Addr {
	base := p.Addr().As4()
	binary.BigEndian.PutUint32(base[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(base)
}

// grow makes fillers until there are so many Services. History is nobody's: no
// proxy runs.
func (o *objects) grow(services int) {
	for ; len(o.vips) < services; o.fillers++ {
		o.add(fillerName(o.fillers))
		o.changed = append(o.changed, false)
	}
	o.api.Forget()
}

// change makes filler i's first endpoint ready, or not ready any more.
func (o *objects) change(i int) {
	o.changed[i] = !o.changed[i]
	notReady := 0
	if o.changed[i] {
		notReady = 1
	}
	o.api.Put(o.slice(fillerName(i), len(measured())+i, notReady))
}

// targets are Services from inside.
func (o *objects) targets(names ...string) (targets []load.Target) {
	for _, name := range names {
		targets = append(targets, load.Target{Name: name, Addr: netip.AddrPortFrom(o.vips[name], servicePort)})
	}
	return targets
}

// sample are Services from everywhere among all, by the order of names and of
// their making.
func (o *objects) sample() []load.Target {
	names := []string{first, startOther, middle, last}
	n := min(o.fillers, probed-len(names))
	for i := range n {
		names = append(names, fillerName(i*o.fillers/n))
	}
	return o.targets(names...)
}

// What Beeline's tables hold unless told otherwise (--max-backends).
const defaultBackends = 1 << 18

// agentArgs makes Beeline's tables larger where the defaults are too small.
func (o *objects) agentArgs() []string {
	size := defaultBackends
	for size < len(o.vips)*(o.endpoints+1) {
		size *= 2
	}
	if size == defaultBackends {
		return nil
	}
	return []string{"--max-backends=" + strconv.Itoa(size), "--max-slots=" + strconv.Itoa(2*size)}
}
