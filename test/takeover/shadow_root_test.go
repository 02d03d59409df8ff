// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/beeline-net/beeline/internal/shadow"
)

// config is a kube-proxy configuration file that both sides obey.
func (w *world) config() string {
	w.t.Helper()
	kubeconfig := filepath.Join(w.lab.Dir(), "kubeconfig")
	check(w.t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
contexts: [{name: c, context: {cluster: c, user: c}}]
users: [{name: c, user: {token: t}}]
current-context: c
`, serverAt), 0o600))
	path := filepath.Join(w.lab.Dir(), "config.conf")
	check(w.t, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
clusterCIDR: 10.244.0.0/16
mode: %s
hostnameOverride: %s
`, kubeconfig, w.mode, w.node.Name), 0o600))
	return path
}

func (w *world) shadow(config string) (r shadow.Report) {
	w.t.Helper()
	out, err := w.beeline("check", "--shadow", "--config", config, "-o", "json")
	// Exit status 4 comes with a line on the other output.
	if e := json.NewDecoder(strings.NewReader(out)).Decode(&r); e != nil {
		w.t.Fatalf("%v, %v: %s", err, e, out)
	}
	if (err != nil) != (len(r.Mismatches)+len(r.Unknown) > 0) {
		w.t.Errorf("exit %v with %d mismatches", err, len(r.Mismatches))
	}
	return r
}

// Beside a running kube-proxy the same objects lead to the same decisions; where
// they do not, that is found.
func TestShadow(t *testing.T) {
	for _, mode := range []string{"nftables", "iptables"} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, way{mode, false})
			w.variety()
			w.startProxy()
			w.served()
			config := w.config()
			var r shadow.Report
			eventually(t, 20*time.Second, func() error {
				r = w.shadow(config)
				if n := len(r.Mismatches) + len(r.Unknown); n != 0 && mode == "nftables" {
					return fmt.Errorf("%d mismatches: %+v", n, r)
				}
				for _, m := range r.Mismatches {
					// iptables mode lets unknown ports pass; Beeline refuses them.
					if m.Before != "pass" || m.After != "reject" {
						return fmt.Errorf("%+v", m)
					}
				}
				if len(r.Unknown) > 0 {
					return fmt.Errorf("not understood: %v", r.Unknown)
				}
				return nil
			})
			if r.Asked < 20 || mode == "iptables" && len(r.Mismatches) == 0 {
				t.Errorf("asked %d times, %d mismatches", r.Asked, len(r.Mismatches))
			}
			before := len(r.Mismatches)
			w.proxy.end()
			w.publish("new")
			if r = w.shadow(config); len(r.Mismatches) <= before {
				t.Errorf("endpoints changed since kube-proxy stopped, and nothing differs: %+v", r)
			}
		})
	}
}

// variety adds Services of the kinds that rules treat differently.
func (w *world) variety() {
	w.t.Helper()
	add := func(name, ip string, change func(*corev1.Service), pods ...string) {
		svc, slice := w.objects(pods...)
		svc.Name, svc.UID = name, ""
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip, []string{ip}
		svc.Spec.Type = corev1.ServiceTypeClusterIP
		for i := range svc.Spec.Ports {
			svc.Spec.Ports[i].NodePort = 0
		}
		slice.Name, slice.Labels = name+"-1", map[string]string{"kubernetes.io/service-name": name}
		change(svc)
		w.api.Put(svc, slice)
	}
	add("empty", "10.96.0.81", func(*corev1.Service) {})
	add("sticky", "10.96.0.82", func(s *corev1.Service) {
		timeout := corev1.DefaultClientIPServiceAffinitySeconds
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}, "here", "there")
	add("local", "10.96.0.83", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30083, 30084
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.83"}}
	}, "here", "there")
	add("elsewhere", "10.96.0.84", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30085, 30086
	}, "there")
	add("guarded", "10.96.0.85", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort = 30087, 30088
		s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24", "10.244.0.0/16"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.85"}}
	}, "here", "there")
	add("external", "10.96.0.86", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"198.51.100.86"} }, "there")
}
