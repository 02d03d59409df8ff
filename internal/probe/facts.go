// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"

	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/source/kube"
	"github.com/beeline-net/beeline/internal/source/manifest"
)

// Objects is where to learn of objects; without either, from the running agent.
type Objects struct {
	Manifests  string
	Kubeconfig string
	// Node and Zone are this node's, where the agent does not tell.
	Node, Zone string
}

// Facts fetches what a question needs; nil where no agent runs and nobody else is
// named.
func (o Objects) Facts(ctx context.Context, pins datapath.Pins, q explain.Query) (*explain.Facts, error) {
	switch {
	case o.Manifests != "":
		stated, err := manifest.Stated(o.Manifests, q.Wants)
		if err != nil {
			return nil, err
		}
		return &explain.Facts{From: "folder " + o.Manifests, Node: o.Node, Zone: o.Zone, Stated: stated}, nil
	case o.Kubeconfig != "":
		return o.fromServer(ctx, q)
	}
	return fromAgent(ctx, pins, q)
}

func (o Objects) fromServer(ctx context.Context, q explain.Query) (*explain.Facts, error) {
	found, err := kube.Access{Kubeconfig: o.Kubeconfig, UserAgent: "beeline explain"}.Config()
	if err != nil {
		return nil, err
	}
	client, err := kube.NewClient(found.Config)
	if err != nil {
		return nil, err
	}
	stated, err := client.Stated(ctx, q.Only(), q.Wants)
	if err != nil {
		return nil, err
	}
	return &explain.Facts{From: "the API server", Node: o.Node, Zone: o.Zone, Stated: stated}, nil
}

// fromAgent asks the agent that owns the pins.
func fromAgent(ctx context.Context, pins datapath.Pins, q explain.Query) (*explain.Facts, error) {
	name, err := pins.SocketName()
	if err != nil {
		return nil, err
	}
	var f explain.Facts
	err = agentsocket.Get(ctx, name, agentsocket.FactsPath, q.Values(), &f)
	if errors.Is(err, agentsocket.ErrNobody) {
		return nil, nil //nolint:nilnil // nobody to ask, and that is no error
	}
	if err != nil {
		return nil, err
	}
	return &f, nil
}
