// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/model"
)

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// freePort finds a port that nobody has on 127.0.0.1 and ::1.
func freePort(t *testing.T) uint16 {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(l.Addr().String()).Port()
		other, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
		_ = l.Close()
		if err == nil {
			_ = other.Close()
			return port
		}
	}
	t.Fatal("no port is free in both families")
	return 0
}

// runNodePorts runs a server until the test ends.
func runNodePorts(t *testing.T, healthy func() bool, failed func(Target, NodePort, error)) *NodePorts {
	t.Helper()
	n := NewNodePorts(healthy, failed, discard())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for at := range n.open {
			t.Errorf("%s is open after the end", at)
		}
	})
	return n
}

// answer is what a health check port said: "refused" if nobody listens.
func answer(at netip.AddrPort) string {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + at.String() + "/any/path")
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d weight %s type %s %s\n%s", response.StatusCode,
		response.Header.Get("X-Load-Balancing-Endpoint-Weight"), response.Header.Get("Content-Type"),
		response.Header.Get("X-Content-Type-Options"), text)
}

// expectAnswer waits until the port says what it should.
func expectAnswer(t *testing.T, at netip.AddrPort, want string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	got := answer(at)
	for got != want && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
		got = answer(at)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", at, diff)
	}
}

func wantAnswer(code, local int, name string, healthy bool) string {
	return fmt.Sprintf("%d weight %d type application/json nosniff\n"+
		"{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %t\n}",
		code, local, name, local, healthy)
}

func TestNodePorts(t *testing.T) {
	var sick atomic.Bool
	n := runNodePorts(t, func() bool { return !sick.Load() }, nil)
	port := freePort(t)
	at4, at6 := netip.AddrPortFrom(loopback4, port), netip.AddrPortFrom(loopback6, port)
	svc := func(name string, local int) Target { return Target{model.Name{Namespace: "ns", Name: name}, local} }
	v4, v6 := NodePort{model.IPv4, port}, NodePort{model.IPv6, port}

	expectAnswer(t, at4, "refused")
	n.SetAddresses([]netip.Addr{loopback4, loopback6})
	n.SetTargets(map[NodePort]Target{v4: svc("a", 2), v6: svc("a", 0)})
	expectAnswer(t, at4, wantAnswer(200, 2, "a", true))
	expectAnswer(t, at6, wantAnswer(503, 0, "a", true))

	n.SetTargets(map[NodePort]Target{v4: svc("a", 0), v6: svc("a", 1)})
	expectAnswer(t, at4, wantAnswer(503, 0, "a", true))
	expectAnswer(t, at6, wantAnswer(200, 1, "a", true))

	sick.Store(true)
	expectAnswer(t, at6, wantAnswer(503, 1, "a", false))
	sick.Store(false)

	n.SetTargets(map[NodePort]Target{v4: svc("b", 3)})
	expectAnswer(t, at4, wantAnswer(200, 3, "b", true))
	expectAnswer(t, at6, "refused")

	n.SetAddresses([]netip.Addr{loopback6})
	expectAnswer(t, at4, "refused")
	n.SetAddresses([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()})
	expectAnswer(t, at4, wantAnswer(200, 3, "b", true))
	expectAnswer(t, at6, "refused")
	n.SetTargets(nil)
	expectAnswer(t, at4, "refused")
}

func TestNodePortThatSomebodyElseHas(t *testing.T) {
	failures := make(chan string, 10)
	n := runNodePorts(t, func() bool { return true }, func(target Target, port NodePort, err error) {
		failures <- fmt.Sprintf("%s %s %d %t", target.Service, port.Family, port.Port, errors.Is(err, syscall.EADDRINUSE))
	})
	squatter, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(squatter.Addr().String())
	target := func(name string) map[NodePort]Target {
		return map[NodePort]Target{{model.IPv4, at.Port()}: {model.Name{Namespace: "ns", Name: name}, 1}}
	}
	expectFailure := func(name string) {
		t.Helper()
		want := fmt.Sprintf("ns/%s IPv4 %d true", name, at.Port())
		select {
		case got := <-failures:
			if got != want {
				t.Errorf("failure %q, want %q", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no failure, want %q", want)
		}
	}
	n.SetAddresses([]netip.Addr{loopback4})
	n.SetTargets(target("a"))
	expectFailure("a")
	n.SetTargets(target("a")) // tries again, says nothing new
	n.SetTargets(target("b"))
	expectFailure("b")
	if err := squatter.Close(); err != nil {
		t.Fatal(err)
	}
	n.SetTargets(target("b")) // or the ticker
	expectAnswer(t, at, wantAnswer(200, 1, "b", true))
	select {
	case got := <-failures:
		t.Errorf("another failure: %s", got)
	default:
	}
}
