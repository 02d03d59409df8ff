// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/kube"
	"github.com/beeline-net/beeline/internal/source/object"
)

// beelines is Beeline on several nodes, from API objects to plans.
type beelines struct {
	nodes map[string]*beeline
}

// beeline is one agent's way from the API to the kernel's door.
type beeline struct {
	// watches is true if it is told what matches its selectors, as by the API
	// server, and false if it is told everything, as from a folder of YAML.
	watches bool
	store   *snapshot.Store
	planner *plan.Planner
	// plans is built from what the Planner says has changed, as the reconciler
	// does: what it forgets to say is missing here.
	plans map[model.Name]plan.Service
}

// asKubeProxy is the configuration that asks for no more and no less than
// kube-proxy's nftables mode does.
func asKubeProxy() plan.Config {
	return plan.Config{AllowExternalIPs: true, RefuseUnknownPorts: true}
}

func newBeelines(nodes []string, config plan.Config) *beelines {
	b := &beelines{nodes: map[string]*beeline{}}
	for i, node := range nodes {
		b.nodes[node] = &beeline{
			watches: i == 0,
			store:   snapshot.New(time.Now),
			planner: plan.New(config),
			plans:   map[model.Name]plan.Service{},
		}
	}
	return b
}

// The selectors of our watches.
var (
	askedServices = selector(labels.Parse(kube.ServiceLabels))
	askedFields   = selector(fields.ParseSelector(kube.ServiceFields))
	askedSlices   = selector(labels.Parse(kube.SliceLabels))
)

func selector[T any](s T, err error) T {
	if err != nil {
		panic(err)
	}
	return s
}

// handle takes an event of an unfiltered watch.
func (b *beelines) handle(e event) {
	switch e.key.kind {
	case nodeKind:
		if n := b.nodes[e.key.name]; n != nil {
			node, _ := object.Node(e.now.(*v1.Node))
			n.store.SetNode(*node)
		}
	case serviceKind:
		b.handleService(e)
	case sliceKind:
		b.handleSlice(e)
	}
}

func (b *beelines) handleService(e event) {
	var service *model.Service
	matches := false
	if now, ok := e.now.(*v1.Service); ok {
		matches = askedServices.Matches(labels.Set(now.Labels)) &&
			askedFields.Matches(fields.Set{"spec.clusterIP": now.Spec.ClusterIP})
		service, _ = object.Service(now)
	}
	for _, n := range b.nodes {
		if service != nil && (matches || !n.watches) {
			n.store.SetService(*service)
		} else {
			n.store.DeleteService(model.Name{Namespace: e.key.namespace, Name: e.key.name})
		}
	}
}

func (b *beelines) handleSlice(e event) {
	var slice *model.EndpointSlice
	matches := false
	if now, ok := e.now.(*discovery.EndpointSlice); ok {
		matches = askedSlices.Matches(labels.Set(now.Labels))
		slice, _ = object.Slice(now)
	}
	for _, n := range b.nodes {
		if slice != nil && (matches || !n.watches) {
			n.store.SetSlice(*slice)
		} else {
			n.store.DeleteSlice(model.Name{Namespace: e.key.namespace, Name: e.key.name})
		}
	}
}

func (b *beelines) sync() {
	for _, n := range b.nodes {
		n.sync()
	}
}

func (n *beeline) sync() {
	delta := n.store.Take()
	if delta.Node {
		n.learn(n.planner.SetNode(n.store.Node()))
	}
	for _, name := range delta.Services {
		service, slices := n.store.Service(name)
		n.learn(n.planner.Update(name, service, slices))
	}
}

func (n *beeline) learn(changed []plan.Service) {
	for _, p := range changed {
		if p.Empty() {
			delete(n.plans, p.Name)
		} else {
			n.plans[p.Name] = p
		}
	}
}

// complaint returns what the Planner refuses and must not: the generator makes
// nothing that is refused, but frontends that several Services ask for, and
// external IPs, which may be switched off.
func (n *beeline) complaint() string {
	off := plan.AddressNotAllowed
	if n.planner.Config().AllowExternalIPs {
		off = plan.FrontendConflict
	}
	for _, p := range n.planner.Problems() {
		if p.Reason != plan.FrontendConflict && p.Reason != off {
			return fmt.Sprintf("Beeline complains: %v: %v: %v\n", p.Service, p.Reason, p.Message)
		}
	}
	return ""
}

// view is what clients meet on a node.
func (b *beelines) view(node string) view {
	v := newView()
	for _, p := range b.nodes[node].plans {
		for _, port := range p.Ports {
			v.ports[port.ID] = []portView{viewOf(port)}
		}
		for _, addr := range p.Addresses {
			v.addresses[addr] = true
		}
		for _, h := range p.Health {
			v.health[healthID{p.Name, h.Family}] = []healthView{{h.Port, h.LocalReady}}
		}
	}
	return v
}

func viewOf(p plan.Port) portView {
	cluster, local := setVerdict(p, p.Cluster), setVerdict(p, p.Local)
	verdict := func(isLocal bool) string {
		if isLocal {
			return local
		}
		return cluster
	}
	view := portView{}
	for _, b := range p.Backends {
		view.kept = append(view.kept, b.Addr.String())
	}
	for _, f := range p.Frontends {
		var ranges []string
		for _, r := range f.SourceRanges {
			ranges = append(ranges, r.String())
		}
		view.frontends = append(view.frontends, frontendView{
			key: f.FrontendKey, kind: f.Kind,
			internal: verdict(f.InternalLocal), external: verdict(f.ExternalLocal),
			affinity: f.AffinityTimeout, ranges: words(ranges),
		})
	}
	return view
}

func setVerdict(p plan.Port, s plan.Set) string {
	if len(s.Members) == 0 {
		return [...]string{plan.Reject: reject, plan.Drop: drop}[s.Empty]
	}
	var list []string
	for _, i := range s.Members {
		b := p.Backends[i]
		list = append(list, backendWord(b.Addr.String(), b.Local, b.State == plan.Terminating))
	}
	return words(list)
}

// samePlans compares two agents to the letter.
func samePlans(a, b *beeline) bool {
	if len(a.plans) != len(b.plans) {
		return false
	}
	for name, p := range a.plans {
		if q, ok := b.plans[name]; !ok || !p.Equal(q) {
			return false
		}
	}
	return slices.EqualFunc(slices.Collect(a.planner.Services()), slices.Collect(b.planner.Services()), plan.Service.Equal)
}
