// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write deploy/beeline.yaml and the chart's README.md")

const manifestHeader = `# SPDX-License-Identifier: Apache-2.0
#
# Beeline on a cluster that kubeadm made: kubectl apply -f deploy/beeline.yaml
#
# It takes the place of kube-proxy and uses what kube-proxy has: its ClusterRole
# (system:node-proxier, part of every cluster) and its ConfigMap, which tells the
# address of the API server and how the cluster's Services are to be treated.
# That address must not be a Service's: there are none before Beeline runs.
#
# Rendered from deploy/helm/beeline by "go generate ./test/chart"; do not edit.
`

// helmsOwn are the lines that only Helm has a use for.
var helmsOwn = regexp.MustCompile(`(?m)^(# Source: .*| *helm\.sh/chart: .*| *app\.kubernetes\.io/managed-by: .*)\n`)

func TestGeneratedFiles(t *testing.T) {
	rendered := manifestHeader + helmsOwn.ReplaceAllString(mustRender(t, ""), "")
	compare(t, "../../deploy/beeline.yaml", rendered)

	readme, err := os.ReadFile(dir + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(readme), tableStart)
	if !ok {
		t.Fatalf("README.md has no line %q", tableStart)
	}
	compare(t, dir+"/README.md", before+tableStart+valuesTable(t))
}

func compare(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), want); diff != "" {
		t.Errorf("%s is out of date; run go generate ./test/chart (-committed +generated):\n%s", path, diff)
	}
}

const tableStart = "<!-- Below: generated from values.yaml and values.schema.json by go generate ./test/chart -->\n"

// schema is the part of JSON Schema that the table shows.
type schema struct {
	Description string            `json:"description"`
	Properties  map[string]schema `json:"properties"`
}

// valuesTable lists every value with its default. Each needs a description.
func valuesTable(t *testing.T) string {
	t.Helper()
	var s schema
	var values map[string]any
	read(t, "values.schema.json", func(b []byte) error { return json.Unmarshal(b, &s) })
	read(t, "values.yaml", func(b []byte) error { return yaml.Unmarshal(b, &values) })
	var b strings.Builder
	b.WriteString("\n| value | default | what it is |\n| --- | --- | --- |\n")
	delete(s.Properties, "global") // Helm's own
	rows(t, &b, "", s, values)
	return b.String()
}

func rows(t *testing.T, b *strings.Builder, path string, s schema, value any) {
	t.Helper()
	if len(s.Properties) == 0 {
		preset, err := json.Marshal(value)
		if err != nil || s.Description == "" {
			t.Errorf("value %s: description %q, default %v, %v", path, s.Description, value, err)
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s |\n", path, preset, s.Description)
		return
	}
	have, _ := value.(map[string]any)
	for name := range have {
		if _, ok := s.Properties[name]; !ok {
			t.Errorf("values.yaml has %s.%s, the schema has not", path, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if _, ok := have[name]; !ok {
			t.Errorf("values.yaml has no %s.%s", path, name)
		}
		rows(t, b, strings.TrimPrefix(path+"."+name, "."), s.Properties[name], have[name])
	}
}

func read(t *testing.T, name string, into func([]byte) error) {
	t.Helper()
	b, err := os.ReadFile(dir + "/" + name)
	if err == nil {
		err = into(b)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
