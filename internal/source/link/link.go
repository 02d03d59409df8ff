// SPDX-License-Identifier: Apache-2.0

// Package link follows this node's devices and addresses by netlink. It is
// level-triggered: an event only says that it is time to look, and a look is
// always at everything, so no lost event makes it wrong for long.
package link

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/model"
)

const (
	// debounce gathers the events of one change: a new pod is a handful.
	debounce = 10 * time.Millisecond
	// rescan finds what no event told.
	rescan = 30 * time.Second
	// attempts to list without being interrupted by a change.
	attempts = 10
)

// Source follows the devices of the network namespace that Run is called in.
type Source struct {
	// Set takes over each look that differs from the last.
	Set func(model.Network)
	Log *slog.Logger
}

// Run looks, and follows changes until ctx ends. It fails if it cannot look at
// the start.
func (s *Source) Run(ctx context.Context) error {
	events, stop, err := subscribe()
	if err != nil {
		return err
	}
	defer stop()
	last, err := Look()
	if err != nil {
		return err
	}
	s.Set(last)
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	due := time.NewTimer(rescan)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			due.Reset(debounce)
			continue
		case <-tick.C:
		case <-due.C:
		}
		now, err := Look()
		if err != nil {
			s.Log.Warn("cannot list devices; looking again", "err", err)
			due.Reset(time.Second)
			continue
		}
		if !equal(last, now) {
			last = now
			s.Set(now)
		}
	}
}

// subscribe returns a channel that has an element after every change.
func subscribe() (<-chan struct{}, func(), error) {
	done := make(chan struct{})
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	fail := func(err error) (<-chan struct{}, func(), error) {
		close(done)
		return nil, nil, fmt.Errorf("follow devices: %w", err)
	}
	// An overrun socket closes the channel; the look from time to time goes on.
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return fail(err)
	}
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		return fail(err)
	}
	events := make(chan struct{}, 1)
	go func() {
		for links != nil || addrs != nil {
			select {
			case _, ok := <-links:
				if !ok {
					links = nil
				}
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
				}
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events, func() { close(done) }, nil
}

// Look lists all devices with their addresses.
func Look() (model.Network, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return model.Network{}, fmt.Errorf("list devices: %w", err)
	}
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return model.Network{}, fmt.Errorf("list addresses: %w", err)
	}
	byDevice := map[int][]netlink.Addr{}
	for _, a := range addrs {
		byDevice[a.LinkIndex] = append(byDevice[a.LinkIndex], a)
	}
	var n model.Network
	for _, l := range links {
		n.Devices = append(n.Devices, device(l, byDevice[l.Attrs().Index]))
	}
	slices.SortFunc(n.Devices, func(a, b model.Device) int { return cmp.Compare(a.Index, b.Index) })
	return n, nil
}

// complete repeats a listing that a change interrupted: the kernel then leaves
// entries out without saying which (NLM_F_DUMP_INTR).
func complete[T any](list func() ([]T, error)) (all []T, err error) {
	for range attempts {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func device(l netlink.Link, addrs []netlink.Addr) model.Device {
	a := l.Attrs()
	d := model.Device{
		Index:      a.Index,
		Name:       a.Name,
		Up:         a.RawFlags&unix.IFF_UP != 0,
		Loopback:   a.RawFlags&unix.IFF_LOOPBACK != 0,
		LinkHeader: a.EncapType == "ether" || a.EncapType == "loopback",
		Bridge:     l.Type() == "bridge",
		VRF:        l.Type() == "vrf",
		Master:     a.MasterIndex,
	}
	if l.Type() == "vlan" {
		d.Parent = a.ParentIndex
	}
	// Global scope before link scope: an address that nobody else can answer
	// to is no address to send from (pains A36).
	slices.SortStableFunc(addrs, func(x, y netlink.Addr) int { return cmp.Compare(x.Scope, y.Scope) })
	for _, addr := range addrs {
		if ip, ok := netip.AddrFromSlice(addr.IP); ok && addr.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			d.Addresses = append(d.Addresses, ip.Unmap())
		}
	}
	return d
}

func equal(a, b model.Network) bool {
	return slices.EqualFunc(a.Devices, b.Devices, func(x, y model.Device) bool {
		same := slices.Equal(x.Addresses, y.Addresses)
		x.Addresses, y.Addresses = nil, nil
		return same && x.Index == y.Index && x.Name == y.Name && x.Up == y.Up && x.Loopback == y.Loopback &&
			x.LinkHeader == y.LinkHeader && x.Bridge == y.Bridge && x.VRF == y.VRF && x.Master == y.Master && x.Parent == y.Parent
	})
}
