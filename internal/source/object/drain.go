// SPDX-License-Identifier: Apache-2.0

package object

import (
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// AnnotationDrain on a Service says what becomes of the TCP connections of an
// endpoint that takes no new ones any more: "keep" them, as kube-proxy does;
// "reset" them at once; or "reset:30s", after that time.
const AnnotationDrain = "beeline.dev/drain"

func (c *checker) drain(annotations map[string]string) model.Drain {
	value, ok := annotations[AnnotationDrain]
	if !ok || value == "keep" {
		return model.Drain{}
	}
	if value == "reset" {
		return model.Drain{Reset: true}
	}
	if text, ok := strings.CutPrefix(value, "reset:"); ok {
		if after, err := time.ParseDuration(text); err == nil && after >= 0 {
			return model.Drain{Reset: true, After: after}
		}
	}
	c.addf("metadata.annotations[%s]: %s: must be keep, reset, or reset:TIME such as reset:30s; taken for keep", AnnotationDrain, quote(value))
	return model.Drain{}
}
