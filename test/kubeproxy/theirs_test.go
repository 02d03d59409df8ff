// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"net"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/apis"
	utilnode "k8s.io/kubernetes/pkg/util/node"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// kubeProxies is kube-proxy on several nodes, up to the point where it would
// write rules: its change trackers, its maps and CategorizeEndpoints. What is
// ours here is the part around them, the informers' selectors and what the
// nftables proxier makes of the result.
type kubeProxies struct {
	families []*familyProxy
	nodes    map[string]*nodeState
	// literal lets it keep what it forgets when a slice changes hands.
	literal bool
	created map[types.NamespacedName]time.Time
	slices  map[types.NamespacedName]map[string]*discovery.EndpointSlice
}

// nodeState is what the proxier knows of its node.
type nodeState struct {
	topology map[string]string
	ips      map[model.Family]netip.Addr
}

// familyProxy is the proxier of one family on all nodes; Services are tracked
// once, since nothing about them depends on the node.
type familyProxy struct {
	family   model.Family
	services *proxy.ServiceChangeTracker
	ports    proxy.ServicePortMap
	trackers map[string]*proxy.EndpointsChangeTracker // by node
	maps     map[string]proxy.EndpointsMap            // by node
	// open holds the endpoints that kube-proxy leaves open, by Service.
	open map[types.NamespacedName]openPorts
}

func apiFamily(f model.Family) v1.IPFamily { return v1.IPFamily(f.String()) }

func newKubeProxies(nodes []string) *kubeProxies {
	p := &kubeProxies{
		nodes:   map[string]*nodeState{},
		created: map[types.NamespacedName]time.Time{},
		slices:  map[types.NamespacedName]map[string]*discovery.EndpointSlice{},
	}
	for _, node := range nodes {
		p.nodes[node] = &nodeState{}
	}
	for _, family := range model.Families {
		f := &familyProxy{
			family:   family,
			services: proxy.NewServiceChangeTracker(apiFamily(family), nil, nil),
			ports:    proxy.ServicePortMap{},
			trackers: map[string]*proxy.EndpointsChangeTracker{},
			maps:     map[string]proxy.EndpointsMap{},
			open:     map[types.NamespacedName]openPorts{},
		}
		for _, node := range nodes {
			f.trackers[node] = proxy.NewEndpointsChangeTracker(apiFamily(family), node, nil, nil)
			f.maps[node] = proxy.EndpointsMap{}
		}
		p.families = append(p.families, f)
	}
	return p
}

// The selectors of kube-proxy's watches (cmd/kube-proxy/app/server.go, Run).
var (
	notProxiedByOthers = without(apis.LabelServiceProxyName)
	notHeadlessSlice   = without(v1.IsHeadlessService)
	notHeadless        = fields.OneTermNotEqualSelector("spec.clusterIP", v1.ClusterIPNone)
)

func without(label string) labels.Selector {
	r, err := labels.NewRequirement(label, selection.DoesNotExist, nil)
	if err != nil {
		panic(err)
	}
	return labels.NewSelector().Add(*r)
}

// watched is the object as the watch with its selector shows it: nil for one
// that does not match, so that an object that stops matching is deleted.
func watchedService(o apiObject) *v1.Service {
	s, _ := o.(*v1.Service)
	if s == nil || !notProxiedByOthers.Matches(labels.Set(s.Labels)) ||
		!notHeadless.Matches(fields.Set{"spec.clusterIP": s.Spec.ClusterIP}) {
		return nil
	}
	return s
}

func watchedSlice(o apiObject) *discovery.EndpointSlice {
	s, _ := o.(*discovery.EndpointSlice)
	if s == nil || !notHeadlessSlice.Matches(labels.Set(s.Labels)) {
		return nil
	}
	return s
}

// handle takes an event of an unfiltered watch.
func (p *kubeProxies) handle(e event) {
	switch e.key.kind {
	case nodeKind:
		p.handleNode(e)
	case serviceKind:
		p.handleService(e)
	case sliceKind:
		p.handleSlice(e)
	}
}

