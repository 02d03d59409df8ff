// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"net/netip"
	"reflect"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"
	netutils "k8s.io/utils/net"

	"github.com/beeline-net/beeline/internal/model"
)

// openPorts are the endpoints of a Service's ports for which kube-proxy leaves
// open what counts: the same address is in several slices, and different
// things are said about it. It walks the slices in the order of a Go map.
type openPorts map[proxy.ServicePortName]map[string][]candidate

// candidate is what one slice says about an endpoint, as kube-proxy reads it
// on each node.
type candidate map[string]proxy.Endpoint

// possibilities lists what the endpoints of a port may be; one list if
// kube-proxy leaves nothing open.
func (f *familyProxy) possibilities(name proxy.ServicePortName, node string) [][]proxy.Endpoint {
	all := [][]proxy.Endpoint{f.maps[node][name]}
	for addr, candidates := range f.open[name.NamespacedName][name] {
		var next [][]proxy.Endpoint
		for _, eps := range all {
			for _, c := range candidates {
				variant := slices.Clone(eps)
				variant[slices.IndexFunc(variant, func(e proxy.Endpoint) bool { return e.String() == addr })] = c[node]
				next = append(next, variant)
			}
		}
		all = next
	}
	return all
}

// localReady is LocalReadyEndpoints of a Service about which something is open.
func (f *familyProxy) localReady(service types.NamespacedName, node string) (least, most int) {
	certain, possible := map[string]bool{}, map[string]bool{}
	counts := func(e proxy.Endpoint) bool { return e.IsLocal() && e.IsReady() }
	for name, eps := range f.maps[node] {
		if name.NamespacedName != service {
			continue
		}
		for _, e := range eps {
			says := []proxy.Endpoint{e}
			if candidates := f.open[service][name][e.String()]; len(candidates) > 0 {
				says = nil
				for _, c := range candidates {
					says = append(says, c[node])
				}
			}
			if slices.ContainsFunc(says, counts) {
				possible[e.IP()] = true
				if !slices.ContainsFunc(says, func(e proxy.Endpoint) bool { return !counts(e) }) {
					certain[e.IP()] = true
				}
			}
		}
	}
	return len(certain), len(possible)
}

// statement is what a slice says about an endpoint: where it says so.
type statement struct {
	slice          *discovery.EndpointSlice
	port, endpoint int
}

// findOpen lists what is open among the slices of a Service in one family.
func (p *kubeProxies) findOpen(family model.Family, all map[string]*discovery.EndpointSlice) openPorts {
	said := map[proxy.ServicePortName]map[string][]statement{}
	for _, s := range all {
		if string(s.AddressType) != family.String() {
			continue
		}
		for i, port := range s.Ports {
			if port.Name == nil || port.Port == nil || *port.Port == 0 {
				continue
			}
			name := proxy.ServicePortName{
				NamespacedName: types.NamespacedName{Namespace: s.Namespace, Name: owner(s).name},
				Port:           *port.Name, Protocol: *port.Protocol,
			}
			if said[name] == nil {
				said[name] = map[string][]statement{}
			}
			for addr, endpoint := range decisive(s, *port.Port) {
				said[name][addr] = append(said[name][addr], statement{s, i, endpoint})
			}
		}
	}
	open := openPorts{}
	for name, addrs := range said {
		for addr, statements := range addrs {
			if candidates := p.candidates(statements); len(candidates) > 1 {
				if open[name] == nil {
					open[name] = map[string][]candidate{}
				}
				open[name][addr] = candidates
			}
		}
	}
	return open
}

// candidates are the different outcomes that the order of slices may have. The
// first statement counts unless a later one is not terminating
// (endpointslicecache.go, addEndpoints).
func (p *kubeProxies) candidates(statements []statement) []candidate {
	alive := slices.DeleteFunc(slices.Clone(statements), func(s statement) bool {
		return terminating(s.slice.Endpoints[s.endpoint])
	})
	if len(alive) > 0 {
		statements = alive
	}
	if len(statements) < 2 {
		return nil
	}
	var different []candidate
	for _, s := range statements {
		c := p.read(s)
		if !slices.ContainsFunc(different, func(o candidate) bool { return reflect.DeepEqual(o, c) }) {
			different = append(different, c)
		}
	}
	return different
}

// decisive returns for each address of a slice the index of the endpoint that
// counts if no other slice has that address.
func decisive(s *discovery.EndpointSlice, port int32) map[string]int {
	index := map[string]int{}
	for i, e := range s.Endpoints {
		addr := netip.AddrPortFrom(addrOf(netutils.ParseIPSloppy(e.Addresses[0])), uint16(port)).String()
		if _, found := index[addr]; !found || !terminating(e) {
			index[addr] = i
		}
	}
	return index
}

func terminating(e discovery.Endpoint) bool {
	return e.Conditions.Terminating != nil && *e.Conditions.Terminating
}

// read lets kube-proxy itself read one endpoint.
func (p *kubeProxies) read(s statement) candidate {
	alone := *s.slice
	alone.Ports = alone.Ports[s.port : s.port+1]
	alone.Endpoints = alone.Endpoints[s.endpoint : s.endpoint+1]
	c := candidate{}
	for node := range p.nodes {
		tracker := proxy.NewEndpointsChangeTracker(v1.IPFamily(alone.AddressType), node, nil, nil)
		tracker.EndpointSliceUpdate(&alone, false)
		read := proxy.EndpointsMap{}
		read.Update(tracker)
		for _, eps := range read {
			c[node] = eps[0]
		}
	}
	return c
}
