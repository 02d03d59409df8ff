// SPDX-License-Identifier: Apache-2.0

// Package apiserver is an API server for tests: enough of the Kubernetes API for a
// proxy, with nothing behind it but the objects it was given.
package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	restwatch "k8s.io/client-go/rest/watch"
)

// Server speaks as much of the Kubernetes API as a proxy's client hears:
// lists, watches with bookmarks and initial events, selectors, protobuf and
// JSON. It can fail in the ways of a real one.
type Server struct {
	*httptest.Server
	// NoStream is set before the first request to a server that does not know
	// sendInitialEvents.
	NoStream bool

	codecs serializer.CodecFactory

	mu       sync.Mutex
	version  int
	objects  map[string]map[string]runtime.Object // resource -> namespace/name
	history  []event
	oldest   int // watches from before this version get 410 Gone
	wake     chan struct{}
	cut      chan struct{} // closed: watches end
	refuse   *apierrors.StatusError
	lacks    map[string]*apierrors.StatusError // what requests for a resource get instead
	events   []*corev1.Event                   // that were created
	requests []string
}

type event struct {
	version  int
	resource string
	old, new runtime.Object // new is nil if deleted
}

// New starts a server that ends with the test.
func New(t *testing.T) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Start starts a server on a port of this network namespace's loopback device.
// It is an http.Handler, too, for who wants it elsewhere.
func Start() (*Server, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	s := &Server{
		codecs: serializer.NewCodecFactory(scheme), version: 1,
		objects: map[string]map[string]runtime.Object{"services": {}, "endpointslices": {}, "nodes": {}, "servicecidrs": {}, "pods": {}, "namespaces": {}},
		lacks:   map[string]*apierrors.StatusError{},
		wake:    make(chan struct{}), cut: make(chan struct{}),
	}
	s.Server = httptest.NewServer(s)
	return s, nil
}

// Stop ends it.
func (s *Server) Stop() {
	s.CutWatches()
	s.Close()
}

func key(o runtime.Object) string {
	m := o.(metav1.Object)
	return m.GetNamespace() + "/" + m.GetName()
}

func resourceOf(o runtime.Object) string {
	switch o.(type) {
	case *corev1.Service:
		return "services"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *networkingv1.ServiceCIDR:
		return "servicecidrs"
	case *corev1.Pod:
		return "pods"
	case *corev1.Namespace:
		return "namespaces"
	}
	return "nodes"
}

// Put adds or changes objects.
func (s *Server) Put(objects ...runtime.Object) { s.change(true, false, objects) }

// Drop deletes objects.
func (s *Server) Drop(objects ...runtime.Object) { s.change(true, true, objects) }

// DropUnseen deletes objects in a way that no watch will ever tell: what it
// was is compacted away.
func (s *Server) DropUnseen(objects ...runtime.Object) { s.change(false, true, objects) }

func (s *Server) change(tell, remove bool, objects []runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		s.version++
		resource := resourceOf(o)
		e := event{version: s.version, resource: resource, old: s.objects[resource][key(o)]}
		delete(s.objects[resource], key(o))
		if !remove {
			e.new = o.DeepCopyObject()
			e.new.(metav1.Object).SetResourceVersion(strconv.Itoa(s.version))
			s.objects[resource][key(o)] = e.new
		}
		if tell {
			s.history = append(s.history, e)
		}
	}
	s.notify()
}

func (s *Server) notify() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// CutWatches ends every watch under way.
func (s *Server) CutWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

// Expire forgets history: a watch that goes on from before gets 410 Gone.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.oldest, s.history = s.version, nil
}

// Forget drops history without saying so: what nobody watches costs nothing.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = nil
}

