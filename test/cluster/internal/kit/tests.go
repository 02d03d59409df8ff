// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/beeline-net/beeline/test/cluster/internal/oci"
)

// testLayers is what the images of the official tests have in common with others.
type testLayers struct {
	debian, busybox, coredns *oci.Content
	pause                    []byte
}

// testRecipes are those of the images that the [sig-network] tests ask for, under
// the names that k8s.io/kubernetes/test/utils/image/manifest.go of v1.37 gives
// them. A missing one shows as a pod that stays Pending.
//
// The official ones are made from Alpine, these from Debian: the programs that
// the tests call in them (sh, curl, dig, nc, iperf) are the same ones, or those
// of the same name.
func (m *maker) testRecipes(ctx context.Context, k *Kit, l testLayers) ([]oci.Recipe, error) {
	agnhost, err := m.agnhostLayer(ctx, k, l.pause)
	if err != nil {
		return nil, fmt.Errorf("agnhost: %w", err)
	}
	const repository = "e2e-test-images/"
	return []oci.Recipe{
		{
			Name: repository + "agnhost:2.66.1", Layers: layers(l.debian, l.coredns, agnhost),
			Entrypoint: []string{"/agnhost"}, Command: []string{"pause"},
		},
		{Name: repository + "busybox:1.37.0-2", Layers: layers(l.busybox), Command: []string{"sh"}},
		{Name: repository + "nginx:1.27.0-2", Layers: layers(l.debian), Command: []string{"nginx", "-g", "daemon off;"}},
		{Name: repository + "glibc-dns-testing:2.1.1", Layers: layers(l.debian, l.coredns), Command: []string{"bash"}},
		{
			Name:       repository + "regression-issue-74839:1.5",
			Layers:     layers(l.debian, oci.ProgramFile(filepath.Join(k.Tests, "regression-issue-74839"), "/regression-issue-74839")),
			Entrypoint: []string{"/regression-issue-74839"},
		},
		{Name: "pause:3.10.2", Layers: layers(oci.Program(l.pause, "/pause")), Entrypoint: []string{"/pause"}},
	}, nil
}

// agnhostLayer is what agnhost's Dockerfile adds to the distribution.
func (m *maker) agnhostLayer(ctx context.Context, k *Kit, pause []byte) (*oci.Content, error) {
	source, err := command(ctx, filepath.Join(m.tree, "test/cluster", testsBuild.module), nil,
		"go", "list", "-f", "{{.Dir}}", testImages+"/agnhost")
	if err != nil {
		return nil, err
	}
	entries := []oci.Entry{
		{Path: "/agnhost", From: filepath.Join(k.Tests, "agnhost"), Mode: 0o755},
		{Path: "/agnhost-2", Link: "agnhost"},
		{Path: "/localhost.crt", From: filepath.Join(source, "porter/localhost.crt")},
		{Path: "/localhost.key", From: filepath.Join(source, "porter/localhost.key")},
		{Path: "/uploads"},
		{Path: "/usr/local/bin/iperf", Link: "/usr/bin/iperf"},
	}
	images, err := oci.Make(oci.Recipe{
		Name: "pause:testing", Layers: layers(oci.Program(pause, "/pause")), Entrypoint: []string{"/pause"},
	})
	if err != nil {
		return nil, err
	}
	registry, err := fakeRegistry(images[0])
	return oci.Entries(append(entries, registry...)...), err
}

// fakeRegistry lays an image out as the registry in agnhost serves it
// (agnhost/fakeregistryserver/prepare_registry.sh).
func fakeRegistry(image oci.Image) ([]oci.Entry, error) {
	root := filepath.Join("/var/registry", image.Repository)
	at := func(kind string, digest v1.Hash) string {
		return filepath.Join(root, kind, digest.Algorithm, digest.Hex[:2], digest.Hex, "data")
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, err
	}
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	configName, err := image.ConfigName()
	if err != nil {
		return nil, err
	}
	entries := []oci.Entry{
		{Path: filepath.Join(root, "manifests", image.Tag), Content: []byte(digest.String() + "\n")},
		{Path: at("manifests", digest), Content: manifest},
		{Path: at("blobs", configName), Content: config},
	}
	all, err := image.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range all {
		name, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		r, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		blob, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		entries = append(entries, oci.Entry{Path: at("blobs", name), Content: blob})
	}
	return entries, nil
}
