// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kubernetesBinaries are built from k8s.io/kubernetes/cmd for every cluster.
var kubernetesBinaries = []string{
	"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl",
}

// static builds binaries that need nothing from the root file system they run on.
var static = []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false"}

// moduleBuild is what to build from a Go module that the repository requires.
type moduleBuild struct {
	name   string // in the cache, before the version
	module string // a module of the repository, below test/cluster
	path   string // of the module that gives the version
	// commands are the arguments of go, for a version and the output folder.
	commands func(version, dir string) [][]string
}

var (
	kubernetesBuild = moduleBuild{
		name: "kubernetes", module: "kubernetes", path: "k8s.io/kubernetes",
		commands: func(version, dir string) [][]string {
			args := []string{"build", "-o", dir + "/", "-ldflags", "-s -w " + kubernetesVersionFlags(version)}
			for _, b := range kubernetesBinaries {
				args = append(args, "k8s.io/kubernetes/cmd/"+b)
			}
			return [][]string{args}
		},
	}
	kubeProxyBuild = moduleBuild{
		name: "kube-proxy", module: "kubernetes", path: "k8s.io/kubernetes",
		commands: func(version, dir string) [][]string {
			return [][]string{{"build", "-o", dir + "/", "-ldflags", "-s -w " + kubernetesVersionFlags(version), "k8s.io/kubernetes/cmd/kube-proxy"}}
		},
	}
	etcdBuild = moduleBuild{
		name: "etcd", module: "kubernetes", path: "go.etcd.io/etcd/server/v3",
		commands: func(_, dir string) [][]string {
			return [][]string{{"build", "-o", dir + "/etcd", "-ldflags", "-s -w", "go.etcd.io/etcd/server/v3"}}
		},
	}
	coreDNSBuild = moduleBuild{
		name:   "coredns-2", // raise it when its plugins change
		module: "coredns", path: "github.com/coredns/coredns",
		commands: func(_, dir string) [][]string {
			return [][]string{{"build", "-o", dir + "/coredns", "-ldflags", "-s -w", "."}}
		},
	}
	testsBuild = moduleBuild{
		name: "e2e", module: "kubernetes", path: "k8s.io/kubernetes",
		commands: func(version, dir string) [][]string {
			return [][]string{
				{"test", "-c", "-o", dir + "/e2e.test", "-ldflags", "-s -w " + kubernetesVersionFlags(version), "k8s.io/kubernetes/test/e2e"},
				{"build", "-o", dir + "/", "-ldflags", "-s -w", "github.com/onsi/ginkgo/v2/ginkgo",
					testImages + "/agnhost", testImages + "/regression-issue-74839"},
			}
		},
	}
)

// testImages holds the programs in the images of the official tests.
const testImages = "k8s.io/kubernetes/test/images"

// build builds what is not in the cache, and returns the folder and the version.
func (m *maker) build(ctx context.Context, b moduleBuild) (dir, version string, err error) {
	module := filepath.Join(m.tree, "test/cluster", b.module)
	version, err = command(ctx, module, nil, "go", "list", "-m", "-f", "{{.Version}}", b.path)
	if err != nil {
		return "", "", err
	}
	dir, err = m.cache.once(b.name+"-"+version, func(dir string) error {
		m.log.Info("building", "what", b.name, "version", version)
		for _, args := range b.commands(version, dir) {
			if _, err := command(ctx, module, static, "go", args...); err != nil {
				return err
			}
		}
		return nil
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

// buildOwn builds a program of the work tree and returns it. It is kept in
// memory, because the next one who builds from another tree must not change
// what a running cluster pulls; the Go build cache makes it cheap.
func (m *maker) buildOwn(ctx context.Context, module, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp(string(m.cache), "own-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program := filepath.Join(dir, "program")
	_, err = command(ctx, filepath.Join(m.tree, module), static, "go", "build", "-ldflags", "-s -w", "-o", program, pkg)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(program)
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
