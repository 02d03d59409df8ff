// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestServerWaitsForItsAddress(t *testing.T) {
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(squatter.Addr().String())
	failed := make(chan error, 10)
	s := Server{
		Name: "health", Addr: at, Log: discard(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }),
		Failed:  func(err error) { failed <- err },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()

	if err := <-failed; !errors.Is(err, syscall.EADDRINUSE) || !strings.HasPrefix(err.Error(), "health server on "+at.String()) {
		t.Errorf("failure %v: want one that names server, address and reason", err)
	}
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for !strings.HasSuffix(answer(at), "\nhere") {
		if time.Now().After(deadline) {
			t.Fatalf("does not serve: %s", answer(at))
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("at its end: %v", err)
	}
	if got := answer(at); got != "refused" {
		t.Errorf("after its end: %s", got)
	}
	select {
	case err := <-failed:
		t.Errorf("reported twice: %v", err)
	default:
	}
}

func TestServerThatMustListenGivesUp(t *testing.T) {
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = squatter.Close() }()
	s := Server{
		Name: "metrics", Addr: netip.MustParseAddrPort(squatter.Addr().String()), Log: discard(),
		Handler: http.NotFoundHandler(), HardFail: true,
	}
	if err := s.Run(context.Background()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}

func TestServerWithoutAddressWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := (Server{}).Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestStatus(t *testing.T) {
	verbosity := -1
	s := Status{
		Metrics:      http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "metrics\n") }),
		Config:       func() (string, any) { return "beeline.dev", map[string]any{"kind": "AgentConfiguration"} },
		SetVerbosity: func(v int) { verbosity = v },
	}
	profiled := s
	profiled.Profiling = true
	const plainText, jsonText = "text/plain; charset=utf-8", "application/json"
	for _, test := range []struct {
		name, method, path, body string
		handler                  http.Handler
		code                     int
		want, kind               string
	}{
		{"ping", "GET", "/healthz", "", s.Handler(), 200, "ok", plainText},
		{"verbose ping", "GET", "/healthz?verbose", "", s.Handler(), 200, "[+]ping ok\nhealthz check passed\n", plainText},
		{"the one check", "GET", "/healthz/ping", "", s.Handler(), 200, "ok", plainText},
		{"mode", "GET", "/proxyMode", "", s.Handler(), 200, "ebpf", plainText},
		{"metrics", "GET", "/metrics", "", s.Handler(), 200, "metrics\n", plainText},
		{"configuration", "GET", "/configz", "", s.Handler(), 200, `{"beeline.dev":{"kind":"AgentConfiguration"}}`, jsonText},
		{"no profiles unless wanted", "GET", "/debug/pprof/", "", s.Handler(), 404, "404 page not found\n", plainText},
		{"no flags unless wanted", "PUT", "/debug/flags/v", "4", s.Handler(), 404, "404 page not found\n", plainText},
		{"verbosity", "PUT", "/debug/flags/v", "4\n", profiled.Handler(), 200, "verbosity set to 4\n", plainText},
		{"verbosity as a word", "PUT", "/debug/flags/v", "high", profiled.Handler(), 400, "verbosity \"high\": must be an integer of 0 or more\n", plainText},
		{"verbosity cannot be read", "GET", "/debug/flags/v", "", profiled.Handler(), 406, "unsupported http method\n", plainText},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			test.handler.ServeHTTP(w, httptest.NewRequest(test.method, test.path, strings.NewReader(test.body)))
			result := w.Result()
			text, err := io.ReadAll(result.Body)
			if err != nil {
				t.Fatal(err)
			}
			kind := result.Header.Get("Content-Type")
			if result.StatusCode != test.code || string(text) != test.want || kind != test.kind {
				t.Errorf("%d %q (%s), want %d %q (%s)", result.StatusCode, text, kind, test.code, test.want, test.kind)
			}
		})
	}
	if verbosity != 4 {
		t.Errorf("verbosity is %d, want 4", verbosity)
	}
}

func TestProfiles(t *testing.T) {
	h := Status{Profiling: true, Metrics: http.NotFoundHandler()}.Handler()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/debug/pprof", nil))
	if w.Code/100 != 3 || w.Header().Get("Location") != "/debug/pprof/" {
		t.Errorf("/debug/pprof: %d to %q, want a redirect", w.Code, w.Header().Get("Location"))
	}
}
