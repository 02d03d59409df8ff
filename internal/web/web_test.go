// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/inspect"
)

func serving(name, address string, sockets uint64, refused uint64) inspect.Serving {
	return inspect.Serving{
		Port: inspect.Port{
			Namespace: "default", Name: name, Port: "http", Protocol: "TCP", Family: "IPv4",
			Frontends: []inspect.Frontend{{Kind: "ClusterIP", Address: address}},
			Backends:  []inspect.Backend{{Address: "10.244.1.5:8080", State: "active", Local: true, Sets: []string{"cluster"}}},
			Cluster:   inspect.Set{Backends: []uint32{1}},
		},
		State:   "ok",
		Traffic: inspect.Traffic{Sockets: sockets, ActiveSockets: 3, Refusals: map[string]uint64{"source_range": refused}},
		Working: []inspect.Working{{Pod: name + "-7d4b", Active: 3}},
	}
}

func newPage(t *testing.T, all ...inspect.Serving) *httptest.Server {
	t.Helper()
	page := Page{Node: "node-1", Log: slog.New(slog.DiscardHandler), Read: func() (inspect.Overview, error) {
		return inspect.Overview{Time: time.Now(), Services: all}, nil
	}}
	handler, err := page.Handler()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func TestThePageIsWhole(t *testing.T) {
	s := newPage(t)
	for path, want := range map[string]string{"/": "<title>Beeline", "/page.js": "EventSource", "/style.css": "--honey"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: status %d, no %q", path, resp.StatusCode, want)
		}
		for _, elsewhere := range []string{"http://", "https://", "innerHTML", "<script>"} {
			if strings.Contains(strings.ReplaceAll(string(body), "http://www.w3.org/2000/svg", ""), elsewhere) {
				t.Errorf("%s: has %s", path, elsewhere)
			}
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}

// A page of another site may get here by a name of its own, but not ask.
func TestOtherSitesMayNotAsk(t *testing.T) {
	s := newPage(t)
	for host, want := range map[string]int{"evil.example:10259": 403, "localhost:10259": 200, "127.0.0.1": 200, "[::1]:10259": 200} {
		req, err := http.NewRequest(http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", host, resp.StatusCode, want)
		}
	}
}

func TestThePageIsToldWhatMatches(t *testing.T) {
	var all []inspect.Serving
	for i := range most + 5 {
		all = append(all, serving(fmt.Sprintf("web-%03d", i), fmt.Sprintf("10.96.1.%d:80", i), 0, 0))
	}
	s := newPage(t, all...)
	for query, want := range map[string][2]int{"": {most + 5, most}, "web-00": {10, 10}, "10.96.1.7:": {1, 1}, "10.244.1.5": {most + 5, most}, "nobody": {0, 0}} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/live?q="+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 0, 1<<20)
		buf := make([]byte, 1<<16)
		for !strings.HasSuffix(string(text), "\n\n") {
			n, err := resp.Body.Read(buf)
			text = append(text, buf[:n]...)
			if err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		_ = resp.Body.Close()
		var got view
		if err := json.Unmarshal([]byte(strings.TrimPrefix(strings.TrimSpace(string(text)), "data: ")), &got); err != nil {
			t.Fatal(err)
		}
		if got.Total != want[0] || len(got.Services) != want[1] || got.Node != "node-1" {
			t.Errorf("%q: %d of %d Services of %s, want %v", query, len(got.Services), got.Total, got.Node, want)
		}
	}
}
