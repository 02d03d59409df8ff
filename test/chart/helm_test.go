// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

// dir is the chart, seen from here.
const dir = "../../deploy/helm/beeline"

// kubeVersion is told to Helm, which takes an old one if it was built as a module.
const kubeVersion = "1.37.0"

// helm runs Helm in its pinned version. The error holds what it printed.
func helm(args ...string) (string, error) {
	c := exec.Command("../../hack/tool", append([]string{"helm"}, args...)...)
	var out, problems bytes.Buffer
	c.Stdout, c.Stderr = &out, &problems
	if err := c.Run(); err != nil {
		return out.String(), errors.New(err.Error() + ": " + out.String() + problems.String())
	}
	return out.String(), nil
}

// render renders the chart with values given as YAML.
func render(t *testing.T, values string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o644); err != nil {
		t.Fatal(err)
	}
	return helm("template", "beeline", dir, "--kube-version", kubeVersion, "--namespace", "kube-system", "--values", file)
}

// objects decodes manifests as strictly as the API server with
// fieldValidation=Strict: an unknown or doubled field is an error.
func objects(t *testing.T, manifests string) (all []runtime.Object) {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, document := range strings.Split(manifests, "\n---\n") {
		if strings.Trim(comment.ReplaceAllString(document, ""), "-\n ") == "" {
			continue
		}
		o, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		all = append(all, o)
	}
	return all
}

// one returns the only object of a type.
func one[T runtime.Object](t *testing.T, all []runtime.Object) (found T) {
	t.Helper()
	n := 0
	for _, o := range all {
		if o, ok := o.(T); ok {
			found = o
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d objects of type %T, want one", n, found)
	}
	return found
}
