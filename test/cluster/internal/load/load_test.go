// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// serve runs a server and returns where it is.
func serve(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- Serve(ctx, addr.String(), name) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
	})
	First(t.Context(), []Target{{"", addr}}, func(time.Time, string) {})
	return addr
}

func TestMeasureTakesEveryTurn(t *testing.T) {
	up := Target{"up", serve(t, "a")}
	down := Target{"down", netip.MustParseAddrPort("127.0.0.1:1")}
	got := Measure(t.Context(), Plan{Targets: []Target{up, down}, Rounds: 2, Requests: 3, Rate: time.Millisecond, Workers: 2})
	if r := got["up"]; len(r.Latencies) != 2 || len(r.Latencies[1]) != 3 || len(r.Rates) != 2 || r.Rates[0] <= 0 || r.Errors != 0 {
		t.Errorf("up: %+v, want two turns of three requests without errors", r)
	}
	if r := got["down"]; len(r.Latencies) != 2 || len(r.Latencies[0]) != 0 || r.Errors < 6 || r.LastError == "" {
		t.Errorf("down: %+v, want nothing but errors", r)
	}
}

func TestWatchReportsChangesOnly(t *testing.T) {
	addr := serve(t, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var names []string
	Watch(ctx, addr, func(_ time.Time, name string) { names = append(names, name) })
	// The end of the context may fail the last request.
	if len(names) == 0 || names[0] != "a" || len(names) > 2 {
		t.Errorf("saw %q, want one answer", names)
	}
}

func TestParseTarget(t *testing.T) {
	for _, text := range []string{"service=10.96.0.7:80", "direct=[fd00::1]:8080"} {
		if got, err := ParseTarget(text); err != nil || got.String() != text {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"10.96.0.7:80", "a=b"} {
		if _, err := ParseTarget(text); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
