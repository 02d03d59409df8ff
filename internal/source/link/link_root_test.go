// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/model"
)

// Pains A32: an address or device that comes later is known at once.
func TestA32FollowsAddressesAndDevices(t *testing.T) {
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("link%d", os.Getpid()))
	check(t, err)
	defer func() { check(t, l.Close()) }()
	node, err := l.Namespace("node")
	check(t, err)
	peer, err := l.Namespace("peer")
	check(t, err)
	looks := follow(t, node)

	first := <-looks
	if d := named(first, "lo"); d == nil || !d.Loopback || !d.Up {
		t.Fatalf("lo is %+v", d)
	}
	check(t, lab.Connect(node, "eth0", peer, "eth0"))
	await(t, looks, func(n model.Network) bool { d := named(n, "eth0"); return d != nil && d.Up && d.LinkHeader })

	late := netip.MustParseAddr("192.0.2.7")
	check(t, node.Address("eth0", "192.0.2.7/24"))
	await(t, looks, func(n model.Network) bool { return contains(n, late) })
	check(t, node.Address("lo", "2001:db8::7/128"))
	await(t, looks, func(n model.Network) bool { return contains(n, netip.MustParseAddr("2001:db8::7")) })

	check(t, node.Bridge("cni0", "eth0"))
	n := await(t, looks, func(n model.Network) bool { d := named(n, "eth0"); return d != nil && d.Master != 0 })
	if d := named(n, "cni0"); d == nil || !d.Bridge || d.Index != named(n, "eth0").Master {
		t.Errorf("the bridge is %+v", d)
	}
	check(t, node.RemoveLink("eth0"))
	await(t, looks, func(n model.Network) bool { return named(n, "eth0") == nil && !contains(n, late) })
}

// Of a device's addresses the one that others can answer to comes first.
func TestGlobalAddressesComeFirst(t *testing.T) {
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("link%d", os.Getpid()))
	check(t, err)
	defer func() { check(t, l.Close()) }()
	a, err := l.Namespace("a")
	check(t, err)
	b, err := l.Namespace("b")
	check(t, err)
	check(t, lab.Connect(a, "eth0", b, "eth0")) // fe80:: comes by itself
	check(t, a.Address("eth0", "2001:db8::1/64"))
	check(t, a.Do(func() error {
		n, err := Look()
		if err != nil {
			return err
		}
		if d := named(n, "eth0"); d.Addresses[0] != netip.MustParseAddr("2001:db8::1") {
			t.Errorf("addresses: %v", d.Addresses)
		}
		return nil
	}))
}

// follow runs a Source in a namespace and returns what it sets.
func follow(t *testing.T, ns *lab.Namespace) <-chan model.Network {
	ctx, cancel := context.WithCancel(context.Background())
	looks := make(chan model.Network, 100)
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Run lists from this thread's namespace
		if err := ns.EnterThread(); err != nil {
			ended <- err
			return
		}
		s := &Source{Set: func(n model.Network) { looks <- n }, Log: slog.New(slog.DiscardHandler)}
		ended <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		check(t, <-ended)
	})
	return looks
}

func await(t *testing.T, looks <-chan model.Network, ok func(model.Network) bool) model.Network {
	t.Helper()
	timeout := time.After(time.Second)
	for {
		select {
		case n := <-looks:
			if ok(n) {
				return n
			}
		case <-timeout:
			t.Fatal("not within a second")
		}
	}
}

func named(n model.Network, name string) *model.Device {
	for i := range n.Devices {
		if n.Devices[i].Name == name {
			return &n.Devices[i]
		}
	}
	return nil
}

func contains(n model.Network, addr netip.Addr) bool {
	for _, a := range n.Addresses() {
		if a == addr {
			return true
		}
	}
	return false
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
