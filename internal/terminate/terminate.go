// SPDX-License-Identifier: Apache-2.0

// Package terminate ends sockets that are connected to a backend which is
// gone, so that their owners get an error at once and connect anew.
//
// It works from what the kernel holds and remembers nothing: a socket's own
// record says to which backend and generation it is connected, so what was
// removed while no agent ran is found as well. An iterator over these records
// sees the sockets of all network namespaces; only namespaces in which there is
// something to end are entered. ADR 0013.
package terminate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	gomaps "maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// Options are what a Terminator takes from outside.
type Options struct {
	// Kernel are the datapath's maps by their names in package abi, and Tables
	// the access to them. Both must outlive the Terminator.
	Kernel map[string]*ebpf.Map
	Tables *maps.Tables
	// Namespaces are folders with files that stand for network namespaces, and
	// Proc is where procfs is mounted. Nil and empty mean the usual places.
	Namespaces []string
	Proc       string
	// Diag ends sockets by SOCK_DIAG although the kernel has bpf_sock_destroy.
	Diag bool
	Log  *slog.Logger
}

// Terminator ends sockets. Its methods must not be called concurrently.
type Terminator struct {
	tables *maps.Tables
	log    *slog.Logger
	spaces namespaces
	finder *finder
	ender  ender
}

// ender ends sockets of the network namespace that the calling thread is in,
// and returns the cookies of those it has ended.
type ender interface {
	udp(targets []target) (ended []uint64, err error)
	tcp(targets []target) (ended []uint64, err error)
	close() error
}

// target is a socket to be ended.
type target struct {
	cookie uint64
	ending abi.Ending
	// stale is what is known about a UDP socket.
	stale abi.StaleSocket
}

// Result says what a pass did.
type Result struct {
	// Ended are sockets that got ECONNABORTED.
	Ended int
	// Kept are connected to a backend that is not the Service's any more, and
	// left alone as kube-proxy leaves the flow: the address has no Service, or
	// the same endpoint is still behind it.
	Kept int
	// Missed could not be ended: their network namespace could not be found or
	// entered, or the kernel refused.
	Missed int
}

// Backend is one that is to be left, as sockets remember it.
type Backend struct {
	Index, Generation uint32
	Addr              netip.AddrPort
}

// New loads what this kernel offers. It fails if there is no way at all to find
// such sockets.
func New(o Options) (*Terminator, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f, err := newFinder(o.Kernel)
	if err != nil {
		return nil, err
	}
	e, err := newEnder(o)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return &Terminator{tables: o.Tables, log: o.Log, spaces: newNamespaces(o), finder: f, ender: e}, nil
}

