// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"

	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// podNames lists the pods behind all endpoints.
func podNames(store *snapshot.Store) agentsocket.Names {
	names := agentsocket.Names{}
	for _, service := range store.Names() {
		_, slices := store.Service(service)
		for _, slice := range slices {
			for _, e := range slice.Endpoints {
				if e.Target == "" {
					continue
				}
				for _, p := range slice.Ports {
					names[netip.AddrPortFrom(e.Addr, p.Port)] = e.Target
				}
			}
		}
	}
	return names
}
