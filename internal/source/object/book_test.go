// SPDX-License-Identifier: Apache-2.0

package object

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBookReportsEachProblemOnceUntilItIsGone(t *testing.T) {
	var log bytes.Buffer
	var reported []string
	b := NewBook(slog.New(slog.NewTextHandler(&log, nil)), func(p Problem) { reported = append(reported, p.Message) })
	x, y := Problem{"Service a/b", "x"}, Problem{"Service a/b", "y"}

	b.Set("Service a/b", []Problem{x})
	b.Set("Service a/b", []Problem{x})
	b.Set("Service a/b", []Problem{x, y})
	b.Set("Service a/a", []Problem{{"Service a/a", "z"}})
	if diff := cmp.Diff([]string{"x", "y", "z"}, reported); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Problem{{"Service a/a", "z"}, x, y}, b.All()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"Service a/a", "Service a/b"}, b.Keys("Service a/")); diff != "" {
		t.Error(diff)
	}

	b.Set("Service a/b", nil)
	b.Set("Service a/b", nil)
	if got := strings.Count(log.String(), "problem gone"); got != 1 {
		t.Errorf("gone %d times:\n%s", got, log.String())
	}
	b.Set("Service a/b", []Problem{x})
	if len(reported) != 4 {
		t.Errorf("not reported when it came back: %v", reported)
	}
}
