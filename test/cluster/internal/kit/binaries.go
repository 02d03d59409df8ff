// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kubernetesBinaries are built from k8s.io/kubernetes/cmd.
var kubernetesBinaries = []string{
	"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl", "kube-proxy",
}

// static builds binaries that need nothing from the root file system they run on.
var static = []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false"}

// buildKubernetes builds Kubernetes of the version that
// test/cluster/kubernetes/go.mod requires.
func (m *maker) buildKubernetes() (dir, version string, err error) {
	module := filepath.Join(m.tree, "test/cluster/kubernetes")
	version, err = m.moduleVersion(module, "k8s.io/kubernetes")
	if err != nil {
		return "", "", err
	}
	dir, err = m.cache.once("kubernetes-"+version, func(dir string) error {
		m.log.Info("building Kubernetes, about 12 minutes on 2 cores", "version", version)
		args := []string{"build", "-ldflags", "-s -w " + kubernetesVersionFlags(version), "-o", dir + "/"}
		for _, b := range kubernetesBinaries {
			args = append(args, "k8s.io/kubernetes/cmd/"+b)
		}
		_, err := command(m.ctx, module, static, "go", args...)
		return err
	})
	return dir, version, err
}

// kubernetesVersionFlags tells the binaries which version they are, as
// Kubernetes's own build does (hack/lib/version.sh).
func kubernetesVersionFlags(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			fmt.Sprintf("-X %s.gitVersion=%s -X %s.gitMajor=%s -X %s.gitMinor=%s", pkg, version, pkg, major, pkg, minor))
	}
	return strings.Join(flags, " ")
}

// buildCoreDNS builds test/cluster/coredns.
func (m *maker) buildCoreDNS() (dir, version string, err error) {
	module := filepath.Join(m.tree, "test/cluster/coredns")
	version, err = m.moduleVersion(module, "github.com/coredns/coredns")
	if err != nil {
		return "", "", err
	}
	dir, err = m.cache.once("coredns-"+version, func(dir string) error {
		m.log.Info("building CoreDNS", "version", version)
		_, err := command(m.ctx, module, static, "go", "build", "-ldflags", "-s -w", "-o", dir+"/", ".")
		return err
	})
	return dir, version, err
}

// buildPause builds the program of the pause image, part of the harness.
func (m *maker) buildPause() (string, error) {
	dir := m.cache.Path("pause")
	_, err := command(m.ctx, filepath.Join(m.tree, "test/cluster"), static, "go", "build", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/pause")
	return dir, err
}

// buildBeeline builds the work tree's Beeline; the Go build cache makes that
// cheap when nothing changed.
func (m *maker) buildBeeline() (string, error) {
	dir := m.cache.Path("beeline")
	_, err := command(m.ctx, m.tree, static, "go", "build", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/beeline")
	return dir, err
}

// moduleVersion is the version of a dependency in the module at dir.
func (m *maker) moduleVersion(dir, path string) (string, error) {
	return command(m.ctx, dir, nil, "go", "list", "-m", "-f", "{{.Version}}", path)
}

// FindTree returns the root of Beeline's work tree around the current folder.
func FindTree() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/beeline-net/beeline\n") {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the current folder is not in Beeline's work tree; use --tree")
}
