// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// retryListen is how often a server tries again to listen. The usual reason is
// a kube-proxy that still runs.
const retryListen = time.Second

// headerTimeout ends connections that never ask anything.
const headerTimeout = 10 * time.Second

// Server serves HTTP on one address.
type Server struct {
	// Name is for messages: "health", "metrics".
	Name string
	// Addr is where it listens; not valid means that it does not.
	Addr    netip.AddrPort
	Handler http.Handler
	// Gate tells when the address may be had; nil: always.
	Gate *Gate
	// HardFail makes Run return if it cannot listen, instead of trying again.
	HardFail bool
	// Failed learns why it cannot listen, once for each reason; may be nil.
	Failed func(error)
	Log    *slog.Logger
}

// Run serves until ctx ends. It returns an error only if HardFail is set.
func (s Server) Run(ctx context.Context) error {
	if !s.Addr.IsValid() {
		<-ctx.Done()
		return nil
	}
	reported := ""
	for {
		open, closed := s.Gate.await(ctx)
		if ctx.Err() != nil {
			return nil
		}
		err := s.serve(open)
		yields := open.Err() != nil
		closed()
		if ctx.Err() != nil {
			return nil
		}
		if yields {
			s.Log.Info("a port is left to kube-proxy", "server", s.Name, "address", s.Addr)
			continue
		}
		err = fmt.Errorf("%s server on %s: %w", s.Name, s.Addr, err)
		if err.Error() != reported {
			reported = err.Error()
			s.Log.Error("cannot serve", "err", err)
			if s.Failed != nil {
				s.Failed(err)
			}
		}
		if s.HardFail {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryListen):
		}
	}
}

// serve listens and serves until ctx ends or something breaks.
func (s Server) serve(ctx context.Context) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Addr.String())
	if err != nil {
		return err
	}
	s.Log.Info("serving", "server", s.Name, "address", s.Addr)
	server := newHTTPServer(named(s.Handler))
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	return server.Serve(listener)
}

// serverHeader tells Beeline's answers from kube-proxy's at the same address.
const serverHeader = "beeline"

// named says who answers.
func named(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", serverHeader)
		h.ServeHTTP(w, r)
	})
}

func newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
}

// listen opens a port of one family only, so that the other can be somebody
// else's.
func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	network := "tcp4"
	if model.FamilyOf(at.Addr()) == model.IPv6 {
		network = "tcp6"
	}
	return new(net.ListenConfig).Listen(ctx, network, at.String())
}

// ended is Serve's error, unless the server was closed on purpose.
func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
