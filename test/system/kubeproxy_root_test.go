// SPDX-License-Identifier: Apache-2.0

package system

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// cluster is an API server that lists what it was given, and has no news. It
// knows one token.
type cluster struct {
	*httptest.Server
	lists map[string]string // path -> items as JSON

	mu       sync.Mutex
	requests []string
	strange  []string // requests without the token
}

const token = "a-service-account"

// newCluster listens on the node's loopback address.
func newCluster(t *testing.T, n *node, lists map[string]string) *cluster {
	t.Helper()
	c := &cluster{lists: lists}
	c.Server = httptest.NewUnstartedServer(c)
	check(t, c.Listener.Close())
	check(t, n.NS.Do(func() (err error) {
		c.Listener, err = net.Listen("tcp", "127.0.0.1:6443")
		return err
	}))
	c.StartTLS()
	t.Cleanup(func() { c.CloseClientConnections(); c.Close() })
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r.Method+" "+r.URL.Path)
	if r.Header.Get("Authorization") != "Bearer "+token {
		c.strange = append(c.strange, r.URL.Path)
	}
	c.mu.Unlock()
	items, known := c.lists[r.URL.Path]
	q := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"Event"}`)
	case !known:
		refuse(w, http.StatusNotFound, "NotFound")
	case q.Get("sendInitialEvents") != "":
		refuse(w, http.StatusBadRequest, "BadRequest")
	case q.Get("watch") != "":
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	default:
		group := map[bool]string{true: "v1", false: "discovery.k8s.io/v1"}[strings.HasPrefix(r.URL.Path, "/api/v1/")]
		kind := map[string]string{"services": "ServiceList", "nodes": "NodeList", "endpointslices": "EndpointSliceList"}[filepath.Base(r.URL.Path)]
		fmt.Fprintf(w, `{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"1"},"items":[%s]}`, group, kind, items)
	}
}

func refuse(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":%q,"code":%d}`, reason, code)
}

func (c *cluster) saw(request string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.requests, request)
}

// kubeadmConfig is the key config.conf of kubeadm's ConfigMap kube-proxy, as it
// stands in a cluster, but for the path of the kubeconfig.
const kubeadmConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: %s
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
`

// kubeadmKubeconfig is the key kubeconfig.conf of the same ConfigMap, but for
// paths.
const kubeadmKubeconfig = `apiVersion: v1
kind: Config
clusters:
- cluster:
    certificate-authority: %[1]s/ca.crt
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user:
    tokenFile: %[1]s/token
`

// A kubeadm cluster's kube-proxy is started as
// kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=$(NODE_NAME);
// the same arguments and files start Beeline.
func TestKubeadmsConfigMapWorksUnchanged(t *testing.T) {
	s := newStage(t, 1)
	n, pod := s.nodes[0], s.server(s.nodes[0], "a")
	api := newCluster(t, n, map[string]string{
		"/api/v1/services": `{"metadata":{"name":"web","namespace":"default","uid":"u1"},"spec":{"clusterIP":"10.96.0.80","clusterIPs":["10.96.0.80"],
			"ipFamilies":["IPv4"],"externalIPs":["127.0.0.1"],"ports":[{"name":"tcp","port":80,"protocol":"TCP"}]}}`,
		"/apis/discovery.k8s.io/v1/endpointslices": fmt.Sprintf(`{"metadata":{"name":"web-1","namespace":"default","labels":{"kubernetes.io/service-name":"web"}},
			"addressType":"IPv4","ports":[{"name":"tcp","port":8080,"protocol":"TCP"}],"endpoints":[{"addresses":[%q],"nodeName":%q}]}`, pod.V4, n.Name),
		"/api/v1/nodes": fmt.Sprintf(`{"metadata":{"name":%q},"status":{"addresses":[{"type":"InternalIP","address":"172.18.0.2"}]}}`, n.Name),
	})
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	write("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	write("token", token)
	kubeconfig := write("kubeconfig.conf", fmt.Sprintf(kubeadmKubeconfig, dir))
	n.exec("--config="+write("config.conf", fmt.Sprintf(kubeadmConfig, kubeconfig)), "--hostname-override="+n.Name)
	n.awaitLog("in step")

	if name, err := s.ask("tcp", "10.96.0.80:80"); err != nil || name != "a" {
		t.Errorf("through the Service: %q, %v", name, err)
	}
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	n.awaitStatus(status+"/proxyMode", http.StatusOK, time.Second)
	eventually(t, 10*time.Second, func() error {
		if !api.saw("POST /api/v1/namespaces/default/events") {
			return fmt.Errorf("no Event about the external IP that is refused")
		}
		return nil
	})
	for _, complaint := range []string{"level=ERROR", "level=WARN"} {
		for line := range strings.Lines(n.log.String()) {
			if strings.Contains(line, complaint) && !strings.Contains(line, "AddressRefused") && !strings.Contains(line, "waits for") {
				t.Errorf("the agent complains about what kubeadm wrote: %s", line)
			}
		}
	}
	if len(api.strange) > 0 {
		t.Errorf("requests without the token: %v", api.strange)
	}
}

// loadBalancer is the manifest of a Service with policy Local and a health
// check port, with endpoints "ready node" or "terminating node".
func loadBalancer(port int, endpoints ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.80
  externalTrafficPolicy: Local
  healthCheckNodePort: %d
  ports: [{name: tcp, port: 80, nodePort: 30080}, {name: alt, port: 81, nodePort: 30081}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: tcp, port: 8080}, {name: alt, port: 8081}]
`, port)
	fmt.Fprintln(&b, "endpoints:", map[bool]string{true: "[]"}[len(endpoints) == 0])
	for i, e := range endpoints {
		state, node, _ := strings.Cut(e, " ")
		fmt.Fprintf(&b, "- {addresses: [10.244.9.%d], nodeName: %s, conditions: {ready: %v, serving: true, terminating: %v}}\n",
			i+1, node, state == "ready", state == "terminating")
	}
	return b.String()
}

