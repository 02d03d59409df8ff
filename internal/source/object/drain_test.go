// SPDX-License-Identifier: Apache-2.0

package object

import (
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

func TestDrainAnnotation(t *testing.T) {
	for value, want := range map[string]struct {
		drain   model.Drain
		problem bool
	}{
		"keep":      {},
		"reset":     {drain: model.Drain{Reset: true}},
		"reset:30s": {drain: model.Drain{Reset: true, After: 30 * time.Second}},
		"reset:-1s": {problem: true},
		"reset:":    {problem: true},
		"drop":      {problem: true},
		"":          {problem: true},
	} {
		c := &checker{}
		got := c.drain(map[string]string{AnnotationDrain: value})
		if got != want.drain || (len(c.result()) > 0) != want.problem {
			t.Errorf("%q: %+v, %v", value, got, c.result())
		}
		if want.problem && !strings.Contains(c.result()[0].Message, AnnotationDrain) {
			t.Errorf("%q: %v does not name the annotation", value, c.result())
		}
	}
	if got := (&checker{}).drain(nil); got != (model.Drain{}) {
		t.Errorf("without one: %+v", got)
	}
}
