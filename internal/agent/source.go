// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/kube"
	"github.com/beeline-net/beeline/internal/source/manifest"
	"github.com/beeline-net/beeline/internal/source/object"
)

// source is what both sources offer.
type source interface {
	snapshot.Source
	// Problems lists what is wrong with objects or files at present.
	Problems() []object.Problem
}

// newSource makes the source that the configuration asks for.
func newSource(cfg config.Config, store *snapshot.Store, log *slog.Logger) (source, error) {
	if cfg.Manifests != "" {
		return manifest.New(manifest.Config{
			Dir: cfg.Manifests, NodeName: cfg.Node.Name, Store: store, Log: log,
		}), nil
	}
	kube.RouteLogs(log)
	rest, err := kube.Access{
		Kubeconfig:         cfg.Kubernetes.Kubeconfig,
		Server:             cfg.Kubernetes.Master,
		ContentType:        cfg.Kubernetes.ContentType,
		AcceptContentTypes: cfg.Kubernetes.AcceptContentTypes,
		QPS:                cfg.Kubernetes.QPS,
		Burst:              cfg.Kubernetes.Burst,
		UserAgent:          "beeline",
	}.Config()
	if err != nil {
		return nil, err
	}
	client, err := kube.NewClient(rest)
	if err != nil {
		return nil, err
	}
	return kube.New(kube.Config{
		Client: client, NodeName: cfg.Node.Name, Store: store, Log: log,
	}), nil
}
