// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	yamlv2 "go.yaml.in/yaml/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// document is one document of a file, and what was found in it.
type document struct {
	where  string
	data   []byte
	hash   hash
	budget *atomic.Int64 // bytes of JSON that the file's documents may still expand to
	node   string        // this node's name

	objects []found
	// faulty are objects with something wrong in them, usable in part or not.
	faulty   []key
	problems []object.Problem
	// broken makes the whole file unusable.
	broken []object.Problem
}

// hash identifies a text.
type hash = [sha256.Size]byte

// found is one object.
type found struct {
	key
	value
}

// apiVersions of the kinds that count.
var apiVersions = map[string]string{
	"Service": "v1", "Node": "v1", "List": "v1", "ServiceList": "v1", "NodeList": "v1",
	"EndpointSlice": "discovery.k8s.io/v1", "EndpointSliceList": "discovery.k8s.io/v1",
	"ServiceCIDR": "networking.k8s.io/v1", "ServiceCIDRList": "networking.k8s.io/v1",
}

// list is any list; its items are looked at one by one.
type list struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []json.RawMessage `json:"items"`
}

// decode decodes the document, or takes over what an equal one became.
func (d *document) decode(node string, sound map[hash][]found) {
	d.node, d.hash = node, sha256.Sum256(d.data)
	if objects, ok := sound[d.hash]; ok {
		d.objects, d.data = objects, nil
		return
	}
	defer func() {
		d.data = nil
		// The YAML parser panics where it meets what its authors did not
		// think of. One file must not end the agent.
		if r := recover(); r != nil {
			d.fail(d.where, "parser: %v", r)
		}
	}()
	data, err := toJSON(d.data)
	if err == nil && d.budget.Add(-int64(len(data))) < 0 {
		err = errors.New("expands to far more than the file has")
	}
	if err != nil {
		d.fail(d.where, "%v", err)
		return
	}
	d.object(d.where, data, nil)
}

func (d *document) fail(where, format string, args ...any) {
	d.broken = append(d.broken, object.Problem{Object: where, Message: fmt.Sprintf(format, args...)})
}

func (d *document) problem(where, format string, args ...any) {
	d.problems = append(d.problems, object.Problem{Object: where, Message: fmt.Sprintf(format, args...)})
}

// toJSON converts YAML, and passes JSON on as it is, which is eight times as
// fast.
func toJSON(doc []byte) ([]byte, error) {
	first := significant(doc)
	if first == '{' && json.Valid(doc) {
		return doc, nil
	}
	data, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return nil, err
	}
	// The parser stops where the first value ends. After a block of "key:
	// value" lines there is nothing else to come, but {...} may be followed by
	// more, which must not be ignored.
	if !isKeyStart(first) {
		decoder := yamlv2.NewDecoder(bytes.NewReader(doc))
		var ignored, more any
		if err := decoder.Decode(&ignored); err != nil {
			return nil, err
		}
		if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
			return nil, errors.New("more text after the end of the value")
		}
	}
	return data, nil
}

func isKeyStart(ch byte) bool {
	return 'a' <= ch && ch <= 'z' || 'A' <= ch && ch <= 'Z' || ch == '"' || ch == '\''
}

// object decodes one object. Around it may be a list, which may say what its
// items are.
func (d *document) object(where string, data []byte, around *metav1.TypeMeta) {
	var meta metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &meta); err != nil {
		d.fail(where, "%v", err)
		return
	}
	if around != nil && meta.Kind == "" && meta.APIVersion == "" {
		meta.Kind, meta.APIVersion = strings.TrimSuffix(around.Kind, "List"), around.APIVersion
	}
	version, known := apiVersions[meta.Kind]
	switch {
	case meta.Kind == "":
		d.fail(where, "kind: missing")
	case !known:
		d.problem(where, "kind: %.80q is ignored; only Service, EndpointSlice, Node, ServiceCIDR and List count", meta.Kind)
	case meta.APIVersion != version:
		d.fail(where, "apiVersion: %.80q: must be %q for kind %s", meta.APIVersion, version, meta.Kind)
	case meta.Kind == "Service":
		d.decodeService(where, data)
	case meta.Kind == "EndpointSlice":
		d.decodeSlice(where, data)
	case meta.Kind == "Node":
		d.decodeNode(where, data)
	case meta.Kind == "ServiceCIDR":
		d.decodeServiceCIDR(where, data)
	case around != nil:
		d.fail(where, "kind: a list in a list")
	default:
		d.decodeList(where, data)
	}
}

// strict decodes data and refuses fields that the API does not know.
func (d *document) strict(where string, data []byte, into any) bool {
	unknown, err := kjson.UnmarshalStrict(data, into)
	if err != nil {
		d.fail(where, "%v", err)
		return false
	}
	for _, u := range unknown {
		d.fail(where, "%v", u)
	}
	return len(unknown) == 0
}

func (d *document) decodeList(where string, data []byte) {
	var l list
	if !d.strict(where, data, &l) {
		return
	}
	for i, item := range l.Items {
		d.object(fmt.Sprintf("%s, items[%d]", where, i), item, &l.TypeMeta)
	}
}

func (d *document) decodeService(where string, data []byte) {
	var in corev1.Service
	if !d.strict(where, data, &in) {
		return
	}
	missing := defaultService(&in)
	svc, problems := object.Service(&in)
	d.add(where, key{serviceKind, nameOf(&in)}, value{service: svc}, svc != nil, slices.Concat(problems, missing))
}

func (d *document) decodeSlice(where string, data []byte) {
	var in discoveryv1.EndpointSlice
	if !d.strict(where, data, &in) {
		return
	}
	missing := defaultSlice(&in)
	slice, problems := object.Slice(&in)
	d.add(where, key{sliceKind, nameOf(&in)}, value{slice: slice}, slice != nil, slices.Concat(problems, missing))
}

func (d *document) decodeNode(where string, data []byte) {
	var in corev1.Node
	if !d.strict(where, data, &in) || in.Name != d.node {
		return
	}
	node, problems := object.Node(&in)
	d.add(where, key{nodeKind, nameOf(&in)}, value{node: node}, node != nil, problems)
}

func (d *document) decodeServiceCIDR(where string, data []byte) {
	var in networkingv1.ServiceCIDR
	if !d.strict(where, data, &in) {
		return
	}
	cidr, problems := object.ServiceCIDR(&in)
	d.add(where, key{cidrKind, nameOf(&in)}, value{cidr: cidr}, cidr != nil, problems)
}

func nameOf(o metav1.Object) model.Name {
	return model.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// add takes an object and what is wrong with it. One that is left out though
// nothing is wrong is left out on purpose.
func (d *document) add(where string, k key, v value, usable bool, problems []object.Problem) {
	v.faulty = len(problems) > 0
	if usable {
		d.objects = append(d.objects, found{k, v})
	}
	if v.faulty {
		d.faulty = append(d.faulty, k)
	}
	for _, p := range problems {
		d.problem(where+", "+p.Object, "%s", p.Message)
	}
}
