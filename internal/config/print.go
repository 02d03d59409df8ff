// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// Document is the configuration in the form of an AgentConfiguration file, for
// encoding as JSON.
func (c Config) Document() map[string]any {
	doc := map[string]any{"apiVersion": APIVersion, "kind": Kind}
	for _, f := range fields() {
		at := doc
		groups := strings.Split(f.path, ".")
		for _, g := range groups[:len(groups)-1] {
			below, ok := at[g].(map[string]any)
			if !ok {
				below = map[string]any{}
				at[g] = below
			}
			at = below
		}
		at[groups[len(groups)-1]] = f.value.get(&c)
	}
	return doc
}

// YAML is the configuration as an AgentConfiguration file with comments, for
// --write-config-to.
func (c Config) YAML() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\n", APIVersion, Kind)
	group := ""
	for _, f := range fields() {
		above, name, nested := strings.Cut(f.path, ".")
		indent := ""
		if nested {
			indent = "  "
		} else {
			above, name = "", f.path
		}
		if above != group && above != "" {
			fmt.Fprintf(&b, "\n%s:\n", above)
		}
		group = above
		for _, line := range wrap(strings.ReplaceAll(f.doc, "`", ""), 76) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, name, quote(f.value.get(&c)))
	}
	return []byte(b.String())
}

// wrap breaks text into lines of at most width bytes, if its words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
