// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzFile decodes any text as a file. It must not panic past the recover in
// decode, and a file without anything broken has only sound objects.
func FuzzFile(f *testing.F) {
	f.Add(service("a", "10.0.0.1")+"---\n"+slice("a-1", "a", "10.1.0.1"), true)
	f.Add("%YAML 1.1\n--- {apiVersion: v1, kind: List, items: [{kind: Pod}, &x {a: *x}]}\n...\n", true)
	f.Add(`{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"},"spec":{"clusterIP":"::1"}},{}]} {}`, false)
	f.Add("<<: &a {kind: Service, apiVersion: v1}\nx: !!binary aGk=\n? [1,2]\n: y\n", true)
	f.Add("apiVersion: v1\nkind: Node\nmetadata: {name: n1, creationTimestamp: null}\nstatus: {capacity: {cpu: 1e9999}}\n", true)
	f.Fuzz(func(t *testing.T, text string, asYAML bool) {
		if !utf8.ValidString(text) || len(text) > 1<<16 {
			return // refused before
		}
		name := "f.json"
		if asYAML {
			name = "f.yaml"
		}
		docs, err := split(name, []byte(text))
		for _, d := range docs {
			d.decode("n1", nil)
			for _, p := range d.broken {
				if strings.Contains(p.Message, "parser: ") {
					t.Errorf("panic: %v", p)
				}
			}
		}
		if err != nil {
			return
		}
		c, broken := collect(docs, nil)
		if (c == nil) != (len(broken) > 0) {
			t.Errorf("content %v, broken %v", c, broken)
		}
		if c == nil {
			return
		}
		for k, v := range c.objects {
			if (v.service == nil) && (v.slice == nil) && (v.node == nil) || k.name.Name == "" {
				t.Errorf("%v: %+v", k, v)
			}
		}
	})
}