// newEnder prefers bpf_sock_destroy, which looks again at the socket while it
// holds its lock, and needs no CONFIG_INET_DIAG_DESTROY.
func newEnder(o Options) (ender, error) {
	if o.Diag {
		return diag{}, nil
	}
	e, err := newIterator(o.Kernel)
	if errors.Is(err, ebpf.ErrNotSupported) {
		o.Log.Info("this kernel has no bpf_sock_destroy (Linux 6.5): sockets are ended by SOCK_DIAG", "err", err)
		return diag{}, nil
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Close frees what New loaded.
func (t *Terminator) Close() error { return errors.Join(t.finder.close(), t.ender.close()) }

// UDP ends every UDP socket of the node that is connected to a backend which is
// not its Service's any more. It may be called at any time once the tables say
// what they should; one pass does for any number of removed backends.
func (t *Terminator) UDP(ctx context.Context) (Result, error) {
	var sum Result
	// Sockets that come and go shift the kernel's place in its list, so one walk
	// may miss some: the last one ends nothing.
	for range maxWalks {
		r, err := t.pass(ctx)
		sum.Ended += r.Ended
		sum.Kept, sum.Missed = r.Kept, r.Missed
		if err != nil || r.Ended == 0 || ctx.Err() != nil {
			return sum, err
		}
	}
	return sum, nil
}

const maxWalks = 5

func (t *Terminator) pass(ctx context.Context) (Result, error) {
	found, err := t.finder.find()
	if err != nil || len(found) == 0 {
		return Result{}, err
	}
	stale, err := t.decide(found)
	if err != nil {
		return Result{}, err
	}
	result := Result{Kept: len(found) - len(stale)}
	byNamespace := map[uint32][]target{}
	for _, s := range stale {
		byNamespace[s.Netns] = append(byNamespace[s.Netns], target{
			cookie: s.Cookie, stale: s,
			ending: abi.Ending{Addr: s.Dst, Port: s.Dport, Backend: s.Backend, Generation: s.Generation},
		})
	}
	if len(byNamespace) == 0 {
		return result, nil
	}
	files, err := t.spaces.find(byNamespace)
	if err != nil {
		return result, err
	}
	var errs []error
	for inode, targets := range byNamespace {
		if ctx.Err() != nil {
			break
		}
		var ended []uint64
		err := fmt.Errorf("network namespace %d: no file stands for it where this agent can see", inode)
		if path, ok := files[inode]; ok {
			err = t.spaces.within(path, func() (err error) {
				ended, err = t.ender.udp(targets)
				return err
			})
		}
		result.Ended += len(ended)
		if missed := len(targets) - len(ended); err != nil && missed > 0 {
			result.Missed += missed
			errs = append(errs, fmt.Errorf("end %d UDP sockets: %w", missed, err))
		}
	}
	return result, errors.Join(errs...)
}

// decide leaves out what kube-proxy leaves alone: it ends a flow whose original
// destination is a Service port's address, unless that port has the endpoint,
// whatever its name is now (pkg/proxy/conntrack/cleanup.go of Kubernetes 1.37).
func (t *Terminator) decide(found []abi.StaleSocket) (stale []abi.StaleSocket, err error) {
	var owned map[endpoint]bool
	for _, s := range found {
		f, ok, err := t.frontend(s)
		if err != nil {
			return nil, fmt.Errorf("look for the Service of a socket: %w", err)
		}
		if !ok {
			continue
		}
		if owned == nil {
			owned = t.endpoints()
		}
		if !owned[endpoint{f.Service, s.Dst, s.Dport}] {
			stale = append(stale, s)
		}
	}
	return stale, nil
}

// frontend is what has the address now that a socket asked for: one of its own,
// or a NodePort on all of the node's.
func (t *Terminator) frontend(s abi.StaleSocket) (f abi.Frontend, ok bool, err error) {
	key := abi.FrontendKey{Addr: s.Vip, Port: s.VipPort, Protocol: unix.IPPROTO_UDP}
	if f, ok, err = t.tables.Frontends.Get(key); ok || err != nil {
		return f, ok, err
	}
	key.Addr = abi.Addr(netip.IPv6Unspecified())
	if abi.NetIP(s.Vip).Is4() {
		key.Addr = abi.Addr(netip.IPv4Unspecified())
	}
	return t.tables.Frontends.Get(key)
}

// endpoint is a living backend of a Service port; the port is in network order.
type endpoint struct {
	service uint32
	addr    abi.IP
	port    uint16
}

// endpoints are all there are. It reads shared memory, and only if something is
// to be decided.
func (t *Terminator) endpoints() map[endpoint]bool {
	all := map[endpoint]bool{}
	for i := range t.tables.Backends.Len() {
		if b := t.tables.Backends.Load(i); b.Generation != 0 {
			all[endpoint{b.Service, b.Addr, b.Port}] = true
		}
	}
	return all
}

// TCP ends the TCP sockets of the node that are connected, through a Service,
// to one of the backends; whether these still live does not matter. Connections
// straight to a pod are not touched. It finds them by the record that each
// connect() leaves (--tcp-peer-records), and goes through all network
// namespaces it can see, because that record does not name one.
func (t *Terminator) TCP(ctx context.Context, backends []Backend) (Result, error) {
	targets, err := t.tcpTargets(backends)
	if err != nil || len(targets) == 0 {
		return Result{}, err
	}
	files, err := t.spaces.all()
	if err != nil {
		return Result{}, err
	}
	left := map[uint64]target{}
	for _, s := range targets {
		left[s.cookie] = s
	}
	var result Result
	var errs []error
	for _, path := range files {
		if ctx.Err() != nil || len(left) == 0 {
			break
		}
		err := t.spaces.within(path, func() error {
			ended, err := t.ender.tcp(slices.Collect(gomaps.Values(left)))
			for _, cookie := range ended {
				delete(left, cookie)
			}
			result.Ended += len(ended)
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("end TCP sockets of %s: %w", path, err))
		}
	}
	for cookie := range left { // those that were closed meanwhile have no record
		if _, there, err := t.tables.Peers.Get(cookie); err == nil && there {
			result.Missed++
		}
	}
	return result, errors.Join(errs...)
}

func (t *Terminator) tcpTargets(backends []Backend) (targets []target, err error) {
	type id struct{ index, generation uint32 }
	addrs := map[id]netip.AddrPort{}
	for _, b := range backends {
		addrs[id{b.Index, b.Generation}] = b.Addr
	}
	err = t.tables.Peers.Each(func(cookie uint64, p abi.Peer) bool {
		if addr, ok := addrs[id{p.Backend, p.Generation}]; ok {
			targets = append(targets, target{cookie: cookie, ending: abi.Ending{
				Addr: abi.Addr(addr.Addr()), Port: abi.Port(addr.Port()), Backend: p.Backend, Generation: p.Generation,
			}})
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("look for TCP sockets: %w", err)
	}
	return targets, nil
}
