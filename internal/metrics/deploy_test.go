// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// What is shipped for Prometheus and Grafana must ask for metrics and labels
// that there are: nothing else would notice a panel that stays empty.
func TestShippedQueriesAskForWhatThereIs(t *testing.T) {
	_, all := describe(prometheus.NewRegistry(), Build{}, Reads{})
	labels := map[string][]string{}
	known := []string{"instance", "job", "le"}
	for _, d := range all {
		known = append(known, d.labels...)
		names := []string{d.name}
		if d.kind == "histogram" {
			names = []string{d.name + "_bucket", d.name + "_sum", d.name + "_count"}
		}
		for _, name := range names {
			labels[name] = d.labels
		}
	}
	metric := regexp.MustCompile(`\b(?:beeline|kubeproxy)_[a-z_]+\b(\{[^}]*\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	by := regexp.MustCompile(`\bby \(([^)]*)\)`)
	for file, atLeast := range map[string]int{"../../deploy/helm/beeline/files/dashboard.json": 20, "../../deploy/helm/beeline/files/alerts.yaml": 10} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") {
			var any map[string]any
			if err := json.Unmarshal(text, &any); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
		plain := strings.ReplaceAll(string(text), `\"`, `"`)
		uses := metric.FindAllStringSubmatch(plain, -1)
		if len(uses) < atLeast {
			t.Errorf("%s: found only %d uses of metrics", file, len(uses))
		}
		for _, use := range uses {
			name := strings.TrimSuffix(use[0], use[1])
			has, ok := labels[name]
			if !ok {
				t.Errorf("%s: there is no metric %s", file, name)
			}
			for _, m := range matcher.FindAllStringSubmatch(use[1], -1) {
				if !slices.Contains(has, m[1]) && m[1] != "instance" && m[1] != "job" {
					t.Errorf("%s: %s has no label %s", file, name, m[1])
				}
			}
		}
		for _, list := range by.FindAllStringSubmatch(plain, -1) {
			for label := range strings.SplitSeq(list[1], ",") {
				if !slices.Contains(known, strings.TrimSpace(label)) {
					t.Errorf("%s: by (%s): no metric has this label", file, strings.TrimSpace(label))
				}
			}
		}
	}
}
