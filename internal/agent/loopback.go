// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"os"
)

// loopbackAccepts lets the stack take a packet from one of the node's own
// addresses that comes in by the loopback device: the way of what is too big for
// its own and may be cut (docs/adr/0026-too-big.md).
const loopbackAccepts = "net/ipv4/conf/lo/accept_local"

// openLoopback sets it, if it may be set. It returns what it has changed.
func openLoopback(root sysctl, log *slog.Logger) map[string]setting {
	have, err := root.get(loopbackAccepts)
	if os.IsNotExist(err) || err == nil && have == 1 {
		return nil
	}
	if err := root.set(loopbackAccepts, 1); err != nil {
		log.Info("IPv4 packets that are too big for their way are dropped, also where they may be cut", "setting", loopbackAccepts, "err", err)
		return nil
	}
	return map[string]setting{loopbackAccepts: {have, 1}}
}

// loopbackOpen reports whether packets may take that way.
func loopbackOpen(root sysctl) bool {
	have, err := root.get(loopbackAccepts)
	return err == nil && have == 1
}
