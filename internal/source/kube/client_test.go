// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

func httptestServer(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`

func TestAccess(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good", kubeconfig)

	cfg, err := Access{Kubeconfig: good, UserAgent: "beeline/1"}.Config()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "https://192.0.2.1:6443" || cfg.BearerToken != "t" || cfg.UserAgent != "beeline/1" ||
		cfg.QPS != 5 || cfg.Burst != 10 || cfg.ContentType != "application/vnd.kubernetes.protobuf" ||
		cfg.AcceptContentTypes != "application/vnd.kubernetes.protobuf,application/json" {
		t.Errorf("%+v", cfg)
	}
	cfg, err = Access{Kubeconfig: good, Server: "https://[fd00::1]:443", QPS: 50, Burst: 100,
		ContentType: "application/json", AcceptContentTypes: "application/json"}.Config()
	if err != nil || cfg.Host != "https://[fd00::1]:443" || cfg.QPS != 50 || cfg.Burst != 100 || cfg.ContentType != "application/json" {
		t.Errorf("%v %+v", err, cfg)
	}
	none := filepath.Join(dir, "nothing here")
	if found, err := (Access{Search: []string{none, good}}).Config(); err != nil || found.From != good || found.BearerToken != "t" || found.ServiceAddress {
		t.Errorf("kube-proxy's kubeconfig, outside a pod: %v, %+v", err, found)
	}
	tunnelled := file("tunnelled", strings.Replace(kubeconfig, `"https://192.0.2.1:6443"`, `"https://127.0.0.1:7443", tls-server-name: api.example.com`, 1))
	path, cluster := Access{Search: []string{none, tunnelled}}.search()
	inPod := Found{Config: &rest.Config{Host: "https://10.96.0.1:443", BearerToken: "pod"}, ServiceAddress: true}
	if inPod.reachAs(path, cluster); inPod.Host != "https://127.0.0.1:7443" || inPod.ServerName != "api.example.com" ||
		inPod.BearerToken != "pod" || inPod.From != tunnelled || inPod.ServiceAddress {
		t.Errorf("the kubelet's kubeconfig, in a pod: %+v", inPod)
	}
	for _, tt := range []struct {
		access Access
		want   []string
	}{
		{Access{}, []string{"no kubeconfig given", "KUBERNETES_SERVICE_HOST"}},
		{Access{Kubeconfig: filepath.Join(dir, "none")}, []string{"kubeconfig", "none", "no such file"}},
		{Access{Kubeconfig: file("garbage", "\x00")}, []string{"kubeconfig", "garbage"}},
		{Access{Kubeconfig: file("empty", "")}, []string{"kubeconfig", "empty"}},
	} {
		_, err := tt.access.Config()
		for _, part := range tt.want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%+v: %v lacks %q", tt.access, err, part)
			}
		}
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := (Access{}).Config(); err == nil || !strings.Contains(err.Error(), "service account") {
		t.Errorf("pod without a token: %v", err)
	}
}
