// SPDX-License-Identifier: Apache-2.0

package system

import (
	"os"
	"strings"
	"testing"
)

// Every command of docs/troubleshooting.md, as it stands there, on a node where
// its names exist.
func TestTroubleshootingCommandsWork(t *testing.T) {
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	check(t, err)
	s := newStage(t, 1)
	n := s.nodes[0]
	a := s.server(n, "a")
	manifest := nodePortService("web", v4VIP, a)
	manifest = strings.ReplaceAll(manifest, "nodeName: node1}", "nodeName: node1, targetRef: {kind: Pod, name: client}}")
	n.write("web.yaml", manifest)
	n.start("--packet-path")
	ran := 0
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "beeline" || !strings.HasPrefix(line, "beeline ") {
			continue
		}
		for i, w := range words {
			if w == "/etc/beeline/services" {
				words[i] = n.manifests
			}
		}
		if words[1] == "check" {
			words = append(words, "--cgroup-root", n.Cgroup.Path)
		}
		out, errs, status := n.split(words[1:]...)
		if status != 0 && status != 4 || strings.TrimSpace(out) == "" {
			t.Errorf("%s: status %d: %s%s", strings.TrimSpace(line), status, out, errs)
		}
		if words[1] == "explain" && status != 0 {
			t.Errorf("%s: the connection of the example does not work: %s%s", strings.TrimSpace(line), out, errs)
		}
		ran++
	}
	if ran < 12 {
		t.Errorf("only %d commands were found", ran)
	}
}
