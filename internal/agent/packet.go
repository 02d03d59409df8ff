// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/host"
	"github.com/beeline-net/beeline/internal/model"
)

// packetPath keeps the packet programs on this node's devices. The loop owns it.
type packetPath struct {
	log      *slog.Logger
	devices  *datapath.Devices
	local    config.LocalTraffic
	reserved host.Ports
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
	}
}

// newPacketPath prepares it, or returns nil if it is not wanted or cannot be had:
// sockets are served all the same.
func newPacketPath(dp *datapath.Datapath, c config.Config, log *slog.Logger) (*packetPath, error) {
	if !c.Datapath.PacketPath {
		return nil, nil
	}
	reserved, err := reservedPorts()
	if err != nil {
		return nil, err
	}
	devices, err := dp.Devices()
	if err != nil {
		return nil, err
	}
	if err := devices.Load(); err != nil {
		log.Error("DEGRADED, no packet path: NodePorts, load balancer addresses and external IPs are not served to clients outside, nor Services to pods whose sockets are not this kernel's; sockets on this node are served", "err", err)
		return nil, devices.Close()
	}
	return &packetPath{log: log, devices: devices, local: c.LocalTraffic, reserved: reserved}, nil
}

// reservedPorts are those that the system wants left alone.
func reservedPorts() (host.Ports, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
	if err != nil {
		return host.Ports{}, fmt.Errorf("reserved ports: %w", err)
	}
	return host.ParsePorts(string(text))
}

// follow puts the programs on the devices that the network has now.
func (p *packetPath) follow(n model.Network) {
	if err := p.devices.Set(packetDevices(n, p.local)); err != nil {
		p.log.Warn("packet path incomplete", "err", err)
	}
}
