// SPDX-License-Identifier: Apache-2.0

// Package oci makes container images from files and serves them as a registry
// does, so that a container runtime can pull them by their usual names.
package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Recipe says what an image is made of.
type Recipe struct {
	// Name is repository:tag, without a registry's host.
	Name string
	// Layers from the bottom up.
	Layers []*Content
	// Entrypoint and Command as in a Dockerfile.
	Entrypoint, Command []string
}

// Image is an image under its name.
type Image struct {
	Repository, Tag string
	v1.Image
}

// opener opens a stream, the same each time.
type opener func() (io.ReadCloser, error)

// Content is what a layer holds: an uncompressed tar stream. Images that share
// it have it digested once.
type Content struct {
	layer func() (*layer, error)
}

func newContent(open opener) *Content {
	return &Content{sync.OnceValues(func() (*layer, error) { return newLayer(open) })}
}

// Tar is a tar file.
func Tar(path string) *Content {
	return newContent(func() (io.ReadCloser, error) { return os.Open(path) })
}

// Entry is one entry of a layer: a file with Content or that of the file From,
// a link to Link, or, with none of these, a folder.
type Entry struct {
	// Path in the image, absolute.
	Path    string
	From    string
	Content []byte
	Link    string
	// Mode of a file; 0 means 0644.
	Mode int64
}

// Entries are a layer's, in this order. Files that From names must not change
// any more.
func Entries(entries ...Entry) *Content {
	return newContent(func() (io.ReadCloser, error) {
		var layer bytes.Buffer
		w := tar.NewWriter(&layer)
		for _, e := range entries {
			if err := e.write(w); err != nil {
				return nil, fmt.Errorf("%s: %w", e.Path, err)
			}
		}
		return io.NopCloser(&layer), w.Close()
	})
}

func (e Entry) write(w *tar.Writer) error {
	header := &tar.Header{Name: strings.TrimPrefix(e.Path, "/"), Mode: 0o755}
	content := e.Content
	switch {
	case e.Link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.Link
	case e.From == "" && content == nil:
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	default:
		if e.From != "" {
			var err error
			if content, err = os.ReadFile(e.From); err != nil {
				return err
			}
		}
		header.Typeflag, header.Size, header.Mode = tar.TypeReg, int64(len(content)), cmp.Or(e.Mode, 0o644)
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// ProgramFile is Program for a file that does not change any more.
func ProgramFile(path, as string) *Content {
	return Entries(Entry{Path: as, From: path, Mode: 0o755})
}

// Program is one executable under its path in the image.
func Program(program []byte, as string) *Content {
	return Entries(Entry{Path: as, Content: program, Mode: 0o755})
}

// Make makes images for the architecture it runs on.
func Make(recipes ...Recipe) ([]Image, error) {
	var images []Image
	for _, r := range recipes {
		image, err := r.make()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", r.Name, err)
		}
		images = append(images, image)
	}
	return images, nil
}

func (r Recipe) make() (Image, error) {
	repository, tag, ok := strings.Cut(r.Name, ":")
	if !ok {
		return Image{}, fmt.Errorf("name has no tag")
	}
	var layers []v1.Layer
	for _, content := range r.Layers {
		l, err := content.layer()
		if err != nil {
			return Image{}, err
		}
		layers = append(layers, l)
	}
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return Image{}, err
	}
	image, err = mutate.ConfigFile(image, withConfig(image, r))
	return Image{repository, tag, image}, err
}

func withConfig(image v1.Image, r Recipe) *v1.ConfigFile {
	config, err := image.ConfigFile()
	if err != nil { // it is in memory
		config = &v1.ConfigFile{}
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.Cmd = r.Entrypoint, r.Command
	config.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return config
}

// layer is a v1.Layer that nobody compresses: it goes from a disk to the same disk.
type layer struct {
	open   opener
	digest v1.Hash
	size   int64
}

func newLayer(open opener) (*layer, error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	size, err := io.Copy(sum, r)
	if err != nil {
		return nil, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}
	return &layer{open, digest, size}, nil
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return l.open() }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return l.open() }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.DockerUncompressedLayer, nil }
