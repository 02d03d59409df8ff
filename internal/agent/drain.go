// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/terminate"
)

// drainPeriod is how often it is looked for connections that are to end.
const drainPeriod = time.Second

// backendRef is a backend as connections remember it.
type backendRef struct{ index, generation uint32 }

// drains ends the TCP connections of endpoints that take no new ones any more,
// for the Services that ask for it. It goes by what the tables hold, so it finds
// what an earlier agent left; only the time begins anew.
type drains struct {
	log    *slog.Logger
	tables *maps.Tables
	flows  *maps.Flows // nil: no packet path
	now    func() time.Time
	// sockets ends those of the node itself and of its pods.
	sockets func(context.Context, []terminate.Backend) (terminate.Result, error)

	mu       sync.Mutex
	policies map[model.Name]time.Duration

	// since is when a backend was first seen to be in no set, while somebody is
	// still connected to it; addrs are those of backends, which are gone with
	// them.
	since map[backendRef]time.Time
	addrs map[backendRef]netip.AddrPort
}

func newDrains(dp *datapath.Datapath, tables *maps.Tables, log *slog.Logger) (*drains, error) {
	flows, err := maps.OpenFlows(dp.Maps())
	if err != nil {
		return nil, err
	}
	return &drains{
		log: log, tables: tables, flows: flows, now: time.Now,
		sockets: func(ctx context.Context, backends []terminate.Backend) (result terminate.Result, err error) {
			// It is made when it is needed, which is rare.
			t, err := terminate.New(terminate.Options{Kernel: dp.Maps(), Tables: tables, Log: log})
			if err != nil {
				return result, err
			}
			defer func() { err = errors.Join(err, t.Close()) }()
			return t.TCP(ctx, backends)
		},
	}, nil
}

func (d *drains) close() error {
	if d.flows == nil {
		return nil
	}
	return d.flows.Close()
}

// set takes note of what a Service asks for, before a change of it is written;
// nil is a Service that is gone. Where it asks for something, the addresses of
// its backends are remembered: the change may take some away.
func (d *drains) set(name model.Name, service *model.Service) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.policies, name)
	if service == nil || !service.Drain.Reset {
		return nil
	}
	if d.policies == nil {
		d.policies = map[model.Name]time.Duration{}
	}
	d.policies[name] = service.Drain.After
	after, err := d.numbers()
	if err != nil {
		return err
	}
	d.observe(after)
	return nil
}

// run works until ctx ends. Before inStep the tables are those of another time.
func (d *drains) run(ctx context.Context, inStep <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return nil
	case <-inStep:
	}
	tick := time.NewTicker(drainPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("connections to removed endpoints could not be ended", "err", err)
		}
	}
}

// pass ends what is due.
func (d *drains) pass(ctx context.Context) error {
	due, backends, err := d.look()
	if err != nil || len(due) == 0 {
		return err
	}
	ended := 0
	if d.flows != nil {
		ended = d.flows.End(func(f abi.Flow) bool { return isTCP(f) && due[backendRef{f.Backend, f.Generation}] })
	}
	result, err := d.sockets(ctx, backends)
	if ended+result.Ended > 0 {
		d.log.Info("ended connections to endpoints that are drained", "endpoints", len(due), "flows", ended, "sockets", result.Ended)
	}
	return err
}

// look returns the backends whose connections are to end now, and what is known
// of them.
func (d *drains) look() (due map[backendRef]bool, known []terminate.Backend, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	after, err := d.numbers()
	if err != nil || len(after) == 0 {
		d.since, d.addrs = nil, nil
		return nil, nil, err
	}
	left, err := d.connected(after, d.observe(after))
	if err != nil {
		return nil, nil, err
	}
	due = d.due(left)
	for ref := range due {
		if addr, ok := d.addrs[ref]; ok {
			known = append(known, terminate.Backend{Index: ref.index, Generation: ref.generation, Addr: addr})
		}
	}
	return due, known, nil
}

// numbers returns the policies by Service number. The lock is held, here and
// below.
func (d *drains) numbers() (map[uint32]time.Duration, error) {
	if len(d.policies) == 0 {
		return nil, nil
	}
	after := map[uint32]time.Duration{}
	err := d.tables.Services.Each(func(number uint32, n abi.ServiceName) bool {
		if t, ok := d.policies[model.Name{Namespace: abi.Text(n.Ns), Name: abi.Text(n.Name)}]; ok {
			after[number] = t
		}
		return true
	})
	return after, err
}

// observe returns the backends of these Services that take new connections, and
// remembers the addresses of all that live.
func (d *drains) observe(after map[uint32]time.Duration) map[backendRef]bool {
	if d.addrs == nil {
		d.addrs = map[backendRef]netip.AddrPort{}
	}
	active := map[backendRef]bool{}
	for i := range d.tables.Backends.Len() {
		b := d.tables.Backends.Load(i)
		if _, ok := after[b.Service]; !ok || b.Generation == 0 {
			continue
		}
		ref := backendRef{i, b.Generation}
		d.addrs[ref] = netip.AddrPortFrom(abi.NetIP(b.Addr), abi.Port(b.Port))
		if b.Sets != 0 {
			active[ref] = true
		}
	}
	return active
}

// connected returns the backends to which somebody is still connected although
// they take nobody new, with their policies.
func (d *drains) connected(after map[uint32]time.Duration, active map[backendRef]bool) (map[backendRef]time.Duration, error) {
	left := map[backendRef]time.Duration{}
	look := func(service, index, generation uint32) {
		ref := backendRef{index, generation}
		if t, ok := after[service]; ok && !active[ref] {
			left[ref] = t
		}
	}
	if d.flows != nil {
		d.flows.Each(func(f abi.Flow) {
			if isTCP(f) {
				look(f.Service, f.Backend, f.Generation)
			}
		})
	}
	err := d.tables.Peers.Each(func(_ uint64, p abi.Peer) bool {
		look(p.Service, p.Backend, p.Generation)
		return true
	})
	for ref := range d.addrs {
		if _, ok := left[ref]; !ok && !active[ref] {
			delete(d.addrs, ref)
		}
	}
	return left, err
}

// due returns those of which the time is over.
func (d *drains) due(left map[backendRef]time.Duration) map[backendRef]bool {
	now, since, due := d.now(), map[backendRef]time.Time{}, map[backendRef]bool{}
	for ref, after := range left {
		first, seen := d.since[ref]
		if !seen {
			first = now
		}
		since[ref] = first
		if now.Sub(first) >= after {
			due[ref] = true
		}
	}
	d.since = since
	return due
}

func isTCP(f abi.Flow) bool { return f.Tuple[abi.FlowRequest].Protocol == unix.IPPROTO_TCP }
