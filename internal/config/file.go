// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The kinds of file that are understood.
const (
	APIVersion = "beeline.dev/v1alpha1"
	Kind       = "AgentConfiguration"

	kubeProxyAPIVersion = "kubeproxy.config.k8s.io/v1alpha1"
	kubeProxyKind       = "KubeProxyConfiguration"
)

// document is the content of one file.
type document struct {
	name   string
	fields map[string]any
	// duplicate is the complaint about a field that is given twice; nil if none.
	duplicate error
}

// parseDocument reads YAML or JSON without judging it.
func parseDocument(name string, data []byte) (document, error) {
	doc := document{name: name}
	converted, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		lenient, broken := yaml.YAMLToJSON(data)
		if broken != nil {
			return doc, broken
		}
		converted, doc.duplicate = lenient, err
	}
	decoder := json.NewDecoder(bytes.NewReader(converted))
	decoder.UseNumber()
	if err := decoder.Decode(&doc.fields); err != nil && !errors.Is(err, io.EOF) {
		return doc, errors.New("must be a YAML mapping")
	}
	return doc, nil
}

// is tells whether the document says to be of a kind.
func (d document) is(apiVersion, kind string) bool {
	return d.fields["apiVersion"] == apiVersion && d.fields["kind"] == kind
}

// where names a field of the document in messages.
func (d document) where(path string) string { return d.name + ": " + path }

// found is what a document says, by the paths that are known.
type found struct {
	// leaves holds the known fields that are given and not null.
	leaves map[string]any
	// unknown lists the paths of fields that do not exist, sorted.
	unknown []string
	// scalars lists known groups that are not mappings, sorted.
	scalars []string
}

// find sorts the document's fields by whether known has them. A group is
// known if something below it is.
func (d document) find(known []string) found {
	f := found{leaves: map[string]any{}}
	f.walk("", d.fields, known)
	return f
}

func (f *found) walk(above string, fields map[string]any, known []string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		path := above + name
		below, isMap := fields[name].(map[string]any)
		group := slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(k, path+".") })
		switch {
		case above == "" && (name == "apiVersion" || name == "kind"):
		case slices.Contains(known, path):
			if fields[name] != nil {
				f.leaves[path] = fields[name]
			}
		case group && isMap:
			f.walk(path+".", below, known)
		case group && fields[name] != nil:
			f.scalars = append(f.scalars, path)
		case !group:
			f.unknown = append(f.unknown, path)
		}
	}
}

// items turns a file's value into the text of its items, if it has the shape.
func items(s shape, v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, s == shapeString || s == shapeAny
	case json.Number:
		return []string{v.String()}, s == shapeInteger || s == shapeNumber || s == shapeAny
	case bool:
		return []string{fmt.Sprint(v)}, s == shapeBoolean || s == shapeAny
	case []any:
		return elements(s, v)
	case map[string]any:
		return gates(s, v)
	}
	return nil, false
}

func elements(s shape, list []any) ([]string, bool) {
	var all []string
	for _, element := range list {
		one, ok := element.(string)
		if !ok {
			one = quote(element)
		}
		if !ok && s != shapeAny {
			return nil, false
		}
		all = append(all, one)
	}
	return all, s == shapeList || s == shapeAny
}

func gates(s shape, m map[string]any) ([]string, bool) {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		on, ok := m[name].(bool)
		if !ok && s != shapeAny {
			return nil, false
		}
		all = append(all, fmt.Sprintf("%s=%t", name, on))
	}
	return all, s == shapeGates || s == shapeAny
}

// quote shows a value as JSON, which is how it looks in a file.
func quote(v any) string {
	if text, err := json.Marshal(v); err == nil {
		return string(text)
	}
	return fmt.Sprint(v)
}
