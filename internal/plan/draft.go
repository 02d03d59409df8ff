// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// draft is what one Service asks for, before it is compared with what the
// others ask for. It depends on nothing but the Service, its slices, the node
// and the configuration.
type draft struct {
	ports []draftPort
	// wishes are the frontends asked for, sorted by key, one for each.
	wishes []wish
	// addresses are asked for as such (Service.Addresses).
	addresses []netip.Addr
	// targets are the keys at which its usable endpoints would be translated
	// again if they were frontends; sorted, without duplicates.
	targets  []FrontendKey
	health   []HealthCheck
	problems []Problem
}

// draftPort is a Service port in one family with its endpoints.
type draftPort struct {
	id        PortID
	endpoints []endpoint
}

// wish is a frontend asked for.
type wish struct {
	Frontend
	port int // index into draft.ports
	// yields: claimed but not planned, because an endpoint of the Service is
	// there.
	yields bool
}

// drafter makes one draft.
type drafter struct {
	*scene
	service *model.Service
	slices  []model.EndpointSlice // sorted by name
	draft
}

// scene is what all Services are drafted against.
type scene struct {
	config    Config
	node      model.Node
	nodeAddrs []netip.Addr // unmapped
	nodePorts NodePortMatcher
	vantage   vantage
}

func newScene(config Config, node model.Node) *scene {
	var addresses []netip.Addr
	for _, a := range node.Addresses {
		addresses = append(addresses, a.Unmap())
	}
	return &scene{
		config:    config,
		node:      node,
		nodeAddrs: addresses,
		nodePorts: config.NodePortMatcher(node),
		vantage:   vantage{node: config.nodeName(node), zone: node.Zone},
	}
}

func (s *scene) draft(service *model.Service, endpointSlices []model.EndpointSlice) draft {
	d := drafter{scene: s, service: service, slices: sortedByName(endpointSlices)}
	d.endpointProblems()
	if ports := d.servicePorts(); len(ports) > 0 {
		for _, family := range model.Families {
			if clusterIP := d.clusterIP(family); clusterIP.IsValid() {
				d.family(family, clusterIP, ports)
			}
		}
	}
	d.sortWishes()
	d.yield()
	return d.draft
}

func sortedByName(s []model.EndpointSlice) []model.EndpointSlice {
	byName := func(a, b model.EndpointSlice) int { return a.Name.Compare(b.Name) }
	if slices.IsSortedFunc(s, byName) {
		return s
	}
	return slices.SortedStableFunc(slices.Values(s), byName)
}

