// SPDX-License-Identifier: Apache-2.0

// Package image makes Beeline's container image: one static program and nothing
// else, no shell, no package manager, no daemon to build it. The same program
// gives the same bytes, so a digest can be checked by building again.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Path is where the program is in the image; it is the entry point.
const Path = "/beeline"

// Build is what is known of a program that goes into an image.
type Build struct {
	// Version and Revision are told in the image's annotations; empty: unknown.
	Version, Revision string
	// Created is the commit's time, not the build's; in whole seconds.
	Created time.Time
}

// New is the image of one architecture ("amd64", "arm64").
func New(program []byte, arch string, b Build) (v1.Image, error) {
	content, err := layer(program, b.Created)
	if err != nil {
		return nil, fmt.Errorf("image for %s: layer: %w", arch, err)
	}
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   content,
		History: v1.History{CreatedBy: "beeline-image", Created: v1.Time{Time: b.Created}},
	})
	if err != nil {
		return nil, fmt.Errorf("image for %s: %w", arch, err)
	}
	image, err = mutate.ConfigFile(image, configFile(image, arch, b))
	if err != nil {
		return nil, fmt.Errorf("image for %s: configuration: %w", arch, err)
	}
	return image, nil
}

func configFile(image v1.Image, arch string, b Build) *v1.ConfigFile {
	c, err := image.ConfigFile()
	if err != nil { // it is in memory
		c = &v1.ConfigFile{}
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: b.Created}
	c.Config.Entrypoint = []string{Path}
	c.Config.Env = []string{"PATH=/"}
	c.Config.Labels = annotations(b)
	return c
}

// Index is one name for the images of several architectures.
func Index(images map[string]v1.Image, order []string, b Build) v1.ImageIndex {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range order {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        images[arch],
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return mutate.Annotations(index, annotations(b)).(v1.ImageIndex)
}

// annotations are those of the OCI image specification.
func annotations(b Build) map[string]string {
	all := map[string]string{
		"org.opencontainers.image.title":       "Beeline",
		"org.opencontainers.image.description": "Kubernetes Services without kube-proxy, on any CNI",
		"org.opencontainers.image.source":      "https://github.com/beeline-net/beeline",
		"org.opencontainers.image.licenses":    "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
	}
	if b.Version != "" {
		all["org.opencontainers.image.version"] = b.Version
	}
	if b.Revision != "" {
		all["org.opencontainers.image.revision"] = b.Revision
	}
	return all
}

// layer holds the program. Owner, mode and time are fixed, not the builder's.
func layer(program []byte, created time.Time) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := w.WriteHeader(&tar.Header{
		Name: Path[1:], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program)), ModTime: created.UTC(),
		Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}
