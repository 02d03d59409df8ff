// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// WriteArchive writes an index as an OCI archive: the tar file that `ctr images
// import`, `podman load`, `docker load` (25 and newer) and `skopeo` read. name
// is the image's name, with a tag.
func WriteArchive(w io.Writer, name, tag string, index v1.ImageIndex) error {
	dir, err := os.MkdirTemp("", "beeline-image-")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	err = l.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag,
		"io.containerd.image.name":          name + ":" + tag,
	}))
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := writeFolder(w, dir); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// writeFolder writes a folder's files in order, with nothing of this machine
// about them.
func writeFolder(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return writeFile(t, dir, path)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func writeFile(t *tar.Writer, dir, path string) error {
	name, err := filepath.Rel(dir, path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	h := &tar.Header{Name: filepath.ToSlash(name), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatUSTAR}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = t.Write(content)
	return err
}
