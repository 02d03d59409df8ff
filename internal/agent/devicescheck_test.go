// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// One that is repaired in time never fails; one that cannot be repaired does.
func TestDevicesCheckAsksForRepair(t *testing.T) {
	gone := errors.New("device eth0: ingress: not attached any more")
	for name, repairs := range map[string]bool{"repaired": true, "cannot be repaired": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				missing, looks := make(chan struct{}, 1), 0
				var broken atomic.Bool
				c := &devicesCheck{ask: missing, now: time.Now, look: func() error {
					if looks++; broken.Load() {
						return gone
					}
					return nil
				}}
				run := func() error { return c.Run(context.Background()) }
				if err := run(); err != nil || looks != 1 {
					t.Fatalf("%v after %d looks", err, looks)
				}
				broken.Store(true)
				if err := run(); err != nil || looks != 1 {
					t.Errorf("%v after %d looks: it has looked just before", err, looks)
				}
				time.Sleep(devicesPeriod)
				go func() {
					<-missing
					time.Sleep(repairTime / 2)
					broken.Store(!repairs)
				}()
				if err := run(); (err == nil) != repairs {
					t.Errorf("the check says %v", err)
				}
			})
		})
	}
}
