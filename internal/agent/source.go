// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"net/url"

	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/kube"
	"github.com/beeline-net/beeline/internal/source/manifest"
	"github.com/beeline-net/beeline/internal/source/object"
)

// source is where Services come from, and whom to tell about them.
type source struct {
	snapshot.Source
	// problems lists what is wrong with objects or files at present.
	problems func() []object.Problem
	// event tells people about a Service that exists. It does not block, and
	// may be called from any goroutine.
	event func(service model.Name, reason, message string)
	// also are what runs beside the Source until ctx ends.
	also []func(ctx context.Context) error
	// servers learns where the API servers are; nil where there are none.
	servers serverBook
	// optOuts sends the UIDs of the pods whose sockets are to be left alone, all
	// of them whenever they are others, until ctx ends; nil if nobody may ask.
	optOuts func(ctx context.Context, pods chan<- []string) error
	// server is the API server's address as far as the configuration tells; zero
	// if it names the server, or there is none.
	server netip.Addr
	// stated tells of Services as they are written, proxied or not; from says
	// in words who tells.
	stated func(context.Context, model.Name, func(*model.Stated) bool) ([]model.Stated, error)
	from   string
}

// run works until ctx ends.
func (s source) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range append(s.also, s.Run) {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// newSource makes the source that the configuration asks for.
func newSource(cfg config.Config, store *snapshot.Store, log *slog.Logger) (source, error) {
	if cfg.Manifests != "" {
		m := manifest.New(manifest.Config{Dir: cfg.Manifests, NodeName: cfg.Node.Name, Store: store, Log: log})
		return source{
			Source: m, problems: m.Problems, event: func(model.Name, string, string) {},
			from: "the agent, from folder " + cfg.Manifests,
			stated: func(_ context.Context, _ model.Name, want func(*model.Stated) bool) ([]model.Stated, error) {
				return manifest.Stated(cfg.Manifests, want)
			},
		}, nil
	}
	kube.RouteLogs(log)
	found, err := kube.Access{
		Kubeconfig:         cfg.Kubernetes.Kubeconfig,
		Server:             cfg.Kubernetes.Master,
		Search:             cfg.Kubernetes.AddressFrom,
		ContentType:        cfg.Kubernetes.ContentType,
		AcceptContentTypes: cfg.Kubernetes.AcceptContentTypes,
		QPS:                cfg.Kubernetes.QPS,
		Burst:              cfg.Kubernetes.Burst,
		UserAgent:          "beeline",
	}.Config()
	if err != nil {
		return source{}, err
	}
	servers, err := kube.NewServers(found, cfg.Kubernetes.ServerCache, log)
	if err != nil {
		return source{}, err
	}
	log.Info("API server", "address", found.Host, "from", found.From, "known", servers.Learned())
	client, err := kube.NewClient(found.Config)
	if err != nil {
		return source{}, err
	}
	reads := kube.Config{Client: client, NodeName: cfg.Node.Name, Store: store, Log: log}
	k := kube.New(reads)
	events := kube.NewEvents(client, cfg.Node.Name, log)
	return source{
		from: "the agent, from the API server", stated: client.Stated,
		Source: k, problems: k.Problems, server: hostAddr(found.Host), servers: servers,
		also:    []func(context.Context) error{events.Run, servers.Run, k.Explain},
		optOuts: optOutsOf(cfg, reads),
		event: func(name model.Name, reason, message string) {
			if service, _ := store.Service(name); service != nil {
				events.Warn(name, service.UID, reason, message)
			}
		},
	}, nil
}

// optOutsOf is source.optOuts of a cluster.
func optOutsOf(cfg config.Config, reads kube.Config) func(context.Context, chan<- []string) error {
	if !cfg.Datapath.SocketOptOut {
		return nil
	}
	return func(ctx context.Context, pods chan<- []string) error {
		return kube.NewOptOuts(reads, func(uids []string) {
			select {
			case pods <- uids:
			case <-ctx.Done():
			}
		}).Run(ctx)
	}
}

// hostAddr is the address in "https://192.0.2.1:6443", or in "192.0.2.1:6443".
func hostAddr(server string) netip.Addr {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		u, err = url.Parse("//" + server)
	}
	if err != nil {
		return netip.Addr{}
	}
	addr, _ := netip.ParseAddr(u.Hostname()) // a name is no address of its own
	return addr
}
