// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/beeline-net/beeline/internal/snapshot"
)

// Status is how fresh one part of the state is. An API server sends a bookmark
// about every minute and ends a watch after ten, so a part that has not been
// heard of for longer is stale, whatever it looks like.
type Status struct {
	Part snapshot.Part
	// Heard is when the API server last said something about this part: a
	// list, a watch that began, an event or a bookmark. Zero: never.
	Heard time.Time
	// Err is why the last request failed; nil if it did not, or if something
	// has been heard since.
	Err error
}

// link remembers how one reflector gets on with the API server.
type link struct {
	mu   sync.Mutex
	last time.Time
	err  error
}

func (l *link) heard() { l.note(nil) }

func (l *link) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.last = time.Now()
	}
	l.err = err
}

func (l *link) status(part snapshot.Part) Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{Part: part, Heard: l.last, Err: l.err}
}

// observe notes how each request ended. Once ctx has ended it says nothing
// more, and hands out a silent watch, since the reflector would log the
// cancelled one as an error.
func observe(l *link, lw *cache.ListWatch) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContext(ctx, o)
			if ctx.Err() == nil {
				l.note(err)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchWithContext(ctx, o)
			if err != nil && ctx.Err() != nil {
				return watch.NewFake(), nil
			}
			l.note(err)
			return w, err
		},
	}
}
