// SPDX-License-Identifier: Apache-2.0

package config

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the reference page")

func TestReferencePage(t *testing.T) {
	const page = "../../docs/reference/configuration.md"
	if *update {
		if err := os.MkdirAll("../../docs/reference", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(page, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(committed), Reference()); diff != "" {
		t.Errorf("%s is out of date; run go generate ./internal/config (-committed +generated):\n%s", page, diff)
	}
}
