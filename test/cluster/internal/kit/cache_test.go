// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestOnce: a thing is made once, and a half-made one is never taken for it.
func TestOnce(t *testing.T) {
	c := Cache(t.TempDir())
	var made int
	broken := errors.New("interrupted")
	build := func(result error) func(string) error {
		return func(dir string) error {
			made++
			if found, _ := filepath.Glob(filepath.Join(dir, "*")); len(found) != 0 {
				t.Errorf("the folder is not empty: %v", found)
			}
			return errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), result)
		}
	}
	if _, err := c.once("thing", build(broken)); !errors.Is(err, broken) {
		t.Fatalf("err = %v", err)
	}
	for range 2 {
		dir, err := c.once("thing", build(nil))
		if err != nil {
			t.Fatal(err)
		}
		if !exists(filepath.Join(dir, "file")) {
			t.Error("the file is missing")
		}
	}
	if made != 2 {
		t.Errorf("made %d times, want once broken and once whole", made)
	}
}
