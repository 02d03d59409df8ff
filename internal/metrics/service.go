// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// ServicePort names a Service port in one family, as labels have it.
type ServicePort struct {
	Namespace, Name, Port, Protocol, Family string
}

func (p ServicePort) labels() []string {
	return []string{p.Namespace, p.Name, p.Port, p.Protocol, p.Family}
}

// otherPorts stands for all Service ports beyond the limit. No Service is
// called so: each has a namespace.
func otherPorts() ServicePort { return ServicePort{Name: "other"} }

// ServiceTraffic is what a Service port has had, and has.
type ServiceTraffic struct {
	ServicePort
	// Sockets and Flows are new connections: at the socket, and of the packet
	// path. Active ones are those that there are.
	Sockets, Flows             uint64
	ActiveSockets, ActiveFlows int
	// Packets and Bytes of the packet path, from the client and to it.
	Packets, Bytes [2]uint64
	// Refusals by reason.
	Refusals map[string]uint64
	// Endpoints are those that policy Cluster may pick from.
	Endpoints int
}

func (t *ServiceTraffic) add(o ServiceTraffic) {
	t.Sockets += o.Sockets
	t.Flows += o.Flows
	t.ActiveSockets += o.ActiveSockets
	t.ActiveFlows += o.ActiveFlows
	t.Endpoints += o.Endpoints
	for d := range t.Packets {
		t.Packets[d] += o.Packets[d]
		t.Bytes[d] += o.Bytes[d]
	}
	for reason, n := range o.Refusals {
		if t.Refusals == nil {
			t.Refusals = map[string]uint64{}
		}
		t.Refusals[reason] += n
	}
}

// services reads the traffic of Services at every scrape. The first ports that
// have traffic get series of their own, up to the limit, and keep them.
type services struct {
	limit int
	read  func() ([]ServiceTraffic, error)

	connections, active, packets, bytes, refusals, endpoints *prometheus.Desc

	mu   sync.Mutex
	mine map[ServicePort]bool
}

// Values of the labels path and direction.
func paths() [2]string      { return [2]string{"socket", "packet"} }
func directions() [2]string { return [2]string{"request", "reply"} }

func (b *builder) services(reads Reads) {
	b.group = groupServices
	s := &services{limit: reads.ServiceLimit, read: reads.Services, mine: map[ServicePort]bool{}}
	port := []string{"namespace", "service", "port", "protocol", labelFamily}
	var descs []*prometheus.Desc
	var all []description
	desc := func(kind, name, help string, more ...string) *prometheus.Desc {
		labels := slices.Concat(port, more)
		all = append(all, description{name, kind, help, labels, b.group})
		d := prometheus.NewDesc(name, help, labels, nil)
		descs = append(descs, d)
		return d
	}
	s.connections = desc("counter", "beeline_service_connections_total",
		"New connections: sockets of this node that got a backend, and flows of the packet path.", labelPath)
	s.active = desc("gauge", "beeline_service_active_connections",
		"Connections at present: TCP sockets of this node (only with datapath.tcpPeerRecords), and flows that have not expired.", labelPath)
	s.packets = desc("counter", "beeline_service_packets_total",
		"Packets of the packet path, from the client (request) and to it (reply), as a device hands them over: one may be many that the kernel has joined. What a socket sends after it got its backend is not seen.", labelDirection)
	s.bytes = desc("counter", "beeline_service_bytes_total",
		"Bytes of these packets, from the IP header on.", labelDirection)
	s.refusals = desc("counter", "beeline_service_refusals_total",
		"Connections and packets that were refused or dropped; reasons as in beeline_datapath_events_total.", labelReason)
	s.endpoints = desc("gauge", "beeline_service_endpoints",
		"Endpoints that a client with traffic policy Cluster may get.")
	b.all = append(b.all, all...)
	b.reg.MustRegister(collector{s, descs})
}

type collector struct {
	*services
	descs []*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	if c.read == nil || c.limit <= 0 {
		return
	}
	traffic, err := c.read()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.connections, err)
		return
	}
	for _, t := range c.pick(traffic) {
		c.send(ch, t)
	}
}

// pick sums up what is beyond the limit.
func (s *services) pick(all []ServiceTraffic) (picked []ServiceTraffic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[ServicePort]bool{}
	for _, t := range all {
		there[t.ServicePort] = true
	}
	for p := range s.mine {
		if !there[p] {
			delete(s.mine, p) // its place is free
		}
	}
	slices.SortFunc(all, func(a, b ServiceTraffic) int { return slices.Compare(a.labels(), b.labels()) })
	others, rest := ServiceTraffic{ServicePort: otherPorts()}, 0
	for _, t := range all {
		if !s.mine[t.ServicePort] && len(s.mine) >= s.limit {
			others.add(t)
			rest++
			continue
		}
		s.mine[t.ServicePort] = true
		picked = append(picked, t)
	}
	if rest > 0 {
		picked = append(picked, others)
	}
	return picked
}

func (s *services) send(ch chan<- prometheus.Metric, t ServiceTraffic) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, slices.Concat(t.labels(), more)...)
	}
	for i, n := range []uint64{t.Sockets, t.Flows} {
		send(s.connections, prometheus.CounterValue, float64(n), paths()[i])
	}
	for i, n := range []int{t.ActiveSockets, t.ActiveFlows} {
		send(s.active, prometheus.GaugeValue, float64(n), paths()[i])
	}
	for i, direction := range directions() {
		send(s.packets, prometheus.CounterValue, float64(t.Packets[i]), direction)
		send(s.bytes, prometheus.CounterValue, float64(t.Bytes[i]), direction)
	}
	for reason, n := range t.Refusals {
		send(s.refusals, prometheus.CounterValue, float64(n), reason)
	}
	send(s.endpoints, prometheus.GaugeValue, float64(t.Endpoints))
}
