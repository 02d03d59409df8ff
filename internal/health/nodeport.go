// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// retryNodePort is how often ports are tried again that somebody else has.
const retryNodePort = 5 * time.Second

// NodePort is a Service's health check port in one family.
type NodePort struct {
	Family model.Family
	Port   uint16
}

// Target is what a health check port speaks for.
type Target struct {
	Service model.Name
	// LocalEndpoints counts the distinct addresses of ready endpoints on this
	// node in the port's family.
	LocalEndpoints int
}

// NodePorts serves the health check ports of Services. It is told what there
// should be and works until it is so. Its methods are safe for concurrent use.
type NodePorts struct {
	// healthy is whether this node's data path works.
	healthy func() bool
	failed  func(Target, NodePort, error)
	log     *slog.Logger
	changed chan struct{}

	mu      sync.RWMutex
	targets map[NodePort]Target
	hosts   []netip.Addr
	closed  bool

	// What follows is Run's own.
	open map[netip.AddrPort]*openPort
	// reported is the last reason why a place could not be listened on.
	reported map[netip.AddrPort]string
}

// openPort is a place that is listened on.
type openPort struct {
	server *http.Server
	// gone is closed when the server has ended.
	gone chan struct{}
}

// NewNodePorts makes a server without ports. healthy says whether this node's
// data path works. failed learns of a place that cannot be listened on, once for
// each reason, from Run's goroutine (kube-proxy makes it an Event,
// FailedToStartServiceHealthcheck); nil if nobody cares.
func NewNodePorts(healthy func() bool, failed func(Target, NodePort, error), log *slog.Logger) *NodePorts {
	return &NodePorts{
		healthy: healthy, failed: failed, log: log,
		changed: make(chan struct{}, 1),
		open:    map[netip.AddrPort]*openPort{}, reported: map[netip.AddrPort]string{},
	}
}

// SetTargets says which ports there should be and what they speak for. The map
// is copied.
func (n *NodePorts) SetTargets(targets map[NodePort]Target) {
	n.mu.Lock()
	n.targets = maps.Clone(targets)
	n.mu.Unlock()
	n.wake()
}

// SetAddresses says where ports are opened: addresses of this node, or the
// unspecified address of a family for all of them.
func (n *NodePorts) SetAddresses(addrs []netip.Addr) {
	n.mu.Lock()
	n.hosts = append([]netip.Addr(nil), addrs...)
	n.mu.Unlock()
	n.wake()
}

// SetOpen says whether ports may be had at present, or are somebody else's. At
// first they may.
func (n *NodePorts) SetOpen(open bool) {
	n.mu.Lock()
	changed := n.closed == open
	n.closed = !open
	n.mu.Unlock()
	if changed {
		n.wake()
	}
}

func (n *NodePorts) wake() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// Run opens and closes ports until ctx ends, and then closes all.
func (n *NodePorts) Run(ctx context.Context) error {
	defer func() {
		for at := range n.open {
			n.close(at)
		}
	}()
	retry := time.NewTicker(retryNodePort)
	defer retry.Stop()
	for {
		n.reconcile(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		case <-retry.C:
		}
	}
}

// wanted lists the places to listen on.
func (n *NodePorts) wanted() map[netip.AddrPort]NodePort {
	n.mu.RLock()
	defer n.mu.RUnlock()
	places := map[netip.AddrPort]NodePort{}
	if n.closed {
		return places
	}
	for port := range n.targets {
		for _, host := range n.hosts {
			if model.FamilyOf(host) == port.Family {
				places[netip.AddrPortFrom(host.Unmap(), port.Port)] = port
			}
		}
	}
	return places
}

// reconcile closes what is not wanted any more, then opens what is missing.
func (n *NodePorts) reconcile(ctx context.Context) {
	wanted := n.wanted()
	for at, p := range n.open {
		_, keep := wanted[at]
		select {
		case <-p.gone:
			keep = false
		default:
		}
		if !keep {
			n.close(at)
		}
	}
	maps.DeleteFunc(n.reported, func(at netip.AddrPort, _ string) bool {
		_, keep := wanted[at]
		return !keep
	})
	for at, port := range wanted {
		if n.open[at] == nil && ctx.Err() == nil {
			n.tryOpen(ctx, at, port)
		}
	}
}

func (n *NodePorts) tryOpen(ctx context.Context, at netip.AddrPort, port NodePort) {
	listener, err := listen(ctx, at)
	target, _ := n.target(port)
	if err != nil {
		if reason := target.Service.String() + err.Error(); reason != n.reported[at] && ctx.Err() == nil {
			n.reported[at] = reason
			n.log.Error("cannot serve health check port", "service", target.Service, "address", at, "err", err)
			if n.failed != nil {
				n.failed(target, port, fmt.Errorf("listen for health checks: %w", err))
			}
		}
		return
	}
	delete(n.reported, at)
	n.log.Debug("health check port opened", "service", target.Service, "address", at)
	p := &openPort{
		server: newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { n.answer(w, port) })),
		gone:   make(chan struct{}),
	}
	n.open[at] = p
	go func() {
		defer close(p.gone)
		if err := ended(p.server.Serve(listener)); err != nil {
			n.log.Error("health check port ended", "address", at, "err", err)
			n.wake()
		}
	}()
}

// close stops listening and waits until it has stopped.
func (n *NodePorts) close(at netip.AddrPort) {
	p := n.open[at]
	delete(n.open, at)
	_ = p.server.Close()
	<-p.gone
	n.log.Debug("health check port closed", "address", at)
}

func (n *NodePorts) target(port NodePort) (Target, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	t, ok := n.targets[port]
	return t, ok
}

// answer says how many local endpoints the port's Service has, in kube-proxy's
// words, whatever was asked. 200 invites a load balancer to send traffic.
func (n *NodePorts) answer(w http.ResponseWriter, port NodePort) {
	target, ok := n.target(port)
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable) // about to be closed
		return
	}
	healthy := n.healthy()
	code := http.StatusServiceUnavailable
	if healthy && target.LocalEndpoints > 0 {
		code = http.StatusOK
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(target.LocalEndpoints))
	writeJSON(w, code, fmt.Appendf(nil, `{
	"service": {
		"namespace": %q,
		"name": %q
	},
	"localEndpoints": %d,
	"serviceProxyHealthy": %t
}`, target.Service.Namespace, target.Service.Name, target.LocalEndpoints, healthy))
}