// handleNode does what NodeTopologyConfig and detectNodeIPs do.
func (p *kubeProxies) handleNode(e event) {
	state, node := p.nodes[e.key.name], e.now.(*v1.Node)
	if state == nil {
		return
	}
	state.topology = map[string]string{}
	if zone, ok := node.Labels[v1.LabelTopologyZone]; ok {
		state.topology[v1.LabelTopologyZone] = zone
	}
	state.ips = map[model.Family]netip.Addr{model.IPv4: netip.MustParseAddr("127.0.0.1"), model.IPv6: netip.IPv6Loopback()}
	ips, _ := utilnode.GetNodeHostIPs(node) // an error: there are none
	for _, ip := range ips {
		addr := addrOf(ip)
		state.ips[model.FamilyOf(addr)] = addr
	}
}

func (p *kubeProxies) handleService(e event) {
	old, now := watchedService(e.old), watchedService(e.now)
	if old == nil && now == nil {
		return
	}
	name := types.NamespacedName{Namespace: e.key.namespace, Name: e.key.name}
	if now != nil {
		p.created[name] = now.CreationTimestamp.Time
	}
	for _, f := range p.families {
		f.services.Update(old, now)
	}
}

func (p *kubeProxies) handleSlice(e event) {
	old, now := watchedSlice(e.old), watchedSlice(e.now)
	// A slice that changes hands is deleted and made anew; see "a slice changes
	// hands" among the listed differences.
	if old != nil && (now == nil || owner(now) != owner(old) && !p.literal) {
		p.updateSlice(old, true)
	}
	if now != nil {
		p.updateSlice(now, false)
	}
}

func (p *kubeProxies) updateSlice(s *discovery.EndpointSlice, gone bool) {
	name := types.NamespacedName{Namespace: s.Namespace, Name: owner(s).name}
	if p.slices[name] == nil {
		p.slices[name] = map[string]*discovery.EndpointSlice{}
	}
	if gone {
		delete(p.slices[name], s.Name)
	} else {
		p.slices[name][s.Name] = s
	}
	for _, f := range p.families {
		for _, tracker := range f.trackers {
			tracker.EndpointSliceUpdate(s, gone)
		}
		if string(s.AddressType) == f.family.String() {
			f.open[name] = p.findOpen(f.family, p.slices[name])
		}
	}
}

// sync does what the head of syncProxyRules does.
func (p *kubeProxies) sync() {
	for _, f := range p.families {
		f.ports.Update(f.services)
		for node, tracker := range f.trackers {
			f.maps[node].Update(tracker)
		}
	}
}

// view is what clients meet on a node.
func (p *kubeProxies) view(node string) view {
	v := newView()
	for _, f := range p.families {
		for name, info := range f.ports {
			p.viewPort(&v, f, node, name, info)
		}
		ready := f.maps[node].LocalReadyEndpoints()
		for name, port := range f.ports.HealthCheckNodePorts() {
			id := healthID{model.Name(name), f.family}
			least, most := ready[name], ready[name]
			if len(f.open[name]) > 0 {
				least, most = f.localReady(name, node)
			}
			for n := least; n <= most; n++ {
				v.health[id] = append(v.health[id], healthView{port, n})
			}
		}
	}
	return v
}

func (p *kubeProxies) viewPort(v *view, f *familyProxy, node string, name proxy.ServicePortName, info proxy.ServicePort) {
	protocol, err := model.ParseProtocol(string(name.Protocol))
	if err != nil {
		panic(err)
	}
	id := plan.PortID{Service: model.Name(name.NamespacedName), Port: name.Port, Protocol: protocol, Family: f.family}
	state := p.nodes[node]
	for _, eps := range f.possibilities(name, node) {
		v.ports[id] = append(v.ports[id], portRules(id, info, eps, node, state))
	}
	for _, fe := range v.ports[id][0].frontends {
		v.claims[fe.key] = append(v.claims[fe.key],
			claimant{id.Service, p.created[name.NamespacedName], fe.kind == plan.ClusterIP})
	}
	v.addresses[addrOf(info.ClusterIP())] = true
}

