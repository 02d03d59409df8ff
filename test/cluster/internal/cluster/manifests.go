// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	_ "embed"
	"fmt"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

//go:embed manifests/addons.yaml
var addonsManifest string

//go:embed manifests/kube-proxy.yaml
var kubeProxyManifest string

// values fill the manifests.
type values struct {
	ProxyMode, PodRange, Server, DNS, CoreDNS, Kubernetes string
}

func fill(manifest string, v values) (string, error) {
	t, err := template.New("manifest").Parse(manifest)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, v)
	return out.String(), err
}

// toYAML writes objects that are made of maps, as one stream.
func toYAML(objects ...any) (string, error) {
	var out strings.Builder
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return "", fmt.Errorf("manifest: %w", err)
		}
		out.WriteString("---\n" + string(text))
	}
	return out.String(), nil
}
