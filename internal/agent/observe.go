// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/reconcile"
	"github.com/beeline-net/beeline/internal/snapshot"
)

type silent struct{}

func (silent) Synced(snapshot.Delta, reconcile.Stats, *plan.Planner, *reconcile.Reconciler) {}
