// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// packetPath keeps the packet programs on this node's devices. The loop owns it.
type packetPath struct {
	log     *slog.Logger
	giveUp  func() error // ends what the last agent's programs do with maps of old
	devices *datapath.Devices
	local   config.LocalTraffic
	sysctl  sysctl
	// reserved are the ports that the kernel was told of.
	reserved host.Ports
	// missing asks the loop to look at the devices.
	missing chan struct{}
	// restored is how much of Devices.Restored has been counted.
	restored int
	// loaded is closed when the kernel has taken the programs, or has not. Until
	// then devices is the loading goroutine's.
	loaded chan struct{}
	stop   context.CancelFunc // gives up waiting to load
	// failed is why it has not; read it when loaded is closed.
	failed error
	said   bool
	// incomplete says which devices have not got what they should have; empty:
	// all have.
	incomplete string
}

// packetOptions is what the configuration means for the packet programs.
func packetOptions(c config.Config) *datapath.PacketOptions {
	if !c.Datapath.PacketPath {
		return nil
	}
	byAddress := c.LocalTraffic.Mode == config.ClusterCIDR && len(c.LocalTraffic.ClusterCIDRs) > 0
	other := c.LocalTraffic.Mode != config.ClusterCIDR
	detects := func(is4 bool) bool {
		for _, p := range c.LocalTraffic.ClusterCIDRs {
			if p.Addr().Is4() == is4 {
				return true
			}
		}
		return false
	}
	return &datapath.PacketOptions{
		RefuseUnknownPorts: c.Datapath.RefuseUnknownPorts,
		DetectLocal4:       other || byAddress && detects(true),
		DetectLocal6:       other || byAddress && detects(false),
		MasqueradeAll:      c.Masquerade.All,
		MasqueradeLocal:    c.Masquerade.Local,
		CloseClusterIPs:    !c.Datapath.ClusterIPFromOutside,
		EchoReply:          c.Datapath.EchoReply,
		CutByLoopback:      loopbackOpen(sysctl(c.Kernel.Sysctl)),
		SNATPorts:          [2]uint16{c.Masquerade.Ports.First, c.Masquerade.Ports.Last},
		Timeouts:           flowTimeouts(sysctl(c.Kernel.Sysctl), c.Conntrack),
		ServiceCounts:      c.Datapath.ServiceCounts,
	}
}

// newPacketPath prepares it and begins to load its programs, beside all else
// that a start has to wait for. It returns nil if it is not wanted. server is
// source.server.
func newPacketPath(ctx context.Context, dp *datapath.Datapath, c config.Config, store *snapshot.Store, server netip.Addr, log *slog.Logger) (*packetPath, error) {
	if !c.Datapath.PacketPath {
		return nil, nil
	}
	devices, err := dp.Devices()
	if err != nil {
		return nil, err
	}
	p := &packetPath{
		log: log, giveUp: dp.GiveUp, devices: devices, local: c.LocalTraffic, sysctl: sysctl(c.Kernel.Sysctl),
		missing: make(chan struct{}, 1), loaded: make(chan struct{}),
	}
	p.lookAtPorts()
	ctx, p.stop = context.WithCancel(ctx)
	go func() {
		defer close(p.loaded)
		select {
		case <-ctx.Done():
			p.failed, p.said = ctx.Err(), true
		case <-store.RangesKnown(): // which the programs are made for
			devices.SetServiceRanges(droppedRanges(completed(planConfig(c), store, server)))
			p.failed = devices.Load()
		}
	}()
	return p, nil
}

// there waits until the programs are loaded, and tells whether they could be:
// if not, sockets are served all the same. p may be nil.
func (p *packetPath) there() bool {
	if p == nil {
		return false
	}
	<-p.loaded
	if p.failed != nil && !p.said {
		p.said = true
		p.log.Error("DEGRADED, no packet path: NodePorts, load balancer addresses and external IPs are not served to clients outside, nor Services to pods whose sockets are not this kernel's; sockets on this node are served", "err", errors.Join(p.failed, p.giveUp()))
	}
	return p.failed == nil
}

// close gives the devices up; what is attached goes on. p may be nil.
func (p *packetPath) close() error {
	if p == nil {
		return nil
	}
	p.stop()
	<-p.loaded
	return p.devices.Close()
}

// lookAtPorts reports whether the ports that source NAT keeps off are others
// than before.
func (p *packetPath) lookAtPorts() bool {
	now, err := reservedPorts(p.sysctl, "/proc")
	if err != nil {
		p.log.Warn("source NAT may take ports that others use", "err", err)
		return false
	}
	changed := now != p.reserved
	p.reserved = now
	return changed
}

// follow puts the programs on the devices that the network has now, and returns
// on how many of them they were missing.
func (p *packetPath) follow(n model.Network, serviceRanges []netip.Prefix) (restored int) {
	p.devices.SetServiceRanges(serviceRanges)
	before := p.incomplete
	p.incomplete = ""
	if err := p.devices.Set(packetDevices(n, p.local)); err != nil {
		if p.incomplete = err.Error(); p.incomplete != before {
			p.log.Warn("packet path incomplete", "err", err)
		}
	}
	total := p.devices.Restored()
	restored, p.restored = total-p.restored, total
	return restored
}
