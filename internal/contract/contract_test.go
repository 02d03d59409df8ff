// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/plan"
)

// TestPlanAndOracleKeepTheContract holds the plan and its interpreter against
// every rule.
func TestPlanAndOracleKeepTheContract(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) { keeps(t, rule) })
	}
}

func keeps(t *testing.T, rule Rule) {
	t.Helper()
	o, problems, err := rule.Oracle()
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range rule.Asks {
		packet, err := ask.Packet()
		if err != nil {
			t.Fatalf("%+v: %v", ask, err)
		}
		answer := o.Ask(packet)
		if got := Outcome(answer); got != ask.Want {
			t.Errorf("%s: %s -> %s\n got %s\nwant %s\nsteps %q", rule.Name, ask.From, ask.To, got, ask.Want, answer.Steps)
		}
	}
	var reasons []plan.Reason
	for _, p := range problems {
		reasons = append(reasons, p.Reason)
	}
	if diff := cmp.Diff(rule.Problems, reasons); diff != "" {
		t.Errorf("%s: problems (-want +got):\n%s\n%v", rule.Name, diff, problems)
	}
}

// TestRulesAreToldApart: a rule is found by its name.
func TestRulesAreToldApart(t *testing.T) {
	seen := map[string]bool{}
	for _, rule := range Rules() {
		if seen[rule.Name] {
			t.Errorf("two rules are named %q", rule.Name)
		}
		seen[rule.Name] = true
		if len(rule.Asks) == 0 {
			t.Errorf("rule %q asks nothing", rule.Name)
		}
	}
}
