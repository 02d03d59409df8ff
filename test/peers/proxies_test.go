// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/beeline-net/beeline/internal/lab"
)

// build builds both proxies; kube-proxy from its own module's sources.
func build(t *testing.T) (kubeProxy, beeline string) {
	t.Helper()
	dir := t.TempDir()
	for _, b := range []struct {
		out         *string
		module, pkg string
		name        string
	}{
		{&kubeProxy, filepath.Join("..", "kubeproxy"), "./cmd/kube-proxy", "kube-proxy"},
		{&beeline, filepath.Join("..", ".."), "./cmd/beeline", "beeline"},
	} {
		*b.out = filepath.Join(dir, b.name)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", *b.out, b.pkg)
		cmd.Dir = b.module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", b.name, err, out)
		}
	}
	return kubeProxy, beeline
}

func proxies(t *testing.T) (theirs, ours proxy) {
	t.Helper()
	kubeProxy, beeline := build(t)
	theirs = proxy{"kube-proxy", func(_ *lab.Node, config string) *exec.Cmd {
		return exec.Command(kubeProxy, "--config", config)
	}}
	ours = proxy{"beeline", func(n *lab.Node, config string) *exec.Cmd {
		return exec.Command(beeline, "agent", "--config", config, "--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path, "--socket-opt-out")
	}}
	return theirs, ours
}
