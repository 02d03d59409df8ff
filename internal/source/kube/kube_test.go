// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
	"github.com/beeline-net/beeline/test/apiserver"
)

func TestMain(m *testing.M) {
	RouteLogs(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func service(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name,
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{}`)}}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
}

func endpointSlice(name, service string, addrs ...string) *discoveryv1.EndpointSlice {
	port, http, tcp := int32(8080), "http", corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &http, Port: &port, Protocol: &tcp}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func node(name, addr string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr}}}}
}

// world is an API server and a Source that reads it.
type world struct {
	api   *apiserver.Server
	store *snapshot.Store
	src   *Source
	stop  func()

	mu       sync.Mutex
	problems []string
}

func start(t *testing.T, api *apiserver.Server, edit func(*Config, *rest.Config)) *world {
	w := &world{api: api, store: snapshot.New(time.Now)}
	found, err := Access{Server: api.URL, QPS: -1}.Config()
	if err != nil {
		t.Fatal(err)
	}
	rc := found.Config
	cfg := Config{
		NodeName: "n1", Store: w.store, Log: slog.New(slog.DiscardHandler),
		Report: func(p object.Problem) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.problems = append(w.problems, p.String())
		},
	}
	if edit != nil {
		edit(&cfg, rc)
	}
	if cfg.Client, err = NewClient(rc); err != nil {
		t.Fatal(err)
	}
	w.src = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.src.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		api.CutWatches()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *world) synced(t *testing.T) {
	t.Helper()
	eventually(t, "synced", w.store.HasSynced)
}

func (w *world) has(name string) bool {
	svc, _ := w.store.Service(model.Name{Namespace: "ns", Name: name})
	return svc != nil
}

func (w *world) endpoints(name string) string {
	_, slices := w.store.Service(model.Name{Namespace: "ns", Name: name})
	var all []string
	for _, s := range slices {
		for _, e := range s.Endpoints {
			all = append(all, e.Addr.String())
		}
	}
	return strings.Join(all, " ")
}

// inEachDialect runs a test over protobuf and JSON, against an API server that
// streams the first list and against one that does not.
func inEachDialect(t *testing.T, test func(t *testing.T, api *apiserver.Server, edit func(*Config, *rest.Config))) {
	for _, dialect := range []string{"protobuf", "json"} {
		for _, stream := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, streaming %v", dialect, stream), func(t *testing.T) {
				t.Parallel()
				api := apiserver.New(t)
				api.NoStream = !stream
				test(t, api, func(_ *Config, rc *rest.Config) {
					if dialect == "json" {
						rc.ContentType, rc.AcceptContentTypes = "application/json", "application/json"
					}
				})
			})
		}
	}
}

func TestFollowsTheAPIServer(t *testing.T) {
	inEachDialect(t, func(t *testing.T, api *apiserver.Server, edit func(*Config, *rest.Config)) {
		api.Put(service("a", "10.0.0.1"), endpointSlice("a-1", "a", "10.1.0.1"), node("n1", "192.0.2.1"), node("n2", "192.0.2.2"))
		w := start(t, api, edit)
		w.synced(t)
		if !w.has("a") || w.endpoints("a") != "10.1.0.1" || w.store.Node().Addresses[0] != netip.MustParseAddr("192.0.2.1") {
			t.Fatalf("after the first list: %v %q %v", w.store.Names(), w.endpoints("a"), w.store.Node())
		}
		api.Put(service("b", "10.0.0.2"))
		eventually(t, "new Service", func() bool { return w.has("b") })
		api.Put(endpointSlice("a-1", "a", "10.1.0.1", "10.1.0.2"))
		eventually(t, "new endpoint", func() bool { return w.endpoints("a") == "10.1.0.1 10.1.0.2" })
		api.Put(endpointSlice("a-1", "b", "10.1.0.3"))
		eventually(t, "slice of another Service", func() bool { return w.endpoints("a") == "" && w.endpoints("b") == "10.1.0.3" })
		api.Drop(service("a", "10.0.0.1"), endpointSlice("a-1", "b"))
		eventually(t, "deletions", func() bool { return !w.has("a") && w.endpoints("b") == "" })
		api.Put(node("n1", "192.0.2.9"), node("n2", "192.0.2.8"))
		eventually(t, "new address", func() bool { return w.store.Node().Addresses[0] == netip.MustParseAddr("192.0.2.9") })
	})
}

func TestLabelsAppearAndDisappear(t *testing.T) {
	api := apiserver.New(t)
	svc, slice := service("a", "10.0.0.1"), endpointSlice("a-1", "a", "10.1.0.1")
	api.Put(svc, slice, node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	for range 2 {
		svc.Labels = map[string]string{object.LabelProxyName: "other"}
		slice.Labels[corev1.IsHeadlessService] = ""
		api.Put(svc, slice)
		eventually(t, "opted out", func() bool { return !w.has("a") && w.endpoints("a") == "" })
		svc.Labels = nil
		delete(slice.Labels, corev1.IsHeadlessService)
		api.Put(svc, slice)
		eventually(t, "opted in", func() bool { return w.has("a") && w.endpoints("a") == "10.1.0.1" })
	}
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "None", []string{"None"}
	api.Put(svc)
	eventually(t, "headless", func() bool { return !w.has("a") })
}

func TestAsksAsKubeProxyDoes(t *testing.T) {
	api := apiserver.New(t)
	api.Put(node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	for resource, want := range map[string]string{
		"/services?":       "fieldSelector=spec.clusterIP%21%3DNone&labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
		"/endpointslices?": "labelSelector=%21service.kubernetes.io%2Fheadless",
		"/nodes?":          "fieldSelector=metadata.name%3Dn1",
	} {
		requests := api.RequestLog(resource)
		if len(requests) == 0 {
			t.Errorf("no request for %s", resource)
		}
		for _, r := range requests {
			if !strings.Contains(r, want) || !strings.Contains(r, "accept=application/vnd.kubernetes.protobuf") {
				t.Errorf("%s lacks %s or protobuf", r, want)
			}
		}
	}
}

func TestMissedDeletionsVanishWithARelist(t *testing.T) {
	inEachDialect(t, func(t *testing.T, api *apiserver.Server, edit func(*Config, *rest.Config)) {
		for i := range 5 {
			n := fmt.Sprint("s", i)
			api.Put(service(n, fmt.Sprint("10.0.0.", i+1)), endpointSlice(n+"-1", n, fmt.Sprint("10.1.0.", i+1)))
		}
		api.Put(node("n1", "192.0.2.1"))
		w := start(t, api, edit)
		w.synced(t)
		w.store.Take()

		api.DropUnseen(service("s1", ""), endpointSlice("s1-1", "s1"), endpointSlice("s2-1", "s2"))
		api.Put(service("s3", "10.0.0.33"))
		api.Expire()
		api.CutWatches()
		eventually(t, "missed deletions gone", func() bool {
			return !w.has("s1") && w.endpoints("s1") == "" && w.endpoints("s2") == "" && w.endpoints("s4") == "10.1.0.5"
		})
		eventually(t, "change seen", func() bool {
			svc, _ := w.store.Service(model.Name{Namespace: "ns", Name: "s3"})
			return svc != nil && svc.ClusterIPs[0] == netip.MustParseAddr("10.0.0.33")
		})
		dirty := w.store.Take().Services
		if slices.ContainsFunc(dirty, func(n model.Name) bool { return n.Name == "s0" || n.Name == "s4" }) {
			t.Errorf("unchanged Services are dirty: %v", dirty)
		}
	})
}

func TestACutWatchGoesOnWithoutARelist(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	api.Put(service("b", "10.0.0.2"))
	eventually(t, "b", func() bool { return w.has("b") })
	api.CutWatches()
	api.Put(service("c", "10.0.0.3"))
	api.Drop(service("a", ""))
	eventually(t, "c, and a gone", func() bool { return w.has("c") && !w.has("a") })
	lists := slices.DeleteFunc(api.RequestLog("/services?"), func(r string) bool {
		return strings.Contains(r, "watch=true") && !strings.Contains(r, "sendInitialEvents")
	})
	if len(lists) != 1 {
		t.Errorf("listed again: %v", lists)
	}
}

func TestNothingIsSyncedBeforeItsListArrived(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	api.SetRefuse(apierrors.NewInternalError(fmt.Errorf("etcd is down")))
	w := start(t, api, nil)
	eventually(t, "errors", func() bool {
		return !slices.ContainsFunc(w.src.Status(), func(s Status) bool { return s.Err == nil })
	})
	for _, s := range w.src.Status() {
		if !s.Heard.IsZero() || !strings.Contains(s.Err.Error(), "etcd is down") {
			t.Errorf("%v: heard %v, %v", s.Part, s.Heard, s.Err)
		}
	}
	if got := w.store.Unsynced(); len(got) != 3 {
		t.Errorf("unsynced: %v", got)
	}
	api.SetRefuse(nil)
	w.synced(t)
	if !w.has("a") {
		t.Error("synced without a")
	}
	eventually(t, "errors gone", func() bool {
		return !slices.ContainsFunc(w.src.Status(), func(s Status) bool { return s.Err != nil || s.Heard.IsZero() })
	})
}

func TestKeepsWhatItHasWhileTheAPIServerIsAway(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), endpointSlice("a-1", "a", "10.1.0.1"), node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	api.SetRefuse(apierrors.NewServiceUnavailable("starting"))
	api.CutWatches()
	eventually(t, "errors", func() bool { return w.src.Status()[0].Err != nil })
	if !w.has("a") || w.endpoints("a") != "10.1.0.1" {
		t.Error("lost what it had")
	}
	api.SetRefuse(nil)
	api.Put(service("b", "10.0.0.2"))
	eventually(t, "back", func() bool { return w.has("b") && w.src.Status()[0].Err == nil })
}

func TestObjectProblemsAreReportedOnceAndCleared(t *testing.T) {
	api := apiserver.New(t)
	bad := service("a", "10.0.0.1")
	bad.Spec.ExternalIPs = []string{"nonsense"}
	api.Put(bad, node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	if !w.has("a") {
		t.Error("the usable rest is not used")
	}
	bad.Annotations = map[string]string{"x": "y"}
	api.Put(bad, service("b", "10.0.0.2"))
	eventually(t, "b", func() bool { return w.has("b") })
	w.mu.Lock()
	reported := slices.Clone(w.problems)
	w.mu.Unlock()
	if want := `Service ns/a: spec.externalIPs[0]: "nonsense" is not an IP address`; len(reported) != 1 || reported[0] != want {
		t.Errorf("reported: %v", reported)
	}
	api.Put(service("a", "10.0.0.1"))
	eventually(t, "cleared", func() bool { return len(w.src.Problems()) == 0 })

	bad.Name = "c"
	api.Put(bad)
	eventually(t, "c", func() bool { return len(w.src.Problems()) == 1 })
	api.DropUnseen(bad)
	api.Expire()
	api.CutWatches()
	eventually(t, "cleared by a relist", func() bool { return len(w.src.Problems()) == 0 })
}

func TestMissingNode(t *testing.T) {
	api := apiserver.New(t)
	w := start(t, api, func(c *Config, _ *rest.Config) { c.NodeGrace = 150 * time.Millisecond })
	eventually(t, "a problem", func() bool {
		all := w.src.Problems()
		return len(all) == 1 && strings.Contains(all[0].String(), "Node n1: does not exist")
	})
	if w.store.HasSynced() {
		t.Error("synced at once")
	}
	w.synced(t)
	if n := w.store.Node(); n.Name != "n1" || n.Addresses != nil || !n.Draining {
		t.Errorf("node %v", n)
	}
	api.Put(node("n1", "192.0.2.1"))
	eventually(t, "the node", func() bool { return len(w.store.Node().Addresses) == 1 && len(w.src.Problems()) == 0 })
	api.Drop(node("n1", ""))
	eventually(t, "a problem", func() bool { return len(w.src.Problems()) == 1 })
	eventually(t, "no traffic from load balancers", func() bool { return w.store.Node().Draining })
	if len(w.store.Node().Addresses) != 1 {
		t.Error("a deleted Node took the machine's addresses with it")
	}
	api.Put(node("n1", "192.0.2.1"))
	eventually(t, "the node again", func() bool { return !w.store.Node().Draining && len(w.src.Problems()) == 0 })
	api.DropUnseen(node("n1", ""))
	api.Expire()
	api.CutWatches()
	eventually(t, "gone by a relist", func() bool { return w.store.Node().Draining && len(w.store.Node().Addresses) == 1 })
}

func TestNodeThatComesInTimeSyncsAtOnce(t *testing.T) {
	api := apiserver.New(t)
	w := start(t, api, func(c *Config, _ *rest.Config) { c.NodeGrace = time.Hour })
	eventually(t, "a problem", func() bool { return len(w.src.Problems()) == 1 })
	api.Put(node("n1", "192.0.2.1"))
	w.synced(t)
}

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

func (w *world) cidrs() string {
	var all []string
	for _, c := range w.store.ServiceCIDRs() {
		all = append(all, c.String())
	}
	return strings.Join(all, " ")
}

func TestFollowsServiceCIDRs(t *testing.T) {
	inEachDialect(t, func(t *testing.T, api *apiserver.Server, edit func(*Config, *rest.Config)) {
		api.Put(node("n1", "192.0.2.1"), serviceCIDR("kubernetes", "10.96.0.0/16", "fd00::/112"))
		w := start(t, api, edit)
		w.synced(t)
		eventually(t, "the first", func() bool { return w.cidrs() == "10.96.0.0/16 fd00::/112" })
		api.Put(serviceCIDR("more", "10.97.0.0/16"))
		eventually(t, "a second", func() bool { return w.cidrs() == "10.96.0.0/16 10.97.0.0/16 fd00::/112" })
		api.Drop(serviceCIDR("kubernetes"))
		eventually(t, "the second alone", func() bool { return w.cidrs() == "10.97.0.0/16" })
		api.DropUnseen(serviceCIDR("more"))
		api.Expire()
		api.CutWatches()
		eventually(t, "none", func() bool { return w.cidrs() == "" })
	})
}

// Kubernetes before 1.33 has no ServiceCIDRs, and older ClusterRoles do not let
// a proxy read them: everything else works, and both may change.
func TestServiceCIDRsNeedNotExist(t *testing.T) {
	resource := networkingv1.Resource("servicecidrs")
	for name, err := range map[string]*apierrors.StatusError{
		"unknown":   apierrors.NewNotFound(resource, ""),
		"forbidden": apierrors.NewForbidden(resource, "", fmt.Errorf("no")),
		"down":      apierrors.NewServiceUnavailable("starting"),
	} {
		t.Run(name, func(t *testing.T) {
			api := apiserver.New(t)
			api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"), serviceCIDR("kubernetes", "10.96.0.0/16"))
			api.SetLacks("servicecidrs", err)
			w := start(t, api, func(c *Config, _ *rest.Config) { c.OptionalRetry = 20 * time.Millisecond })
			w.synced(t)
			eventually(t, "asked again", func() bool { return len(api.RequestLog("/servicecidrs")) > 2 })
			if !w.has("a") || w.cidrs() != "" {
				t.Errorf("Services %v, ServiceCIDRs %q", w.store.Names(), w.cidrs())
			}
			api.SetLacks("servicecidrs", nil)
			eventually(t, "ServiceCIDRs", func() bool { return w.cidrs() == "10.96.0.0/16" })
		})
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	api := apiserver.New(t)
	api.Put(node("n1", "192.0.2.1"))
	w := start(t, api, nil)
	w.synced(t)
	done := make(chan struct{})
	go func() { w.stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not end")
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	api := apiserver.New(t)
	client := func(url string) *Client {
		c, err := NewClient(&rest.Config{Host: url})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if version, err := client(api.URL).Check(ctx); err != nil || version != "v1.37.2" {
		t.Errorf("healthy: %q, %v", version, err)
	}
	resource := corev1.Resource("services")
	for _, tt := range []struct {
		err  *apierrors.StatusError
		want string
	}{
		{apierrors.NewUnauthorized("no"), "does not accept our credentials"},
		{apierrors.NewForbidden(resource, "", fmt.Errorf("no")), "does not let us list services (kube-proxy's ClusterRole system:node-proxier does)"},
		{apierrors.NewServiceUnavailable("etcd is down"), "unable to handle the request"},
	} {
		api.SetRefuse(tt.err)
		if _, err := client(api.URL).Check(ctx); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), api.URL) {
			t.Errorf("%v: says %v", tt.err, err)
		}
	}
	if _, err := client("http://127.0.0.1:1").Check(ctx); err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1 cannot be reached") {
		t.Errorf("closed port: %v", err)
	}
	notFound := httptestServer(t, http.NotFoundHandler())
	if _, err := client(notFound).Check(ctx); err == nil {
		t.Error("a server that knows nothing passes")
	}
}

// eventually waits until ok, for something that another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// What is wrong is said once, however long it lasts, and when it is over.
func TestASilentAPIServerIsExplained(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	api.SetRefuse(apierrors.NewUnauthorized("who are you"))
	log := &lines{}
	w := start(t, api, func(c *Config, _ *rest.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.src.Explain(ctx) })
	defer func() { cancel(); running.Wait() }()
	eventually(t, "explained", func() bool { return log.count("does not accept our credentials") == 1 })
	time.Sleep(contactEvery + time.Second)
	if n := log.count("level=ERROR"); n != 1 {
		t.Errorf("said %d times", n)
	}
	api.SetRefuse(nil)
	eventually(t, "over", func() bool { return log.count("is heard of again") == 1 })
}