// clusterIP returns the Service's ClusterIP in that family, or the zero
// address: without one, the Service is not proxied in that family at all
// (kube-proxy: servicechangetracker.go, serviceToServiceMap).
func (d *drafter) clusterIP(family model.Family) netip.Addr {
	for _, a := range d.service.ClusterIPs {
		if a.IsValid() && model.FamilyOf(a) == family {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// family drafts everything of one family.
func (d *drafter) family(family model.Family, clusterIP netip.Addr, ports []model.ServicePort) {
	first := len(d.ports)
	for _, p := range ports {
		id := PortID{Service: d.service.Name, Port: p.Name, Protocol: p.Protocol, Family: family}
		eps := gather(d.slices, family, portName{p.Name, p.Protocol}, d.vantage.node)
		d.ports = append(d.ports, draftPort{id, eps})
	}
	d.clusterFrontends(clusterIP, ports, first)
	d.loadBalancerFrontends(family, ports, first)
	d.externalFrontends(family, ports, first)
	d.nodePortFrontends(family, ports, first)
	if port := d.service.HealthCheckNodePort; port != 0 {
		d.health = append(d.health, HealthCheck{family, port, d.localReady(family)})
	}
}

// servicePorts returns the valid ports. Name and protocol identify a port; of
// two that have both in common the last counts, as with kube-proxy.
func (d *drafter) servicePorts() []model.ServicePort {
	var valid []model.ServicePort
	for _, p := range d.service.Ports {
		if p.Port == 0 {
			d.problem(InvalidPort, "port %q has number 0", p.Name)
			continue
		}
		same := func(o model.ServicePort) bool { return o.Name == p.Name && o.Protocol == p.Protocol }
		if i := slices.IndexFunc(valid, same); i >= 0 {
			d.problem(InvalidPort, "port %q/%v is there twice, the last one counts", p.Name, p.Protocol)
			valid = slices.Delete(valid, i, i+1)
		}
		valid = append(valid, p)
	}
	return valid
}

func (d *drafter) clusterFrontends(addr netip.Addr, ports []model.ServicePort, first int) {
	if contains(d.config.Leave, addr) {
		return // as asked for: no problem
	}
	if why := special(addr); why != "" {
		d.problem(AddressRefused, "ClusterIP %v is %s", addr, why)
		return
	}
	for i, p := range ports {
		d.wish(first+i, Frontend{
			FrontendKey: FrontendKey{addr, p.Port, p.Protocol},
			Kind:        ClusterIP,
			// Clients outside the cluster follow its policy, too.
			InternalLocal: d.service.InternalLocal,
			ExternalLocal: d.service.InternalLocal,
		})
	}
	if d.config.RefuseUnknownPorts {
		d.addresses = append(d.addresses, addr)
	}
}

func (d *drafter) loadBalancerFrontends(family model.Family, ports []model.ServicePort, first int) {
	addrs := d.claimable(LoadBalancer, d.service.LoadBalancerIPs, family)
	ranges := d.sourceRanges(family, addrs)
	for i, p := range ports {
		for _, addr := range addrs {
			d.wish(first+i, Frontend{
				FrontendKey:   FrontendKey{addr, p.Port, p.Protocol},
				Kind:          LoadBalancer,
				ExternalLocal: d.externalLocal(),
				SourceRanges:  ranges,
			})
		}
	}
}

func (d *drafter) externalFrontends(family model.Family, ports []model.ServicePort, first int) {
	addrs := d.claimable(ExternalIP, d.service.ExternalIPs, family)
	for i, p := range ports {
		for _, addr := range addrs {
			d.wish(first+i, Frontend{
				FrontendKey:   FrontendKey{addr, p.Port, p.Protocol},
				Kind:          ExternalIP,
				ExternalLocal: d.externalLocal(),
			})
		}
	}
}

func (d *drafter) nodePortFrontends(family model.Family, ports []model.ServicePort, first int) {
	for i, p := range ports {
		if p.NodePort == 0 {
			continue
		}
		d.wish(first+i, Frontend{
			FrontendKey:   FrontendKey{unspecified(family), p.NodePort, p.Protocol},
			Kind:          NodePort,
			ExternalLocal: d.externalLocal(),
		})
	}
}

// externalLocal: the policy counts only where something external is asked for
// (k8s.io/kubernetes/pkg/api/v1/service, ExternalPolicyLocal).
func (d *drafter) externalLocal() bool {
	return d.service.ExternalLocal && (d.service.Type != model.ClusterIP || len(d.service.ExternalIPs) > 0)
}

// claimable returns those of the addresses that are of that family and that a
// Service may have as that kind.
func (d *drafter) claimable(kind Kind, addrs []netip.Addr, family model.Family) []netip.Addr {
	var ok []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if addr.IsValid() && model.FamilyOf(addr) != family || contains(d.config.Leave, addr) {
			continue
		}
		if reason, why := d.objection(kind, addr); why != "" {
			d.problem(reason, "%v %v is %s", kind, addr, why)
			continue
		}
		ok = append(ok, addr)
	}
	return ok
}

// objection says why a Service may not have that address as that kind, or "".
func (d *drafter) objection(kind Kind, addr netip.Addr) (Reason, string) {
	if why := special(addr); why != "" {
		return AddressRefused, why
	}
	if kind == ExternalIP && !d.config.AllowExternalIPs {
		return AddressNotAllowed, "an external IP, and those are switched off"
	}
	strict := d.config.Strict
	if !strict.Enabled {
		return "", ""
	}
	allowed := strict.LoadBalancers
	if kind == ExternalIP {
		allowed = strict.ExternalIPs
	}
	same := func(o netip.Addr) bool { return o.Unmap() == addr }
	switch {
	case slices.Contains(d.nodeAddrs, addr):
		return AddressProtected, "an address of this node"
	case slices.ContainsFunc(strict.Protected, same):
		return AddressProtected, "a protected address"
	case !contains(allowed, addr):
		return AddressNotAllowed, "in none of the ranges allowed for this kind"
	}
	return "", ""
}

// sourceRanges are the clients that may reach load-balancer addresses. Ranges
// of the other family are left out, and none left means all may; so does a /0.
// If this node may, so may the addresses themselves: where they are local, the
// node's own packets have them as source (kube-proxy: serviceport.go and
// nftables/proxier.go, allowFromNode).
func (d *drafter) sourceRanges(family model.Family, vips []netip.Addr) []netip.Prefix {
	var ranges []netip.Prefix
	for _, r := range d.service.SourceRanges {
		if r.IsValid() && model.FamilyOf(r.Addr()) == family {
			ranges = append(ranges, r.Masked())
		}
	}
	if slices.Contains(ranges, everything(family)) {
		return nil
	}
	if primary := d.config.Primary(d.node, family); primary.IsValid() && contains(ranges, primary) {
		for _, vip := range vips {
			ranges = append(ranges, netip.PrefixFrom(vip, vip.BitLen()))
		}
	}
	slices.SortFunc(ranges, comparePrefixes)
	return slices.Compact(ranges)
}

func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// wish notes a frontend.
func (d *drafter) wish(port int, f Frontend) {
	f.AffinityTimeout = d.service.AffinityTimeout
	d.wishes = append(d.wishes, wish{Frontend: f, port: port})
}

// sortWishes leaves one wish for each key: an address may be given to a Service
// twice, as ExternalIP and by its load balancer, and the first kind counts.
func (d *drafter) sortWishes() {
	slices.SortStableFunc(d.wishes, func(a, b wish) int { return a.Compare(b.FrontendKey) })
	kept := d.wishes[:0]
	for _, w := range d.wishes {
		if n := len(kept); n == 0 || kept[n-1].FrontendKey != w.FrontendKey {
			kept = append(kept, w)
		} else if first := kept[n-1].port; first != w.port {
			d.problem(FrontendConflict, "%v %v belongs to port %q of the same Service", w.Kind, w.FrontendKey, d.ports[first].id.Port)
		}
	}
	d.wishes = kept
}

// yield finds the targets, and the wishes that make way for one.
func (d *drafter) yield() {
	for _, port := range d.ports {
		d.targets = slices.Grow(d.targets, len(port.endpoints))
		for i := range port.endpoints {
			if e := &port.endpoints[i]; e.usable() {
				d.targets = d.appendReached(d.targets, e.addr, port.id.Protocol)
			}
		}
	}
	slices.SortFunc(d.targets, FrontendKey.Compare)
	d.targets = slices.Compact(d.targets)
	for i := range d.wishes {
		w := &d.wishes[i]
		_, hit := slices.BinarySearchFunc(d.targets, w.FrontendKey, FrontendKey.Compare)
		w.yields = hit && w.Kind != ClusterIP
	}
}

// appendReached appends the keys of the frontends that a packet to addr would
// meet.
func (s *scene) appendReached(keys []FrontendKey, addr netip.AddrPort, protocol model.Protocol) []FrontendKey {
	keys = append(keys, FrontendKey{addr.Addr(), addr.Port(), protocol})
	if slices.Contains(s.nodeAddrs, addr.Addr()) && s.nodePorts.Match(addr.Addr()) {
		keys = append(keys, FrontendKey{unspecified(model.FamilyOf(addr.Addr())), addr.Port(), protocol})
	}
	return keys
}

// localReady counts the addresses of ready endpoints on this node, over all
// ports that the slices have, whether or not the Service has them (kube-proxy:
// endpointschangetracker.go, LocalReadyEndpoints).
func (d *drafter) localReady(family model.Family) int {
	seen := map[portName]bool{}
	addrs := map[netip.Addr]bool{}
	for _, s := range d.slices {
		for _, p := range s.Ports {
			name := portName{p.Name, p.Protocol}
			if seen[name] {
				continue
			}
			seen[name] = true
			for _, e := range gather(d.slices, family, name, d.vantage.node) {
				if e.local && e.Ready {
					addrs[e.addr.Addr()] = true
				}
			}
		}
	}
	return len(addrs)
}

// endpointProblems reports the endpoints that gather leaves out.
func (d *drafter) endpointProblems() {
	for _, s := range d.slices {
		for i := range s.Endpoints {
			if why := refusal(s.Endpoints[i].Addr, s.Family); why != "" {
				d.problem(BackendRefused, "endpoint %v is %s", s.Endpoints[i].Addr, why)
			}
		}
	}
}

func (d *drafter) problem(reason Reason, format string, args ...any) {
	d.problems = append(d.problems, Problem{d.service.Name, reason, fmt.Sprintf(format, args...)})
}
