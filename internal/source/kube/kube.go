// SPDX-License-Identifier: Apache-2.0

// Package kube reads Services, EndpointSlices, this node and, where there are
// any, ServiceCIDRs from the Kubernetes API into a snapshot.
//
// It runs client-go's reflectors, the part of an informer that lists, watches
// and lists again, straight into the snapshot. An informer would keep a second
// copy of every object beside it. Objects become the model's values as they
// arrive, also during the first list, so the API's large types never pile up.
package kube

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// What is asked of the API server: kube-proxy's selectors, no more and no less
// (cmd/kube-proxy/app/server.go, Run). An object that stops matching arrives as
// deleted.
const (
	ServiceLabels = "!" + object.LabelProxyName
	ServiceFields = "spec.clusterIP!=" + corev1.ClusterIPNone
	SliceLabels   = "!" + corev1.IsHeadlessService
)

const (
	// defaultNodeGrace is how long kube-proxy waits for its Node as well.
	defaultNodeGrace = 30 * time.Second
	// defaultOptionalRetry is how often an API server that has no ServiceCIDRs,
	// or does not let us read them, is asked again: it may be upgraded.
	defaultOptionalRetry = 10 * time.Minute
	// unreachableRetry is how often one that does not answer is asked.
	unreachableRetry = 5 * time.Second
)

// Config is what a Source needs.
type Config struct {
	Client *Client
	// NodeName is the name of this node's Node object.
	NodeName string
	Store    *snapshot.Store
	Log      *slog.Logger
	// Report is called once for each new problem in an object; may be nil.
	Report func(object.Problem)
	// NodeGrace is how long a Node that does not exist is waited for before
	// the agent goes on without its addresses, zone and taints. 0 means 30 s.
	NodeGrace time.Duration
	// OptionalRetry is how often what the API server need not have is asked
	// for again. 0 means 10 min.
	OptionalRetry time.Duration
}

// Source keeps a snapshot in step with the API server.
type Source struct {
	cfg      Config
	book     *object.Book
	services *sink[*corev1.Service, model.Service]
	slices   *sink[*discoveryv1.EndpointSlice, model.EndpointSlice]
	nodes    *sink[*corev1.Node, model.Node]
	node     *nodeWriter
	cidrs    *sink[*networkingv1.ServiceCIDR, model.ServiceCIDR]
}

var _ snapshot.Source = (*Source)(nil)

// New prepares a Source; nothing is asked of the API server before Run.
func New(cfg Config) *Source {
	if cfg.NodeGrace == 0 {
		cfg.NodeGrace = defaultNodeGrace
	}
	if cfg.OptionalRetry == 0 {
		cfg.OptionalRetry = defaultOptionalRetry
	}
	s := &Source{cfg: cfg, book: object.NewBook(cfg.Log, cfg.Report)}
	s.services = &sink[*corev1.Service, model.Service]{
		kind: "Service", book: s.book, convert: object.Service,
		set: cfg.Store.SetService, remove: cfg.Store.DeleteService,
		replace: func(all []model.Service) {
			cfg.Store.ReplaceServices(all)
			cfg.Store.Synced(snapshot.Services)
		},
	}
	s.slices = &sink[*discoveryv1.EndpointSlice, model.EndpointSlice]{
		kind: "EndpointSlice", book: s.book, convert: object.Slice,
		set: cfg.Store.SetSlice, remove: cfg.Store.DeleteSlice,
		replace: func(all []model.EndpointSlice) {
			cfg.Store.ReplaceSlices(all)
			cfg.Store.Synced(snapshot.Slices)
		},
	}
	s.node = &nodeWriter{cfg: cfg, book: s.book}
	s.nodes = &sink[*corev1.Node, model.Node]{
		kind: "Node", book: s.book, convert: object.Node,
		set: s.node.set, remove: s.node.remove, replace: s.node.replace,
	}
	s.cidrs = &sink[*networkingv1.ServiceCIDR, model.ServiceCIDR]{
		kind: "ServiceCIDR", book: s.book, convert: object.ServiceCIDR,
		set: cfg.Store.SetServiceCIDR, remove: cfg.Store.DeleteServiceCIDR, replace: cfg.Store.ReplaceServiceCIDRs,
	}
	return s
}

// unreachable says how an API server is tried again that does not answer: for
// ever, and at the latest after 4 s, so that a node is in step within 5 s of its
// return. client-go's own pause grows to a minute.
func unreachable() *wait.Backoff {
	return &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Cap: 2 * time.Second, Steps: math.MaxInt32}
}

// Run lists and watches until ctx ends. An API server that cannot be reached
// is tried again for ever; meanwhile the snapshot keeps what it has.
func (s *Source) Run(ctx context.Context) error {
	defer s.node.stop()
	c := s.cfg.Client
	var running sync.WaitGroup
	running.Go(func() { follow(ctx, c.core, "services", ServiceLabels, ServiceFields, &corev1.Service{}, s.services) })
	running.Go(func() {
		follow(ctx, c.discovery, "endpointslices", SliceLabels, "", &discoveryv1.EndpointSlice{}, s.slices)
	})
	thisNode := fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.NodeName).String()
	running.Go(func() { follow(ctx, c.core, "nodes", "", thisNode, &corev1.Node{}, s.nodes) })
	running.Go(func() {
		if s.await(ctx, c.networking, resourceCIDRs) {
			follow(ctx, c.networking, resourceCIDRs, "", "", &networkingv1.ServiceCIDR{}, s.cidrs)
		}
	})
	running.Wait()
	return nil
}

// resourceCIDRs is there since Kubernetes 1.33, and kube-proxy's ClusterRole
// lets it be read since then. Services work without it.
const resourceCIDRs = "servicecidrs"

// follow keeps a store in step with a resource until ctx ends.
func follow(ctx context.Context, g cache.Getter, resource, labels, fieldSelector string, example any, store contactStore) {
	lw := observe(store.contact(), cache.NewFilteredListWatchFromClient(g, resource, metav1.NamespaceAll,
		func(o *metav1.ListOptions) { o.LabelSelector, o.FieldSelector = labels, fieldSelector }))
	cache.NewReflectorWithOptions(lw, example, store, cache.ReflectorOptions{Name: resource, Backoff: unreachable()}).RunWithContext(ctx)
}

// await waits until the API server has a resource and lets us read it. It
// returns false if ctx ends before.
func (s *Source) await(ctx context.Context, g rest.Interface, resource string) bool {
	said := false
	for {
		err := g.Get().Resource(resource).Param("limit", "1").Do(ctx).Error()
		pause := min(s.cfg.OptionalRetry, unreachableRetry)
		switch {
		case err == nil:
			return true
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			pause = s.cfg.OptionalRetry
			if !said {
				said = true
				s.cfg.Log.Info("going on without what this API server need not have", "resource", resource, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// Problems lists what is wrong with objects at present.
func (s *Source) Problems() []object.Problem { return s.book.All() }

// Status tells how fresh each part is, in the order of snapshot.Part.
func (s *Source) Status() []Status {
	return []Status{
		s.services.link.status(snapshot.Services),
		s.slices.link.status(snapshot.Slices),
		s.nodes.link.status(snapshot.Node),
	}
}
