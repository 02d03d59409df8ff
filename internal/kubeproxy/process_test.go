// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// proc makes a process file system with one process beside this one.
func proc(t *testing.T, name, netns string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range []struct{ at, comm, netns string }{{"thread-self", "", "net:[1]"}, {"42", name, netns}} {
		if err := os.MkdirAll(filepath.Join(dir, p.at, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.at, "comm"), []byte(p.comm+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(p.netns, filepath.Join(dir, p.at, "ns/net")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestProcess(t *testing.T) {
	for _, c := range []struct {
		name, netns string
		want        bool
	}{
		{"kube-proxy", "net:[1]", true},
		{"kube-proxy", "net:[2]", false},
		{"kubelet", "net:[1]", false},
	} {
		d := Detector{Proc: proc(t, c.name, c.netns)}
		how, running := d.Running(t.Context(), Presence{})
		if running != c.want || running && how != "process 42" {
			t.Errorf("%s in %s: %q, %t", c.name, c.netns, how, running)
		}
	}
}

// What answers where kube-proxy is told to listen is kube-proxy, unless it says
// that it is Beeline.
func TestAnswers(t *testing.T) {
	const health = `{"lastUpdated": "2026-11-30","currentTime": "2026-11-30", "nodeEligible": true}`
	for _, c := range []struct {
		name, path, text, server string
		status                   int
		want                     string
	}{
		{"metrics", "/proxyMode", "nftables\n", "", 200, "mode nftables"},
		{"Beeline's metrics", "/proxyMode", "ebpf", "", 200, ""},
		{"health", "/healthz", health, "", 200, "health checks"},
		{"bad health", "/healthz", health, "", 503, "health checks"},
		{"Beeline's health", "/healthz", health, "beeline", 200, ""},
		{"somebody else's health", "/healthz", "ok", "", 200, ""},
		{"somebody else's error", "/healthz", health, "", 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != c.path {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				if c.server != "" {
					w.Header().Set("Server", c.server)
				}
				w.WriteHeader(c.status)
				_, _ = fmt.Fprint(w, c.text)
			}))
			defer s.Close()
			at := []netip.AddrPort{netip.MustParseAddrPort(strings.TrimPrefix(s.URL, "http://"))}
			d := Detector{Proc: t.TempDir(), Metrics: at, Health: at}
			how, running := d.Running(t.Context(), Presence{})
			if running != (c.want != "") || !strings.Contains(how, c.want) {
				t.Errorf("%q, %t", how, running)
			}
		})
	}
}

// Rules that change have somebody who writes them.
func TestChanges(t *testing.T) {
	now := time.Now()
	d := Detector{Proc: t.TempDir(), Now: func() time.Time { return now }}
	for i, c := range []struct {
		rules string
		after time.Duration
		want  bool
	}{
		{"a", 0, false},
		{"a", time.Second, false},
		{"b", time.Second, true},
		{"b", time.Second, true},
		{"b", 4 * time.Second, false},
		{"", time.Second, false}, // who removes them does not serve
		{"", time.Second, false},
		{"c", time.Second, true},
	} {
		now = now.Add(c.after)
		if how, running := d.Running(t.Context(), Presence{fingerprint: c.rules}); running != c.want {
			t.Errorf("look %d, %q: %t, %q", i, c.rules, running, how)
		}
	}
}

func TestPlaces(t *testing.T) {
	usual := netip.MustParseAddrPort("127.0.0.1:10256")
	told := func(all ...string) (parsed []netip.AddrPort) {
		for _, a := range all {
			parsed = append(parsed, netip.MustParseAddrPort(a))
		}
		return parsed
	}
	got := places(usual, append(told("0.0.0.0:10256", "[::]:10256", "192.0.2.1:10356"), netip.AddrPort{}))
	if want := told("127.0.0.1:10256", "[::1]:10256", "192.0.2.1:10356"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
