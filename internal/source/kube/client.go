// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
)

// Defaults of clientConnection, as kube-proxy has them.
const (
	defaultContentType = runtime.ContentTypeProtobuf
	defaultAccept      = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	defaultQPS         = 5
	defaultBurst       = 10
)

// Access says how to reach the API server; its fields are those of kube-proxy's
// clientConnection, and where else its address may be found. The zero value is
// right in a pod.
type Access struct {
	// Kubeconfig is a file; empty means the pod's service account.
	Kubeconfig string
	// Server replaces the address from the kubeconfig or the pod's
	// environment, which may be a ClusterIP that only this agent would serve.
	Server string
	// Search are kubeconfigs of others on this node, the kubelet say. Without
	// Kubeconfig and Server the first that exists tells the address, because
	// the one in the pod's environment is a ClusterIP. Outside a pod it is used
	// as Kubeconfig would be.
	Search []string
	// ContentType and AcceptContentTypes are media types; empty means
	// protobuf, with JSON accepted too.
	ContentType, AcceptContentTypes string
	// QPS and Burst limit requests; 0 means 5 and 10, less means no limit.
	QPS   float32
	Burst int
	// UserAgent names this program in the API server's logs.
	UserAgent string
}

// Found is what Access comes to.
type Found struct {
	*rest.Config
	// From says where the address comes from, for people.
	From string
	// ServiceAddress: it is the one that pods use, a ClusterIP. Nothing answers
	// there before some proxy runs.
	ServiceAddress bool
}

// Config builds client-go's configuration.
func (a Access) Config() (Found, error) {
	cfg, err := a.base()
	if err != nil {
		return Found{}, err
	}
	cfg.ContentType, cfg.AcceptContentTypes = a.ContentType, a.AcceptContentTypes
	if cfg.ContentType == "" {
		cfg.ContentType = defaultContentType
	}
	if cfg.AcceptContentTypes == "" {
		cfg.AcceptContentTypes = defaultAccept
	}
	cfg.QPS, cfg.Burst = a.QPS, a.Burst
	if cfg.QPS == 0 {
		cfg.QPS = defaultQPS
	}
	if cfg.Burst == 0 {
		cfg.Burst = defaultBurst
	}
	cfg.UserAgent = a.UserAgent
	return cfg, nil
}

func (a Access) base() (Found, error) {
	if a.Kubeconfig != "" {
		return a.fromFile(a.Kubeconfig)
	}
	nearby, cluster := a.search()
	cfg, err := rest.InClusterConfig()
	found := Found{Config: cfg, From: "the pod's environment", ServiceAddress: true}
	switch {
	case err != nil && !errors.Is(err, rest.ErrNotInCluster):
		return Found{}, fmt.Errorf("service account of this pod: %w", err)
	case err != nil && a.Server != "":
		return Found{Config: &rest.Config{Host: a.Server}, From: "configuration"}, nil
	case err != nil && nearby != "":
		return a.fromFile(nearby)
	case err != nil:
		return Found{}, errors.New("no kubeconfig given, and this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	case a.Server != "":
		cfg.Host, found.From, found.ServiceAddress = a.Server, "configuration", false
	case nearby != "":
		found.reachAs(nearby, cluster)
	}
	return found, nil
}

// reachAs takes from somebody's kubeconfig where the API server is, and under which
// name it shows its certificate: the address may be that of a tunnel or a load
// balancer, which the certificate does not have.
func (f *Found) reachAs(path string, cluster *clientcmdapi.Cluster) {
	f.Host, f.From, f.ServiceAddress = cluster.Server, path, false
	f.ServerName = cluster.TLSServerName
}

func (a Access) fromFile(path string) (Found, error) {
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: path},
		&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: a.Server}},
	).ClientConfig()
	if err != nil {
		return Found{}, fmt.Errorf("kubeconfig %s: %w", path, err)
	}
	from := path
	if a.Server != "" {
		from = "configuration"
	}
	return Found{Config: cfg, From: from}, nil
}

// search returns the first kubeconfig of others that tells an address, and what it
// says of the cluster.
func (a Access) search() (string, *clientcmdapi.Cluster) {
	for _, path := range a.Search {
		file, err := clientcmd.LoadFromFile(path)
		if err != nil {
			continue // not there, or not for us
		}
		if c := file.Contexts[file.CurrentContext]; c != nil {
			if cluster := file.Clusters[c.Cluster]; cluster != nil && cluster.Server != "" {
				return path, cluster
			}
		}
	}
	return "", nil
}

// Client talks to one API server. It knows the resources that a proxy reads and
// nothing else: client-go's own clientset would link every API there is.
type Client struct {
	host                        string
	core, discovery, networking rest.Interface
}

// NewClient makes a Client; it does not connect yet.
func NewClient(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), discoveryv1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("API types: %w", err)
	}
	shared := rest.CopyConfig(cfg)
	shared.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if shared.RateLimiter == nil && shared.QPS > 0 {
		shared.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(shared.QPS, shared.Burst)
	}
	http, err := rest.HTTPClientFor(shared)
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", cfg.Host, err)
	}
	group := func(gv schema.GroupVersion, path string) (rest.Interface, error) {
		c := rest.CopyConfig(shared)
		c.GroupVersion, c.APIPath = &gv, path
		client, err := rest.RESTClientForConfigAndClient(c, http)
		if err != nil {
			return nil, fmt.Errorf("API server %s: %w", cfg.Host, err)
		}
		return client, nil
	}
	core, err := group(corev1.SchemeGroupVersion, "/api")
	if err != nil {
		return nil, err
	}
	discovery, err := group(discoveryv1.SchemeGroupVersion, "/apis")
	if err != nil {
		return nil, err
	}
	networking, err := group(networkingv1.SchemeGroupVersion, "/apis")
	if err != nil {
		return nil, err
	}
	return &Client{host: cfg.Host, core: core, discovery: discovery, networking: networking}, nil
}

// Check asks whether the API server answers and lets us read what a proxy has
// to read, and returns its version, empty if it keeps that to itself.
func (c *Client) Check(ctx context.Context) (version string, err error) {
	data, err := c.core.Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil && !apierrors.IsForbidden(err) {
		return "", c.explain("", err)
	}
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	_ = json.Unmarshal(data, &info) // a proxy in between may answer anything; the lists below tell
	for _, r := range []struct {
		client   rest.Interface
		resource string
	}{{c.core, "services"}, {c.discovery, "endpointslices"}, {c.core, "nodes"}} {
		if err := r.client.Get().Resource(r.resource).Param("limit", "1").Do(ctx).Error(); err != nil {
			return info.GitVersion, c.explain(r.resource, err)
		}
	}
	return info.GitVersion, nil
}

// explain says what an error means for who runs the agent.
func (c *Client) explain(resource string, err error) error {
	var status apierrors.APIStatus
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("API server %s does not accept our credentials: %w", c.host, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("API server %s does not let us list %s (kube-proxy's ClusterRole system:node-proxier does): %w", c.host, resource, err)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("API server %s has no %s: %w", c.host, resource, err)
	case errors.As(err, &status):
		return fmt.Errorf("API server %s: %w", c.host, err)
	}
	return fmt.Errorf("API server %s cannot be reached: %w", c.host, err)
}

// RouteLogs sends what client-go logs into log. client-go's logger belongs to
// the whole process: call this once, from main.
func RouteLogs(log *slog.Logger) { klog.SetSlogLogger(slog.New(hushed{log.Handler()})) }
