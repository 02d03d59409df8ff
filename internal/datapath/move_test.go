// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"os"
	"path/filepath"
	"testing"
)

// A link of an older layout takes its place in this one, but not that of a new
// link, which serves another cgroup than the old one.
func TestALinkOfAnOlderLayoutReplacesNoNewOne(t *testing.T) {
	older := Pins{root: t.TempDir(), version: 1}
	now := Pins{root: older.root, version: 2}
	check(t, older.create())
	check(t, now.create())
	put := func(p Pins, name string) {
		check(t, os.WriteFile(filepath.Join(p.links(), name), []byte(p.layout()), 0o600))
	}
	put(older, "alone")
	put(older, "both")
	put(now, "both")
	for _, name := range []string{"alone", "both", "neither"} {
		check(t, now.takeLink(name))
	}
	for name, want := range map[string]string{"alone": older.layout(), "both": now.layout()} {
		got, err := os.ReadFile(filepath.Join(now.links(), name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want the one of %s", name, got, err, want)
		}
	}
}
