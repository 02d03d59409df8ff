// SPDX-License-Identifier: Apache-2.0

package system

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// dial connects from inside the node. An HTTP client dials in a goroutine of its
// own, so it is the dialling that must enter the namespace.
func (n *node) dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = n.NS.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// fetch asks one of the agent's own servers from inside the node.
func (n *node) fetch(url string) (*http.Response, string, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}
	resp, err := client.Get(url)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

// get returns status code and body.
func (n *node) get(url string) (status int, body string, err error) {
	resp, body, err := n.fetch(url)
	if err != nil {
		return 0, "", err
	}
	return resp.StatusCode, body, nil
}

// awaitStatus waits for a status code and returns the body.
func (n *node) awaitStatus(url string, want int, within time.Duration) (body string) {
	n.t.Helper()
	eventually(n.t, within, func() error {
		status, text, err := n.get(url)
		if err != nil || status != want {
			return fmt.Errorf("%s: %d, want %d, %w: %s", url, status, want, err, text)
		}
		body = text
		return nil
	})
	return body
}

const (
	healthz = "http://127.0.0.1:10256/healthz"
	livez   = "http://127.0.0.1:10256/livez"
	status  = "http://127.0.0.1:10249"
)

func TestTheControlSurfaceOfKubeProxy(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", bothVIPs, s.server(n, "a")))
	n.start()
	for url, want := range map[string][]string{
		healthz:               {`"lastUpdated"`, `"nodeEligible":true`, `"IPv4"`},
		livez:                 {`"healthy":true`},
		status + "/proxyMode": {"ebpf"},
		status + "/healthz":   {"ok"},
		status + "/configz":   {"cgroupRoot"},
		status + "/metrics": {
			`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`,
			"kubeproxy_sync_proxy_rules_last_timestamp_seconds", "beeline_",
		},
	} {
		body := n.awaitStatus(url, http.StatusOK, 10*time.Second)
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s: no %s in:\n%.2000s", url, w, body)
			}
		}
	}
}

// Readiness is about the effect: whatever is broken by hand shows within 10 s
// (pains B10, B20).
func TestReadinessTellsTheTruth(t *testing.T) {
	for name, sabotage := range map[string]func(*testing.T, *node){
		"a hook is detached": func(t *testing.T, n *node) {
			l, err := link.LoadPinnedLink(filepath.Join(n.BPFFS, "beeline/v1/links/beeline_connect6"), nil)
			check(t, err)
			check(t, l.Detach())
			check(t, l.Close())
		},
		"the pins are removed": func(t *testing.T, n *node) {
			check(t, os.RemoveAll(filepath.Join(n.BPFFS, "beeline/v1/links")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 1)
			n := s.nodes[0]
			n.start()
			n.awaitStatus(healthz, http.StatusOK, 10*time.Second)
			sabotage(t, n)
			body := n.awaitStatus(healthz, http.StatusServiceUnavailable, 10*time.Second)
			if !strings.Contains(body, "failingChecks") || !strings.Contains(body, "connect") {
				t.Errorf("the answer does not say what is wrong: %s", body)
			}
			if code, _, err := n.get(livez); err != nil || code != http.StatusOK {
				t.Errorf("livez: %d, %v: a restart is no cure while traffic works", code, err)
			}
			t.Log(body)
		})
	}
}

func TestConfigurationChangesWithoutARestart(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	text := service("web", v4VIP, s.server(n, "a"))
	n.write("web.yaml", strings.Replace(text, "spec:\n", "spec:\n  externalIPs: [\"198.51.100.7\"]\n", 1))
	config := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(externalIPs bool) {
		check(t, os.WriteFile(config, fmt.Appendf(nil, "apiVersion: beeline.dev/v1alpha1\nkind: AgentConfiguration\nclaims: {externalIPs: %v}\n", externalIPs), 0o644))
	}
	write(true)
	n.start("--config", config)
	hasExternal := func() bool {
		for _, p := range n.ports() {
			for _, f := range p.Frontends {
				if f.Kind == "ExternalIP" {
					return true
				}
			}
		}
		return false
	}
	if !hasExternal() {
		t.Fatal("the external IP is not served")
	}
	if name, err := s.ask("tcp", "198.51.100.7:80"); err != nil || name != "a" {
		t.Errorf("through the external IP: %q, %v", name, err)
	}
	write(false)
	eventually(t, 5*time.Second, func() error {
		if hasExternal() {
			return fmt.Errorf("the external IP is still served")
		}
		return nil
	})
	if body := n.awaitStatus(status+"/configz", http.StatusOK, time.Second); !strings.Contains(body, `"externalIPs":false`) {
		t.Errorf("configz shows what was, not what is: %s", body)
	}
	check(t, os.WriteFile(config, []byte("apiVersion: beeline.dev/v1alpha1\nkind: AgentConfiguration\nclaims: {externalIPs: perhaps}\n"), 0o644))
	n.awaitLog("the configuration stays what it was")
	if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
		t.Errorf("after a bad configuration: %q, %v", name, err)
	}
}

// What somebody changes in the tables by hand is found and repaired (pains A12).
func TestHandMadeDamageIsRepaired(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	n.write("web.yaml", service("web", v4VIP, s.server(n, "a")))
	n.start("--sync-period", "1s")
	frontends, err := ebpf.LoadPinnedMap(filepath.Join(n.BPFFS, "beeline/v1/maps/frontends"), nil)
	check(t, err)
	defer func() { _ = frontends.Close() }()
	key := abi.NewFrontendKey(netip.MustParseAddr(v4VIP[0]), 80, unix.IPPROTO_TCP)
	check(t, frontends.Delete(key))
	if _, err := s.ask("tcp", access[0].addr); err == nil {
		t.Fatal("the Service answers although its frontend is gone")
	}
	n.awaitLog("repairing")
	eventually(t, 5*time.Second, func() error {
		if name, err := s.ask("tcp", access[0].addr); err != nil || name != "a" {
			return fmt.Errorf("after the repair: %q, %w", name, err)
		}
		return nil
	})
	if body := n.awaitStatus(status+"/metrics", http.StatusOK, 5*time.Second); !strings.Contains(body, "beeline_map_drift_total 1") {
		t.Error("the metric does not tell of it")
	}
}
