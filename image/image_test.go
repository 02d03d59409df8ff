// SPDX-License-Identifier: Apache-2.0

package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/beeline-net/beeline/image"
)

var (
	program = []byte("\x7fELF and so on")
	build   = image.Build{Version: "v1.2.3", Revision: "abc", Created: time.Unix(1_800_000_000, 0)}
)

func newImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	i, err := image.New(program, arch, build)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestImageHoldsTheProgramAndNothingElse(t *testing.T) {
	i := newImage(t, "arm64")
	layers, err := i.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(content)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(files); header.Name != "beeline" || header.Mode != 0o755 || !bytes.Equal(got, program) {
		t.Errorf("layer holds %s, mode %o, %q", header.Name, header.Mode, got)
	}
	if h, err := files.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("layer also holds %v", h)
	}
	config, err := i.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || !slices.Equal(config.Config.Entrypoint, []string{"/beeline"}) {
		t.Errorf("configuration: %s/%s, entry point %v", config.OS, config.Architecture, config.Config.Entrypoint)
	}
}

func TestSameProgramGivesSameImage(t *testing.T) {
	a, err := newImage(t, "amd64").Digest()
	if err != nil {
		t.Fatal(err)
	}
	b, err := newImage(t, "amd64").Digest()
	if err != nil || a != b {
		t.Errorf("two builds: %s and %s, %v", a, b, err)
	}
	other, err := image.New(append([]byte("x"), program...), "amd64", build)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := other.Digest(); err != nil || c == a {
		t.Errorf("another program has the digest %s, too (%v)", c, err)
	}
}

func TestArchiveHoldsEveryArchitecture(t *testing.T) {
	index := image.Index(map[string]v1.Image{"amd64": newImage(t, "amd64"), "arm64": newImage(t, "arm64")}, []string{"amd64", "arm64"}, build)
	var archive bytes.Buffer
	if err := image.WriteArchive(&archive, "ghcr.io/beeline-net/beeline", "v1.2.3", index); err != nil {
		t.Fatal(err)
	}
	top, err := layout.ImageIndexFromPath(unpack(t, &archive))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(top); err != nil {
		t.Fatal(err)
	}
	names, err := top.IndexManifest()
	if err != nil || len(names.Manifests) != 1 {
		t.Fatalf("%+v, %v; want one name", names, err)
	}
	if got := names.Manifests[0].Annotations["io.containerd.image.name"]; got != "ghcr.io/beeline-net/beeline:v1.2.3" {
		t.Errorf("the image's name is %q", got)
	}
	inner, err := top.ImageIndex(names.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var archs []string
	for _, d := range m.Manifests {
		archs = append(archs, d.Platform.Architecture)
	}
	if !slices.Equal(archs, []string{"amd64", "arm64"}) {
		t.Errorf("architectures %v", archs)
	}
}

func unpack(t *testing.T, archive io.Reader) (dir string) {
	t.Helper()
	dir = t.TempDir()
	files := tar.NewReader(archive)
	for {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		content, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}
