// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
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
	// off: this kernel cannot carry it.
	off bool
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

// newPacketPath prepares it, or returns nil if it is not wanted.
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
	if p.off {
		return
	}
	err := p.devices.Set(packetDevices(n, p.local))
	switch {
	case errors.Is(err, datapath.ErrNotSupported):
		p.off = true
		p.log.Warn("no packet path: this kernel has no tcx, which came with Linux 6.6; Services work for sockets on this node only", "err", err)
	case err != nil:
		p.log.Warn("packet path incomplete", "err", err)
	}
}
