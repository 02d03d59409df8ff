// SPDX-License-Identifier: Apache-2.0

// Package kube reads Services, EndpointSlices and this node from the
// Kubernetes API into a snapshot.
//
// It runs client-go's reflectors, the part of an informer that lists, watches
// and lists again, straight into the snapshot. An informer would keep a second
// copy of every object beside it. Objects become the model's values as they
// arrive, also during the first list, so the API's large types never pile up.
package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
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

// defaultNodeGrace is how long kube-proxy waits for its Node as well.
const defaultNodeGrace = 30 * time.Second

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
}

// Source keeps a snapshot in step with the API server.
type Source struct {
	cfg      Config
	book     *object.Book
	services *sink[*corev1.Service, model.Service]
	slices   *sink[*discoveryv1.EndpointSlice, model.EndpointSlice]
	nodes    *sink[*corev1.Node, model.Node]
	node     *nodeWriter
}

var _ snapshot.Source = (*Source)(nil)

// New prepares a Source; nothing is asked of the API server before Run.
func New(cfg Config) *Source {
	if cfg.NodeGrace == 0 {
		cfg.NodeGrace = defaultNodeGrace
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
	return s
}

// Run lists and watches until ctx ends. An API server that cannot be reached
// is tried again for ever, with a growing pause of up to a minute; meanwhile
// the snapshot keeps what it has.
func (s *Source) Run(ctx context.Context) error {
	defer s.node.stop()
	c := s.cfg.Client
	var running sync.WaitGroup
	run := func(g cache.Getter, resource, labels, fieldSelector string, example any, store contactStore) {
		lw := observe(store.contact(), cache.NewFilteredListWatchFromClient(g, resource, metav1.NamespaceAll,
			func(o *metav1.ListOptions) { o.LabelSelector, o.FieldSelector = labels, fieldSelector }))
		r := cache.NewReflectorWithOptions(lw, example, store, cache.ReflectorOptions{Name: resource})
		running.Go(func() { r.RunWithContext(ctx) })
	}
	run(c.core, "services", ServiceLabels, ServiceFields, &corev1.Service{}, s.services)
	run(c.discovery, "endpointslices", SliceLabels, "", &discoveryv1.EndpointSlice{}, s.slices)
	run(c.core, "nodes", "", fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.NodeName).String(), &corev1.Node{}, s.nodes)
	running.Wait()
	return nil
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
