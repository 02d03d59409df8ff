// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// Reason says in one word why something was not planned. It is stable: the
// reason of an Event and the label of a metric.
type Reason string

// The reasons.
const (
	// AddressRefused: a frontend's address can never be a Service's.
	AddressRefused Reason = "AddressRefused"
	// AddressNotAllowed: the configuration does not let a Service have it.
	AddressNotAllowed Reason = "AddressNotAllowed"
	// AddressProtected: it belongs to a node or an API server (strict mode).
	AddressProtected Reason = "AddressProtected"
	// FrontendConflict: another Service (port) has the frontend already.
	FrontendConflict Reason = "FrontendConflict"
	// FrontendIsBackend: one of the Service's own endpoints is there, or, if it
	// is an ExternalIP, anybody's.
	FrontendIsBackend Reason = "FrontendIsBackend"
	// BackendRefused: an endpoint's address can never be one.
	BackendRefused Reason = "BackendRefused"
	// BackendIsFrontend: sending to that endpoint would translate again.
	BackendIsFrontend Reason = "BackendIsFrontend"
	// InvalidPort: a port's number is 0, or its name and protocol occur twice.
	InvalidPort Reason = "InvalidPort"
)

// Problem is a part of a Service that is not planned, and why. The rest of the
// Service works.
type Problem struct {
	Service model.Name
	Reason  Reason
	// Message is for people; it names the address and the rule.
	Message string
}

// Compare orders problems by Service, reason and message.
func (p Problem) Compare(o Problem) int {
	return cmp.Or(p.Service.Compare(o.Service), cmp.Compare(p.Reason, o.Reason), cmp.Compare(p.Message, o.Message))
}

// maxProblems bounds what is said about one Service: a slice may hold a
// thousand bad addresses.
const maxProblems = 20

// condense sorts problems, and leaves one of each and not too many.
func condense(problems []Problem) []Problem {
	slices.SortFunc(problems, Problem.Compare)
	problems = slices.Compact(problems)
	if more := len(problems) - maxProblems; more > 0 {
		last := problems[maxProblems]
		last.Message = fmt.Sprintf("%s (and %d more problems)", last.Message, more-1)
		problems = append(problems[:maxProblems], last)
	}
	return slices.Clip(problems)
}
