// SPDX-License-Identifier: Apache-2.0

// Package health answers those who ask whether this node serves Services: load
// balancers and the kubelet on kube-proxy's ports and in kube-proxy's words
// (pkg/proxy/healthcheck of Kubernetes 1.37), and one health check port for
// each Service that has one.
//
// What it says is what was last seen to work, not what was once switched on:
// beside kube-proxy's rule, that no change may wait too long, there are checks
// of the effect, which run all the time.
package health

import (
	"sync"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// Readiness knows whether this node can be sent traffic. It is safe for
// concurrent use.
type Readiness struct {
	now    func() time.Time
	checks *Checks

	mu       sync.Mutex
	timeout  time.Duration
	eligible bool
	families map[model.Family]progress
}

// progress is how far the writing of one family has come.
type progress struct {
	// updated is when everything known was last written; zero for never.
	updated time.Time
	// waiting is since when the oldest change waits; zero if none does.
	waiting time.Time
}

// late tells whether a change waits for too long.
func (p progress) late(now time.Time, timeout time.Duration) bool {
	return !p.waiting.IsZero() && now.Sub(p.waiting) >= timeout
}

// NewReadiness makes a Readiness for a node that is not eligible yet. A change
// may wait for timeout, which kube-proxy sets to twice its sync period. checks
// may be nil.
func NewReadiness(now func() time.Time, timeout time.Duration, checks *Checks) *Readiness {
	return &Readiness{now: now, checks: checks, timeout: timeout, families: map[model.Family]progress{}}
}

// SetTimeout changes how long a change may wait.
func (r *Readiness) SetTimeout(timeout time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timeout = timeout
}

// SetNodeEligible says whether load balancers may use this node: it is known,
// it is not being deleted, and the cluster autoscaler is not about to remove it
// (KEP-3836).
func (r *Readiness) SetNodeEligible(eligible bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eligible = eligible
}

// Queued says that there is a change which is not in the kernel yet. It may be
// said again while it waits.
func (r *Readiness) Queued(family model.Family) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.families[family]
	if p.waiting.IsZero() {
		p.waiting = r.now()
	}
	r.families[family] = p
}

// Updated says that every change known so far is in the kernel.
func (r *Readiness) Updated(family model.Family) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.families[family] = progress{updated: r.now()}
}

// Report is the state of a node at one moment.
type Report struct {
	Now time.Time
	// NodeEligible as said by SetNodeEligible.
	NodeEligible bool
	// Families says of each family that has anything to say how it stands.
	Families map[model.Family]FamilyReport
	// Failing lists the checks that do not pass, by name.
	Failing []Failure
}

// FamilyReport is the state of one address family.
type FamilyReport struct {
	// Updated is when everything known was last written; zero for never.
	Updated time.Time
	// InTime is false if a change waits for too long.
	InTime bool
}

// InTime tells whether no change waits for too long: kube-proxy's meaning of
// healthy, and of alive.
func (r Report) InTime() bool {
	for _, f := range r.Families {
		if !f.InTime {
			return false
		}
	}
	return true
}

// Healthy tells whether connections to Services work on this node, whether or
// not load balancers may send any.
func (r Report) Healthy() bool { return r.InTime() && len(r.Failing) == 0 }

// Report looks at everything now.
func (r *Readiness) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := Report{
		Now:          r.now(),
		NodeEligible: r.eligible,
		Families:     map[model.Family]FamilyReport{},
		Failing:      r.checks.Failing(),
	}
	for family, p := range r.families {
		late := p.late(report.Now, r.timeout)
		if p.updated.IsZero() && !late {
			continue // starting up counts as healthy, and says nothing
		}
		report.Families[family] = FamilyReport{Updated: p.updated, InTime: !late}
	}
	return report
}
