// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"sync"
)

// Gate opens and closes servers, while somebody else needs their ports. The zero
// Gate is open, and so is a nil one. It is safe for concurrent use.
type Gate struct {
	mu     sync.Mutex
	closed bool
	// changed is closed with the next change; nil: nobody waits.
	changed chan struct{}
}

// Set opens or closes it.
func (g *Gate) Set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed == !open {
		return
	}
	g.closed = !open
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// look returns whether it is open, and what is closed when that changes.
func (g *Gate) look() (open bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return !g.closed, g.changed
}

// await waits until it is open, and returns a context that ends when it closes, or
// with ctx. The caller ends it.
func (g *Gate) await(ctx context.Context) (context.Context, context.CancelFunc) {
	within, cancel := context.WithCancel(ctx)
	for g != nil && ctx.Err() == nil {
		open, changed := g.look()
		if open {
			go func() {
				select {
				case <-changed:
					cancel()
				case <-within.Done():
				}
			}()
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return within, cancel
}
