// SPDX-License-Identifier: Apache-2.0

// Package web shows the node's Services as a picture in a browser: frontends,
// backends, rates, states and reasons, live. It only shows; there is nothing
// to press that changes anything. All it needs is inside.
package web

import (
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/inspect"
)

//go:embed static
var static embed.FS

// refresh is how often a page is told what has changed.
const refresh = 2 * time.Second

// most is how many Service ports are shown at once; the page says how many more
// there are, and has a filter.
const most = 200

// Page serves the page and what it shows.
type Page struct {
	// Node is the node's name.
	Node string
	// Read reads the present state; it is called from any goroutine.
	Read func() (inspect.Overview, error)
	Log  *slog.Logger
}

// Handler serves everything below "/".
func (p Page) Handler() (http.Handler, error) {
	files, err := fs.Sub(static, "static")
	if err != nil {
		return nil, fmt.Errorf("files of the page: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /live", p.live)
	return guard(mux), nil
}

// guard keeps other sites' pages out: a name of theirs may lead to a loopback
// address, and their scripts may not run here.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && host != "localhost" {
			http.Error(w, "ask for this page by address, or as localhost", http.StatusForbidden)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// view is what the page gets.
type view struct {
	Node string `json:"node"`
	inspect.Overview
	// Total is how many Service ports match, of which the first are here.
	Total int `json:"total"`
}

// live sends a view every few seconds, as server-sent events, until the page is
// closed. The query q picks Services by a part of their name or an address.
func (p Page) live(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	_ = out.SetWriteDeadline(time.Time{}) // a page stays open for long
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	var before inspect.Overview
	for {
		now, err := p.Read()
		if err != nil {
			p.Log.Warn("the web page cannot be told what goes on", "err", err)
			return
		}
		now.Since(&before)
		before = now
		text, err := json.Marshal(p.pick(now, strings.ToLower(r.URL.Query().Get("q"))))
		if err != nil {
			p.Log.Warn("the web page cannot be told what goes on", "err", err)
			return
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", text); err != nil || out.Flush() != nil {
			return // closed
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// pick leaves what the page shows: what matches, trouble first, then by rate.
func (p Page) pick(o inspect.Overview, query string) view {
	v := view{Node: p.Node, Overview: o}
	v.Services = []inspect.Serving{}
	for _, s := range o.Services {
		if query == "" || matches(s, query) {
			v.Services = append(v.Services, s)
		}
	}
	v.Total = len(v.Services)
	slices.SortStableFunc(v.Services, func(a, b inspect.Serving) int {
		return cmp.Or(cmp.Compare(b.Rates.Refusals, a.Rates.Refusals), cmp.Compare(b.Rates.Connections, a.Rates.Connections))
	})
	v.Services = v.Services[:min(most, len(v.Services))]
	return v
}

func matches(s inspect.Serving, query string) bool {
	if strings.Contains(strings.ToLower(s.Namespace+"/"+s.Name+":"+s.Port.Port), query) {
		return true
	}
	return slices.ContainsFunc(s.Frontends, func(f inspect.Frontend) bool { return strings.Contains(f.Address, query) }) ||
		slices.ContainsFunc(s.Backends, func(b inspect.Backend) bool { return strings.Contains(b.Address, query) })
}