// What a cloud's load balancer sees of a node, whoever it asks.
func TestHealthCheckNodePort(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", loadBalancer(32123))
	n.start()
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	expect := func(when string, port, code, local int) {
		t.Helper()
		body := n.awaitStatus(fmt.Sprintf("http://127.0.0.1:%d/any/path", port), code, 5*time.Second)
		want := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": true\n}", local)
		if body != want {
			t.Errorf("%s: %s", when, body)
		}
		resp, _, err := n.fetch(fmt.Sprintf("http://127.0.0.1:%d/", port))
		check(t, err)
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Content-Type-Options": "nosniff",
			"X-Load-Balancing-Endpoint-Weight": fmt.Sprint(local),
		} {
			if resp.Header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", when, name, resp.Header.Get(name), want)
			}
		}
	}
	expect("no endpoints", 32123, http.StatusServiceUnavailable, 0)
	n.write("web.yaml", loadBalancer(32123, "ready "+n.Name, "ready "+n.Name, "ready elsewhere"))
	expect("two here", 32123, http.StatusOK, 2)
	n.write("web.yaml", loadBalancer(32123, "terminating "+n.Name, "ready elsewhere"))
	expect("the last one here terminates", 32123, http.StatusServiceUnavailable, 0)
	n.write("web.yaml", loadBalancer(32124, "ready "+n.Name))
	expect("another port", 32124, http.StatusOK, 1)
	if code, _, err := n.get("http://127.0.0.1:32123/"); err == nil {
		t.Errorf("the old port still answers %d", code)
	}
	n.write("web.yaml", strings.Replace(loadBalancer(32124, "ready "+n.Name), "Policy: Local", "Policy: Cluster", 1))
	eventually(t, 5*time.Second, func() error {
		if code, _, err := n.get("http://127.0.0.1:32124/"); err == nil {
			return fmt.Errorf("policy Cluster has no health check, but the port answers %d", code)
		}
		return nil
	})
}

// The cluster autoscaler marks a node that it will remove: load balancers are
// to leave it, while what runs there still has its Services (KEP-3836).
func TestANodeAboutToBeRemovedIsNotEligible(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", v4VIP, s.server(n, "a")))
	nodeWith := func(taints string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {taints: [%s]}\n", n.Name, taints)
	}
	n.write("node.yaml", nodeWith(""))
	n.start()
	n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
	n.write("node.yaml", nodeWith("{key: ToBeDeletedByClusterAutoscaler, value: \"1700000000\", effect: NoSchedule}"))
	body := n.awaitStatus(healthz, http.StatusServiceUnavailable, 5*time.Second)
	if !strings.Contains(body, `"nodeEligible":false`) || !strings.Contains(body, `"healthy":true`) {
		t.Errorf("healthz: %s", body)
	}
	n.awaitStatus(livez, http.StatusOK, time.Second)
	if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
		t.Errorf("through the Service: %q, %v", name, err)
	}
	n.write("node.yaml", nodeWith(""))
	n.awaitStatus(healthz, http.StatusOK, 5*time.Second)
}
