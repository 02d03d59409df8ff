// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/beeline-net/beeline/test/cluster/internal/oci"
)

// Kit is everything that a cluster is built from.
type Kit struct {
	// Tree is Beeline's work tree.
	Tree string
	// Kubernetes is a folder with the binaries of Kubernetes.
	Kubernetes string
	// KubernetesVersion is theirs: "v1.37.2".
	KubernetesVersion string
	// Etcd is a folder with etcd.
	Etcd string
	// CoreDNSVersion is that of the image.
	CoreDNSVersion string
	// Debian is the root file system of nodes. It must not be written to.
	Debian string
	// Tests is a folder with the official end-to-end tests and ginkgo, their
	// runner; empty unless asked for.
	Tests string
	// Beeline and Load are programs of the work tree: the product, and the load
	// of the benchmark, which is empty unless asked for.
	Beeline, Load []byte
	// Images are what the cluster's registry serves.
	Images []oci.Image
}

// Wants says what is needed beyond what every cluster needs.
type Wants struct {
	// KubeProxy is kube-proxy's image.
	KubeProxy bool
	// Tests are the official end-to-end tests and the images that they ask for.
	Tests bool
	// Load is the load of the benchmark and its image.
	Load bool
}

// LoadImage is the image of the benchmark's load, without a tag.
const LoadImage = "beeline-net/bench-load"

// maker makes a Kit.
type maker struct {
	cache Cache
	tree  string
	log   *slog.Logger
}

// Make makes what is missing in the cache, which takes a quarter of an hour
// from nothing, and Beeline, which takes seconds.
func Make(ctx context.Context, cache Cache, tree string, wants Wants, log *slog.Logger) (*Kit, error) {
	m := &maker{cache, tree, log}
	k := &Kit{Tree: tree}
	var parts parts
	// Debian is mostly waiting for the network, the rest is computing.
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		k.Debian, err = m.makeDebian(groupCtx)
		return err
	})
	group.Go(func() (err error) {
		parts, err = m.buildPrograms(groupCtx, k, wants)
		return err
	})
	err := group.Wait()
	if err != nil {
		return nil, err
	}
	if err := m.buildTree(ctx, k, wants); err != nil {
		return nil, err
	}
	if k.Images, err = m.makeImages(ctx, k, parts); err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return k, nil
}

// parts are folders with programs that only images need.
type parts struct {
	coredns   string
	kubeProxy string // empty unless asked for
}

// buildPrograms builds everything from Go modules, one after the other: each
// uses all cores.
func (m *maker) buildPrograms(ctx context.Context, k *Kit, wants Wants) (p parts, err error) {
	if k.Kubernetes, k.KubernetesVersion, err = m.build(ctx, kubernetesBuild); err != nil {
		return p, err
	}
	if k.Etcd, _, err = m.build(ctx, etcdBuild); err != nil {
		return p, err
	}
	if p.coredns, k.CoreDNSVersion, err = m.build(ctx, coreDNSBuild); err != nil {
		return p, err
	}
	if wants.KubeProxy {
		if p.kubeProxy, _, err = m.build(ctx, kubeProxyBuild); err != nil {
			return p, err
		}
	}
	if wants.Tests {
		k.Tests, _, err = m.build(ctx, testsBuild)
	}
	return p, err
}

// buildTree builds what the work tree gives to images and to boxes.
func (m *maker) buildTree(ctx context.Context, k *Kit, wants Wants) (err error) {
	if k.Beeline, err = m.buildOwn(ctx, ".", "./cmd/beeline"); err != nil || !wants.Load {
		return err
	}
	k.Load, err = m.buildOwn(ctx, "test/cluster", "./cmd/bench-load")
	return err
}

// Programs are what is measured without a cluster.
type Programs struct {
	// KubeProxy is the path of the real one, KubernetesVersion its version.
	KubeProxy, KubernetesVersion string
	// Beeline and Load are as in Kit.
	Beeline, Load []byte
}

// MakePrograms makes those that are missing in the cache, and Beeline.
func MakePrograms(ctx context.Context, cache Cache, tree string, log *slog.Logger) (*Programs, error) {
	m := &maker{cache, tree, log}
	dir, version, err := m.build(ctx, kubeProxyBuild)
	if err != nil {
		return nil, err
	}
	k := &Kit{Tree: tree}
	if err := m.buildTree(ctx, k, Wants{Load: true}); err != nil {
		return nil, err
	}
	return &Programs{KubeProxy: filepath.Join(dir, "kube-proxy"), KubernetesVersion: version, Beeline: k.Beeline, Load: k.Load}, nil
}

// makeImages makes the images under the names that pods ask for, without the
// registry's host: the cluster's registry answers for every host.
func (m *maker) makeImages(ctx context.Context, k *Kit, p parts) ([]oci.Image, error) {
	debianTar, err := m.makeDebianLayer(ctx, k.Debian)
	if err != nil {
		return nil, err
	}
	busyboxTar, err := m.makeBusyboxLayer(ctx, k.Debian)
	if err != nil {
		return nil, err
	}
	debian, busybox := oci.Tar(debianTar), oci.Tar(busyboxTar)
	pause, err := m.buildOwn(ctx, "test/cluster", "./cmd/pause")
	if err != nil {
		return nil, err
	}
	program := func(dir, name string) *oci.Content { return oci.ProgramFile(filepath.Join(dir, name), "/"+name) }
	recipes := []oci.Recipe{
		{Name: "pause:3.10", Layers: layers(oci.Program(pause, "/pause")), Entrypoint: []string{"/pause"}},
		{Name: "library/busybox:latest", Layers: layers(busybox), Command: []string{"sh"}},
		{Name: "library/nginx:latest", Layers: layers(debian), Command: []string{"nginx", "-g", "daemon off;"}},
		{Name: "coredns/coredns:" + k.CoreDNSVersion, Layers: layers(program(p.coredns, "coredns")), Entrypoint: []string{"/coredns"}},
		{Name: "beeline-net/beeline:latest", Layers: layers(oci.Program(k.Beeline, "/beeline")), Entrypoint: []string{"/beeline"}},
	}
	if p.kubeProxy != "" {
		recipes = append(recipes, oci.Recipe{
			Name: "kube-proxy:" + k.KubernetesVersion, Layers: layers(debian, program(p.kubeProxy, "kube-proxy")),
			Entrypoint: []string{"/kube-proxy"},
		})
	}
	if k.Load != nil {
		recipes = append(recipes, oci.Recipe{
			Name: LoadImage + ":latest", Layers: layers(oci.Program(k.Load, "/load")), Entrypoint: []string{"/load"},
		})
	}
	if k.Tests != "" {
		more, err := m.testRecipes(ctx, k, testLayers{
			debian: debian, busybox: busybox, pause: pause, coredns: program(p.coredns, "coredns"),
		})
		if err != nil {
			return nil, err
		}
		recipes = append(recipes, more...)
	}
	return oci.Make(recipes...)
}

// layers are an image's, from the bottom up.
func layers(all ...*oci.Content) []*oci.Content { return all }
