// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/beeline-net/beeline/internal/podname"
	"github.com/beeline-net/beeline/internal/snapshot"
)

// podNames lists the pods behind all endpoints.
func podNames(store *snapshot.Store) podname.Names {
	names := podname.Names{}
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

// tellNames answers who asks for names of pods, until ctx ends. That it cannot
// is no reason to stop: the command line shows addresses then.
func tellNames(ctx context.Context, bpffs string, store *snapshot.Store, log *slog.Logger) {
	err := podname.Serve(ctx, bpffs, func() podname.Names { return podNames(store) })
	if err != nil {
		log.Warn("the command line will show addresses instead of names of pods", "err", err)
	}
}
