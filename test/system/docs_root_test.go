// SPDX-License-Identifier: Apache-2.0

package system

import (
	"os"
	"path/filepath"
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
		line, _, _ = strings.Cut(line, " #")
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "beeline" || !strings.HasPrefix(line, "beeline ") {
			continue
		}
		for i, w := range words {
			switch w {
			case "/etc/beeline/services":
				words[i] = n.manifests
			case "web.pcap":
				words[i] = filepath.Join(t.TempDir(), w)
			}
		}
		if words[1] == "check" {
			words = append(words, "--cgroup-root", n.Cgroup.Path)
		}
		if words[1] == "capture" { // goes on until it is stopped, and there may be nothing
			words = append(words, "--for", "500ms")
		}
		out, errs, status := n.split(words[1:]...)
		if words[1] == "capture" {
			out += errs
		}
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
