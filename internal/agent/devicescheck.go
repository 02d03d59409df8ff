// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/beeline-net/beeline/internal/health"
)

const (
	// devicesPeriod is the age at which what was seen of the devices counts no
	// more: looking at hundreds of pods' devices is work.
	devicesPeriod = 5 * time.Second
	// repairTime is how long the loop may take to put programs back.
	repairTime = time.Second
)

// devicesCheck looks whether programs are where they were put: nothing tells us
// that somebody took them off. It asks the loop to put them back, and fails if
// that does not help. It is a health.Check.
type devicesCheck struct {
	look func() error
	// ask tells the loop, which is busy already if it cannot take it.
	ask chan<- struct{}
	now func() time.Time
	// seen is when all was well last.
	seen time.Time
}

// checks are those of the packet path; none if there is no packet path.
func (p *packetPath) checks() []health.Check {
	if p == nil {
		return nil
	}
	return []health.Check{&devicesCheck{look: p.devices.Check, ask: p.missing, now: time.Now}}
}

// Name implements health.Check.
func (c *devicesCheck) Name() string { return "devices" }

// Run implements health.Check.
func (c *devicesCheck) Run(ctx context.Context) error {
	if c.now().Sub(c.seen) < devicesPeriod {
		return nil
	}
	err := c.look()
	if err != nil {
		err = c.repaired(ctx)
	}
	if err == nil {
		c.seen = c.now()
	}
	return err
}

// repaired asks for the repair and waits for it.
func (c *devicesCheck) repaired(ctx context.Context) (err error) {
	select {
	case c.ask <- struct{}{}:
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return c.look()
		case <-time.After(repairTime / 20):
		}
		if err = c.look(); err == nil {
			return nil
		}
	}
}

// wanted tells that the devices are to be looked at.
func (p *packetPath) wanted() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.missing
}
