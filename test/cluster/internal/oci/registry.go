// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Registry answers pulls, the reading half of the OCI distribution
// specification: manifests by tag and digest, and blobs.
type Registry struct {
	manifests map[string]blob // by repository@tag and repository@digest
	blobs     map[string]blob // by digest
}

// blob is anything with a digest.
type blob struct {
	mediaType string
	digest    string
	size      int64
	open      opener
}

// NewRegistry serves the images.
func NewRegistry(images []Image) (*Registry, error) {
	r := &Registry{map[string]blob{}, map[string]blob{}}
	for _, image := range images {
		if err := r.add(image); err != nil {
			return nil, fmt.Errorf("registry: image %s:%s: %w", image.Repository, image.Tag, err)
		}
	}
	return r, nil
}

func (r *Registry) add(image Image) error {
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	raw, err := image.RawManifest()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	b := memoryBlob(string(manifest.MediaType), digest, raw)
	r.manifests[image.Repository+"@"+image.Tag] = b
	r.manifests[image.Repository+"@"+b.digest] = b

	config, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	r.blobs[manifest.Config.Digest.String()] = memoryBlob(string(manifest.Config.MediaType), manifest.Config.Digest, config)
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		d := manifest.Layers[i]
		r.blobs[d.Digest.String()] = blob{string(d.MediaType), d.Digest.String(), d.Size, l.Compressed}
	}
	return nil
}

func memoryBlob(mediaType string, digest v1.Hash, content []byte) blob {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return blob{mediaType, digest.String(), int64(len(content)), open}
}

// ServeHTTP answers GET and HEAD of /v2/, /v2/<repository>/manifests/<tag or
// digest> and /v2/<repository>/blobs/<digest>.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/v2/" {
		return // says: this is a registry, and you need not log in
	}
	b, ok := r.find(strings.TrimPrefix(req.URL.Path, "/v2/"))
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(b.size, 10))
	w.Header().Set("Docker-Content-Digest", b.digest)
	if req.Method == http.MethodHead {
		return
	}
	content, err := b.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = content.Close() }()
	_, _ = io.Copy(w, content) // the puller notices a short answer
}

func (r *Registry) find(path string) (blob, bool) {
	if repository, reference, ok := strings.Cut(path, "/manifests/"); ok {
		b, ok := r.manifests[repository+"@"+reference]
		return b, ok
	}
	_, digest, _ := strings.Cut(path, "/blobs/")
	b, ok := r.blobs[digest]
	return b, ok
}