// portRules is what the nftables proxier's rules for one Service port do
// (pkg/proxy/nftables/proxier.go, syncProxyRules).
func portRules(id plan.PortID, info proxy.ServicePort, eps []proxy.Endpoint, node string, state *nodeState) portView {
	cluster, local, _, hasAny := proxy.CategorizeEndpoints(eps, info, node, state.topology)
	clusterVerdict, localVerdict := verdictOf(cluster, hasAny), verdictOf(local, hasAny)
	base := frontendView{
		key:      plan.FrontendKey{Port: uint16(info.Port()), Protocol: id.Protocol},
		internal: clusterVerdict, external: clusterVerdict,
	}
	if info.SessionAffinityType() == v1.ServiceAffinityClientIP {
		base.affinity = time.Duration(info.StickyMaxAgeSeconds()) * time.Second
	}

	clusterIP := base
	clusterIP.key.Addr = addrOf(info.ClusterIP())
	if info.InternalPolicyLocal() {
		clusterIP.internal, clusterIP.external = localVerdict, localVerdict
	}
	frontends := []frontendView{clusterIP}

	// Pods and the node itself are short-circuited to the cluster policy.
	if info.ExternalPolicyLocal() {
		base.external = localVerdict
	}
	// Of an address that is given twice, the first kind counts, as in iptables
	// mode; in nftables mode the last one does, but for the source ranges.
	add := func(kind plan.Kind, addr netip.Addr, port int, ranges string) {
		f := base
		f.kind, f.key.Addr, f.key.Port, f.ranges = kind, addr, uint16(port), ranges
		if !slices.ContainsFunc(frontends, func(o frontendView) bool { return o.key == f.key }) {
			frontends = append(frontends, f)
		}
	}
	ranges := rangesOf(info, state.ips[id.Family])
	for _, ip := range info.LoadBalancerVIPs() {
		add(plan.LoadBalancer, addrOf(ip), info.Port(), ranges)
	}
	for _, ip := range info.ExternalIPs() {
		add(plan.ExternalIP, addrOf(ip), info.Port(), "")
	}
	if info.NodePort() != 0 {
		unspecified := netip.IPv4Unspecified()
		if id.Family == model.IPv6 {
			unspecified = netip.IPv6Unspecified()
		}
		add(plan.NodePort, unspecified, info.NodePort(), "")
	}
	return portView{
		frontends: sortFrontends(frontends),
		kept:      keptBy(id.Protocol, eps),
		hinted:    info.UsesClusterEndpoints() && len(cluster) < countReady(eps),
	}
}

func countReady(eps []proxy.Endpoint) (n int) {
	for _, e := range eps {
		if e.IsReady() {
			n++
		}
	}
	return n
}

func addrOf(ip net.IP) netip.Addr {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		panic("not an address: " + ip.String())
	}
	return addr.Unmap()
}

func verdictOf(eps []proxy.Endpoint, hasAny bool) string {
	switch {
	case len(eps) > 0:
		list := make([]string, 0, len(eps))
		for _, e := range eps {
			list = append(list, backendWord(e.String(), e.IsLocal(), !e.IsReady()))
		}
		return words(list)
	case hasAny:
		return drop
	}
	return reject
}

func backendWord(addr string, local, terminating bool) string {
	if local {
		addr += "+local"
	}
	if terminating {
		addr += "+terminating"
	}
	return addr
}

// rangesOf is the set in the rule of the Service's firewall chain.
func rangesOf(info proxy.ServicePort, nodeIP netip.Addr) string {
	var list []string
	allowFromNode := false
	for _, cidr := range info.LoadBalancerSourceRanges() {
		list = append(list, cidr.String())
		allowFromNode = allowFromNode || cidr.Contains(nodeIP.AsSlice())
	}
	if allowFromNode {
		for _, ip := range info.LoadBalancerVIPs() {
			addr := addrOf(ip)
			list = append(list, netip.PrefixFrom(addr, addr.BitLen()).String())
		}
	}
	return words(list)
}

// keptBy lists the endpoints to which established flows go on: kube-proxy
// deletes a UDP flow if its endpoint does not serve (conntrack/cleanup.go) and
// touches no other.
func keptBy(protocol model.Protocol, eps []proxy.Endpoint) []string {
	var list []string
	for _, e := range eps {
		if protocol != model.UDP || e.IsServing() {
			list = append(list, e.String())
		}
	}
	return list
}