// SetRefuse lets every request fail, or work again with nil.
func (s *Server) SetRefuse(err *apierrors.StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// SetLacks lets requests for one resource fail, or work again with nil.
func (s *Server) SetLacks(resource string, err *apierrors.StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lacks[resource] = err; err == nil {
		delete(s.lacks, resource)
	}
}

// RequestLog lists the requests that contain part.
func (s *Server) RequestLog(part string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r string) bool { return !strings.Contains(r, part) })
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.String()+" accept="+r.Header.Get("Accept"))
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	refuse, noStream := s.refuse, s.NoStream
	if lacks := s.lacks[resource]; lacks != nil {
		refuse = lacks
	}
	s.mu.Unlock()
	info := s.negotiate(r)
	gv := corev1.SchemeGroupVersion
	switch resource {
	case "endpointslices":
		gv = discoveryv1.SchemeGroupVersion
	case "servicecidrs":
		gv = networkingv1.SchemeGroupVersion
	case "events":
		if strings.Contains(r.URL.Path, eventsv1.GroupName) {
			gv = eventsv1.SchemeGroupVersion
		}
	}
	encoder := s.codecs.EncoderForVersion(info.Serializer, gv)
	fail := func(err *apierrors.StatusError) {
		status := err.Status()
		w.Header().Set("Content-Type", info.MediaType)
		w.WriteHeader(int(status.Code))
		_ = s.codecs.EncoderForVersion(info.Serializer, schema.GroupVersion{Version: "v1"}).Encode(&status, w)
	}
	switch q := r.URL.Query(); {
	case refuse != nil:
		fail(refuse)
	case r.URL.Path == "/version":
		fmt.Fprint(w, `{"major":"1","minor":"37","gitVersion":"v1.37.2"}`)
	case resource == "events" && r.Method == http.MethodPost:
		s.create(w, r, info.MediaType, encoder)
	case s.objects[resource] == nil:
		fail(apierrors.NewNotFound(schema.GroupResource{Resource: resource}, ""))
	case q.Get("watch") == "":
		s.list(w, r, resource, info.MediaType, encoder)
	case q.Get("sendInitialEvents") != "" && noStream:
		fail(apierrors.NewBadRequest("sendInitialEvents is forbidden"))
	default:
		s.watch(w, r, resource, info, encoder)
	}
}

// create takes an Event of either API, in any encoding.
func (s *Server) create(w http.ResponseWriter, r *http.Request, mediaType string, encoder runtime.Encoder) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	o, err := runtime.Decode(s.codecs.UniversalDeserializer(), body)
	switch e := o.(type) {
	case *corev1.Event:
		s.mu.Lock()
		s.events = append(s.events, e)
		s.mu.Unlock()
	case *eventsv1.Event:
	default:
		panic(fmt.Sprintf("created %T: %v", o, err))
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(http.StatusCreated)
	_ = encoder.Encode(o, w)
}

// Created lists the core Events that have been written so far.
func (s *Server) Created() []*corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// negotiate takes the first media type that the client accepts.
func (s *Server) negotiate(r *http.Request) runtime.SerializerInfo {
	for accept := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		mediaType, _, _ := strings.Cut(accept, ";")
		if info, ok := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), mediaType); ok {
			return info
		}
	}
	info, _ := runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	return info
}

// matcher evaluates a request's selectors.
func matcher(r *http.Request) func(runtime.Object) bool {
	label, err1 := labels.Parse(r.URL.Query().Get("labelSelector"))
	field, err2 := fields.ParseSelector(r.URL.Query().Get("fieldSelector"))
	if err1 != nil || err2 != nil {
		panic(fmt.Sprint(err1, err2))
	}
	return func(o runtime.Object) bool {
		if o == nil {
			return false
		}
		m := o.(metav1.Object)
		set := fields.Set{"metadata.name": m.GetName()}
		if svc, ok := o.(*corev1.Service); ok {
			set["spec.clusterIP"] = svc.Spec.ClusterIP
		}
		if pod, ok := o.(*corev1.Pod); ok {
			set["spec.nodeName"] = pod.Spec.NodeName
		}
		return label.Matches(labels.Set(m.GetLabels())) && field.Matches(set)
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, resource, mediaType string, encoder runtime.Encoder) {
	s.mu.Lock()
	objects, meta := s.matching(resource, matcher(r)), metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}
	s.mu.Unlock()
	objects, meta.Continue = page(objects, r)
	var list runtime.Object
	switch resource {
	case "services":
		l := &corev1.ServiceList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Service))
		}
		list = l
	case "endpointslices":
		l := &discoveryv1.EndpointSliceList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*discoveryv1.EndpointSlice))
		}
		list = l
	case "servicecidrs":
		l := &networkingv1.ServiceCIDRList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*networkingv1.ServiceCIDR))
		}
		list = l
	case "pods":
		l := &corev1.PodList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Pod))
		}
		list = l
	case "namespaces":
		l := &corev1.NamespaceList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Namespace))
		}
		list = l
	default:
		l := &corev1.NodeList{ListMeta: meta}
		for _, o := range objects {
			l.Items = append(l.Items, *o.(*corev1.Node))
		}
		list = l
	}
	w.Header().Set("Content-Type", mediaType)
	_ = encoder.Encode(list, w) // fails only if the client is gone
}

