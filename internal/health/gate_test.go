// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// A port is had, given up for somebody else, and had again; answers say whose they
// are.
func TestGate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	gate := &Gate{}
	gate.Set(false)
	done := make(chan error)
	s := Server{
		Name: "health", Addr: at, Gate: gate, HardFail: true, Log: slog.New(slog.DiscardHandler),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }),
	}
	go func() { done <- s.Run(ctx) }()
	asks := func() error {
		r, err := http.Get("http://" + at.String())
		if err != nil {
			return err
		}
		_ = r.Body.Close()
		if r.Header.Get("Server") != "beeline" {
			return fmt.Errorf("answered by %q", r.Header.Get("Server"))
		}
		return nil
	}
	time.Sleep(50 * time.Millisecond)
	if asks() == nil {
		t.Error("a closed gate, and it answers")
	}
	for range 3 {
		gate.Set(true)
		soon(t, asks)
		gate.Set(false)
		soon(t, func() error {
			other, err := net.Listen("tcp", at.String())
			if err != nil {
				return err
			}
			return other.Close()
		})
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The ports of Services are given up and had again as well.
func TestNodePortsYield(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	_ = l.Close()
	n := NewNodePorts(func() bool { return true }, nil, slog.New(slog.DiscardHandler))
	n.SetAddresses([]netip.Addr{at.Addr()})
	n.SetTargets(map[NodePort]Target{{Family: 4, Port: at.Port()}: {LocalEndpoints: 1}})
	n.SetOpen(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	answers := func(want bool) func() error {
		return func() error {
			c, err := net.Dial("tcp", at.String())
			if err == nil {
				_ = c.Close()
			}
			if (err == nil) != want {
				return errors.Join(fmt.Errorf("want an answer: %t", want), err)
			}
			return nil
		}
	}
	time.Sleep(50 * time.Millisecond)
	if err := answers(false)(); err != nil {
		t.Error(err)
	}
	for range 2 {
		n.SetOpen(true)
		soon(t, answers(true))
		n.SetOpen(false)
		soon(t, answers(false))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func soon(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
