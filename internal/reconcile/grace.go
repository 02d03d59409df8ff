// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"

	"github.com/beeline-net/beeline/internal/abi"
)

// retired is what no table refers to any more, but programs that started
// before may still be using.
type retired struct {
	ports    []*port
	backends []uint32
	slots    []extent
	// sets are those of living ports that no frontend uses any more.
	sets []portSet
	// guards are living ports of which no frontend asks for source ranges.
	guards []*port
}

// portSet is one of a port's sets.
type portSet struct {
	port *port
	kind abi.SetKind
}

func (b *retired) empty() bool {
	return len(b.ports)+len(b.backends)+len(b.slots)+len(b.sets)+len(b.guards) == 0
}

// grace keeps what is retired until a grace period has passed: until every
// program has ended that ran when it was retired. Waiting happens in the
// background; what is retired meanwhile waits for the next period.
type grace struct {
	wait func(context.Context) error

	collecting *retired      // waits for the next period
	waiting    *retired      // the present period's; nil if none runs
	ended      chan error    // the result of the present period
	wake       chan struct{} // has an element once a period has ended
	ctx        context.Context
	cancel     context.CancelFunc
}

func newGrace(wait func(context.Context) error) *grace {
	g := &grace{
		wait: wait, collecting: &retired{},
		ended: make(chan error, 1), wake: make(chan struct{}, 1),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

// idle is true if nothing is retired.
func (g *grace) idle() bool { return g.waiting == nil && g.collecting.empty() }

// start begins a period for what was collected, unless one runs.
func (g *grace) start() {
	if g.waiting != nil || g.collecting.empty() {
		return
	}
	g.waiting, g.collecting = g.collecting, &retired{}
	go func() {
		g.ended <- g.wait(g.ctx)
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}()
}

// take returns what has outlived its readers, or nil. It does not block.
func (g *grace) take() *retired {
	if g.waiting == nil {
		return nil
	}
	select {
	case err := <-g.ended:
		return g.finish(err)
	default:
		return nil
	}
}

// await is take, but waits for the present period to end; nil if there is none
// or ctx ends first.
func (g *grace) await(ctx context.Context) *retired {
	g.start()
	if g.waiting == nil {
		return nil
	}
	select {
	case err := <-g.ended:
		return g.finish(err)
	case <-ctx.Done():
		return nil
	}
}

func (g *grace) finish(err error) *retired {
	b := g.waiting
	g.waiting = nil
	if err != nil { // only when closing: keep it, nobody may reuse it
		g.collecting.add(b)
		return nil
	}
	return b
}

func (b *retired) add(o *retired) {
	b.ports = append(b.ports, o.ports...)
	b.backends = append(b.backends, o.backends...)
	b.slots = append(b.slots, o.slots...)
	b.sets = append(b.sets, o.sets...)
	b.guards = append(b.guards, o.guards...)
}

// close ends the background work.
func (g *grace) close() {
	g.cancel()
	if g.waiting != nil {
		g.finish(<-g.ended)
	}
}
