// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/beeline-net/beeline/internal/model"
)

// cluster makes n Services with ten endpoints each.
func cluster(n int) ([]*model.Service, [][]model.EndpointSlice) {
	var services []*model.Service
	var endpoints [][]model.EndpointSlice
	for i := range n {
		name := model.Name{Namespace: "bench", Name: fmt.Sprintf("service-%05d", i)}
		services = append(services, &model.Service{
			Name:       name,
			ClusterIPs: []netip.Addr{addr4(0x0a600000, i)},
			Ports:      []model.ServicePort{{Name: "http", Protocol: model.TCP, Port: 80}},
		})
		slice := model.EndpointSlice{
			Name:    model.Name{Namespace: name.Namespace, Name: name.Name + "-x7k2p"},
			Service: name,
			Family:  model.IPv4,
			Ports:   []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}},
		}
		for j := range 10 {
			slice.Endpoints = append(slice.Endpoints, model.Endpoint{
				Addr: addr4(0x0a800000, i*10+j), Ready: true, Serving: true, Node: fmt.Sprintf("node-%d", j),
			})
		}
		endpoints = append(endpoints, []model.EndpointSlice{slice})
	}
	return services, endpoints
}

func addr4(base uint32, i int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], base+uint32(i))
	return netip.AddrFrom4(b)
}

func BenchmarkFirstSync10000x10(b *testing.B) {
	services, endpoints := cluster(10_000)
	b.ReportAllocs()
	for b.Loop() {
		p := New(Config{NodeName: "node-3"})
		for i, s := range services {
			p.Update(s.Name, s, endpoints[i])
		}
	}
}

func BenchmarkOneEndpointOf10000x10(b *testing.B) {
	services, endpoints := cluster(10_000)
	p := New(Config{NodeName: "node-3"})
	for i, s := range services {
		p.Update(s.Name, s, endpoints[i])
	}
	full := endpoints[77]
	less := []model.EndpointSlice{full[0]}
	less[0].Endpoints = full[0].Endpoints[1:]
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		next := full
		if i%2 == 0 {
			next = less
		}
		if got := p.Update(services[77].Name, services[77], next); len(got) != 1 {
			b.Fatalf("%d plans changed", len(got))
		}
	}
}

func BenchmarkSetNode10000x10(b *testing.B) {
	services, endpoints := cluster(10_000)
	p := New(Config{})
	for i, s := range services {
		p.Update(s.Name, s, endpoints[i])
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p.SetNode(model.Node{Name: fmt.Sprintf("node-%d", i%2)})
	}
}

// Services that share all their endpoints are no dearer.
func BenchmarkOneOf10000WithTheSameEndpoints(b *testing.B) {
	services, endpoints := cluster(10_000)
	p := New(Config{NodeName: "node-3"})
	for _, s := range services {
		p.Update(s.Name, s, endpoints[0])
	}
	less := []model.EndpointSlice{endpoints[0][0]}
	less[0].Endpoints = less[0].Endpoints[1:]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next := endpoints[0]
		if i%2 == 0 {
			next = less
		}
		if got := p.Update(services[77].Name, services[77], next); len(got) != 1 {
			b.Fatalf("%d plans changed", len(got))
		}
	}
}
