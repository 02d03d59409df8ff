// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// optOuts leaves the sockets alone of pods that ask for it (pains A17). Kubelet
// makes a pod's cgroup after the API knows of the pod and before its first
// container runs, so what is not there yet is looked for again and again.
type optOuts struct {
	log *slog.Logger
	// set is datapath.SetOptOuts.
	set func(pods []string) (missing []string, err error)
	// pods takes the UIDs of all that opt out, whenever they are others.
	pods chan []string
	// soon is how long a new pod is looked for at short intervals; after that it
	// is one that does not start, and is looked for at long ones.
	soon, short, long time.Duration
}

func newOptOuts(set func([]string) ([]string, error), log *slog.Logger) *optOuts {
	return &optOuts{
		log: log, set: set, pods: make(chan []string),
		soon: time.Minute, short: 50 * time.Millisecond, long: 2 * time.Second,
	}
}

// start follows the pods that from tells of, until ctx ends; nil: nobody tells.
func (o *optOuts) start(ctx context.Context, g *errgroup.Group, from func(context.Context, chan<- []string) error) {
	if from == nil {
		return
	}
	g.Go(func() error { return o.run(ctx) })
	g.Go(func() error { return from(ctx, o.pods) })
}

// run works until ctx ends.
func (o *optOuts) run(ctx context.Context) error {
	var pods []string
	var since time.Time
	var again <-chan time.Time
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case pods = <-o.pods:
			since = time.Now()
			o.log.Info("pods whose sockets are left alone", "pods", len(pods))
		case <-again:
		}
		missing, err := o.set(pods)
		if err != nil && !failing {
			o.log.Warn("cannot leave the sockets of some pods alone", "err", err)
		}
		failing = err != nil
		again = nil
		switch {
		case err == nil && len(missing) == 0:
		case time.Since(since) < o.soon:
			again = time.After(o.short)
		default:
			again = time.After(o.long)
		}
	}
}