// page returns the part of a list that a request asks for, and where the next
// one goes on.
func page(objects []runtime.Object, r *http.Request) (part []runtime.Object, next string) {
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	after := r.URL.Query().Get("continue")
	if limit == 0 && after == "" {
		return objects, ""
	}
	slices.SortFunc(objects, func(a, b runtime.Object) int { return strings.Compare(key(a), key(b)) })
	objects = slices.DeleteFunc(objects, func(o runtime.Object) bool { return key(o) <= after })
	if limit == 0 || len(objects) <= limit {
		return objects, ""
	}
	return objects[:limit], key(objects[limit-1])
}

func (s *Server) matching(resource string, match func(runtime.Object) bool) []runtime.Object {
	var out []runtime.Object
	for _, o := range s.objects[resource] {
		if match(o) {
			out = append(out, o)
		}
	}
	return out
}

func (s *Server) watch(w http.ResponseWriter, r *http.Request, resource string, info runtime.SerializerInfo, encoder runtime.Encoder) {
	w.Header().Set("Content-Type", info.MediaType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	send := restwatch.NewEncoder(streaming.NewEncoder(info.StreamSerializer.Framer.NewFrameWriter(w), info.StreamSerializer.Serializer), encoder)
	emit := func(t watch.EventType, o runtime.Object) {
		_ = send.Encode(&watch.Event{Type: t, Object: o}) // of a client that is gone the next select tells
	}
	w.(http.Flusher).Flush()
	match := matcher(r)
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	s.mu.Lock()
	cut := s.cut
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		initial := s.matching(resource, match)
		from = s.version
		s.mu.Unlock()
		for _, o := range initial {
			emit(watch.Added, o)
		}
		emit(watch.Bookmark, bookmark(resource, from, true))
		s.mu.Lock()
	} else if from < s.oldest {
		s.mu.Unlock()
		status := apierrors.NewResourceExpired("too old resource version").Status()
		emit(watch.Error, &status)
		return
	}
	for {
		pending, wake := s.since(from), s.wake
		s.mu.Unlock()
		for _, e := range pending {
			if e.resource == resource {
				emitChange(e, match, emit)
			}
			from = e.version
		}
		w.(http.Flusher).Flush() // as a real one: when there is no more to send for now
		select {
		case <-wake:
		case <-cut:
			return
		case <-r.Context().Done():
			return
		}
		s.mu.Lock()
	}
}

// since returns the events after a version. The lock is held; what is returned
// is never written to.
func (s *Server) since(version int) []event {
	i, _ := slices.BinarySearchFunc(s.history, version+1, func(e event, v int) int { return e.version - v })
	return s.history[i:len(s.history):len(s.history)]
}

// emitChange tells a change as somebody with a selector sees it: what stops
// matching is deleted, what begins to match is added.
func emitChange(e event, match func(runtime.Object) bool, emit func(watch.EventType, runtime.Object)) {
	switch was, is := match(e.old), match(e.new); {
	case was && is:
		emit(watch.Modified, e.new)
	case is:
		emit(watch.Added, e.new)
	case was:
		gone := e.old.DeepCopyObject()
		gone.(metav1.Object).SetResourceVersion(strconv.Itoa(e.version))
		emit(watch.Deleted, gone)
	}
}

func bookmark(resource string, version int, initial bool) runtime.Object {
	meta := metav1.ObjectMeta{ResourceVersion: strconv.Itoa(version)}
	if initial {
		meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	switch resource {
	case "services":
		return &corev1.Service{ObjectMeta: meta}
	case "endpointslices":
		return &discoveryv1.EndpointSlice{ObjectMeta: meta}
	case "servicecidrs":
		return &networkingv1.ServiceCIDR{ObjectMeta: meta}
	case "pods":
		return &corev1.Pod{ObjectMeta: meta}
	case "namespaces":
		return &corev1.Namespace{ObjectMeta: meta}
	}
	return &corev1.Node{ObjectMeta: meta}
}
