// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/web"
)

// webPage is what a browser gets from the debug address.
func webPage(c config.Config, t *maps.Tables, store *snapshot.Store, log *slog.Logger) (http.Handler, error) {
	page := web.Page{Node: c.Node.Name, Log: log, Read: func() (o inspect.Overview, err error) {
		timeouts, err := datapath.FlowTimeouts(datapath.NewPins(c.Kernel.BPFFS))
		if err != nil {
			return o, err
		}
		pods := podNames(store)
		return inspect.ReadOverview(t, func(at netip.AddrPort) string { return pods[at] }, timeouts, time.Now())
	}}
	handler, err := page.Handler()
	if err != nil {
		return nil, fmt.Errorf("web page: %w", err)
	}
	return handler, nil
}
