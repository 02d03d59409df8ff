// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestPull pulls as a container runtime does: by tag, for any registry's name
// of the repository.
func TestPull(t *testing.T) {
	program := []byte("#!/bin/sh\necho hello\n")
	images, err := Make(Recipe{
		Name: "library/hello:latest", Layers: []*Content{Program(program, "/bin/hello")}, Entrypoint: []string{"/bin/hello"},
	})
	if err != nil {
		t.Fatal(err)
	}
	registry, err := NewRegistry(images)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	defer server.Close()

	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/library/hello:latest", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled, validate.Fast); err != nil {
		t.Errorf("the image does not hold together: %v", err)
	}
	layers, err := pulled.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Compressed() // as it went over the wire; the digest is checked on the way
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewReader(blob)
	header, err := files.Next()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(files)
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "bin/hello" || header.Mode != 0o755 || !strings.Contains(string(content), "echo hello") {
		t.Errorf("got %s, mode %o, %q", header.Name, header.Mode, content)
	}
}

func TestPullOfUnknownImage(t *testing.T) {
	registry, err := NewRegistry(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/library/none/manifests/latest", "/v2/x/blobs/sha256:0", "/other"} {
		w := httptest.NewRecorder()
		registry.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != 404 {
			t.Errorf("GET %s: %d, want 404", path, w.Code)
		}
	}
}
