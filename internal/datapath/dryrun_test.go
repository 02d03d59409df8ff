// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"strings"
	"testing"

	"github.com/beeline-net/beeline/internal/abi"
)

// Whoever gives the programs another map has to say whether a dry run reads the
// node's: left out here it would be silently empty, or silently written.
func TestADryRunKnowsEveryMap(t *testing.T) {
	ofItsOwn := []string{
		abi.MapCounters, abi.MapICMPTokens, abi.MapFragments, abi.MapFragmentTokens, "icmp_quote", "icmp_work", "balance_work",
		abi.MapListeners, abi.MapEventRings, abi.MapServiceCounts, abi.MapServiceRefused,
	}
	spec, err := loadTc()
	if err != nil {
		t.Fatal(err)
	}
	dropUnused(spec)
	for name := range spec.Maps {
		reads, own := slices.Contains(dryRunReads, name), slices.Contains(ofItsOwn, name)
		if reads == own && !strings.HasPrefix(name, ".") {
			t.Errorf("map %s: put it into dryRunReads if a dry run looks at the node's (and guard every store to it with config_dry_run), else into this list", name)
		}
	}
	for _, name := range append(ofItsOwn, dryRunReads...) {
		if spec.Maps[name] == nil {
			t.Errorf("map %s: no program has it any more", name)
		}
	}
}
