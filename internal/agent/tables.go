// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/beeline-net/beeline/internal/reconcile"
)

// tablesCheck is the outcome of the last time that the kernel's tables were
// read back. It is a health.Check.
type tablesCheck struct{ last atomic.Pointer[error] }

// Name implements health.Check.
func (t *tablesCheck) Name() string { return "tables" }

// Run implements health.Check.
func (t *tablesCheck) Run(context.Context) error {
	if err := t.last.Load(); err != nil {
		return *err
	}
	return nil // not looked at yet: they have just been written
}

// verify reads everything back and repairs what somebody else has changed
// (pains A12). The health check "tables" says what could not be repaired.
func (l *loop) verify(ctx context.Context) {
	if err := l.tables.ForgetListeners(); err != nil {
		l.log.Warn("listeners that are gone could not be forgotten", "err", err)
	}
	drift, err := l.reconcile.Verify(ctx)
	if errors.Is(err, reconcile.ErrBusy) {
		return // what is under way is reported anyway
	}
	if len(drift) > 0 {
		l.report.metrics.Drifted(len(drift))
		l.log.Warn("kernel tables are not as they were left; repairing", "entries", len(drift),
			"first", drift[0].Object, "table", drift[0].Table, "service", drift[0].Service)
		_, err = l.reconcile.Repair(ctx)
	}
	if err != nil {
		l.log.Warn("kernel tables could not be verified", "err", err)
		err = fmt.Errorf("verify the kernel's tables: %w", err)
	}
	l.verified.last.Store(&err)
}
