// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// TestBeelineManifest is about what users apply: the harness must find the
// agent's container in it, and change nothing else.
func TestBeelineManifest(t *testing.T) {
	text, err := os.ReadFile("../../../../" + beelineManifest)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := addAgentArgs(string(text), "--cgroup-root=/elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	before, after := objects(t, string(text)), objects(t, changed)
	if len(before) != len(after) {
		t.Fatalf("%d objects became %d", len(before), len(after))
	}
	for i, o := range after {
		if o["kind"] != "DaemonSet" {
			continue
		}
		container := dig(o, "spec", "template", "spec", "containers").([]any)[0].(map[string]any)
		args := container["args"].([]any)
		if last := args[len(args)-1]; last != "--cgroup-root=/elsewhere" {
			t.Errorf("last argument is %v", last)
		}
		container["args"] = args[:len(args)-1]
		if got, want := marshal(t, o), marshal(t, before[i]); got != want {
			t.Errorf("more than the arguments changed: got\n%s\nwant\n%s", got, want)
		}
		return
	}
	t.Error("no DaemonSet")
}

func TestManifestsFill(t *testing.T) {
	c := &Cluster{cfg: Config{Dual: true}, kit: &kit.Kit{CoreDNSVersion: "v1", KubernetesVersion: "v1"}}
	for _, manifest := range []string{addonsManifest, kubeProxyManifest} {
		text, err := fill(manifest, c.values("nftables"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "{{") || strings.Contains(text, "<no value>") {
			t.Errorf("not filled:\n%s", text)
		}
		for _, o := range objects(t, text) {
			if o["kind"] == nil {
				t.Errorf("an object without a kind: %v", o)
			}
		}
	}
}

func objects(t *testing.T, manifests string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, document := range strings.Split(strings.TrimPrefix(manifests, "---\n"), "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	return all
}

func marshal(t *testing.T, o any) string {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
