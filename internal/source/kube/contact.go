// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// contactEvery is how often it is looked whether the API server is heard of.
const contactEvery = 5 * time.Second

// Explain says in the log what keeps the API server from being heard of: once
// each time that it is something else, and when it is over. It returns when ctx
// ends. The reflectors would say it with every attempt, and not why.
func (s *Source) Explain(ctx context.Context) error {
	silent := func(p Status) bool { return p.Heard.IsZero() || p.Err != nil }
	said, since := "", time.Time{}
	for pause := contactEvery / 10; ; pause = contactEvery {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if !slices.ContainsFunc(s.Status(), silent) {
			if said != "" {
				s.cfg.Log.Info("the API server is heard of again", "silent_for", time.Since(since).Round(time.Second))
			}
			said = ""
			continue
		}
		limited, cancel := context.WithTimeout(ctx, contactEvery)
		_, err := s.cfg.Client.Check(limited)
		cancel()
		if err == nil || ctx.Err() != nil || err.Error() == said {
			continue
		}
		if said == "" {
			since = time.Now()
		}
		said = err.Error()
		s.cfg.Log.Error("nothing is heard of the API server; what the kernel has goes on serving", "err", err)
	}
}

// hushed is a log in which reflectors' complaints are details: Explain says what
// there is to say.
type hushed struct{ slog.Handler }

func (h hushed) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "Failed to watch" {
		if r.Level = slog.LevelDebug; !h.Enabled(ctx, r.Level) {
			return nil
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h hushed) WithAttrs(attrs []slog.Attr) slog.Handler { return hushed{h.Handler.WithAttrs(attrs)} }

func (h hushed) WithGroup(name string) slog.Handler { return hushed{h.Handler.WithGroup(name)} }
