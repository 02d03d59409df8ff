// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// kind is the kind of an API object; the order is the order of printing.
type kind uint8

const (
	nodeKind kind = iota
	serviceKind
	sliceKind
)

func (k kind) String() string { return [...]string{"Node", "Service", "EndpointSlice"}[k] }

// key names an API object.
type key struct {
	kind            kind
	namespace, name string
}

func (k key) String() string {
	return strings.TrimPrefix(k.namespace+"/"+k.name, "/")
}

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), cmp.Compare(k.namespace, o.namespace), cmp.Compare(k.name, o.name))
}

// apiObject is a *v1.Service, *discovery.EndpointSlice or *v1.Node. Objects are
// never modified once they are part of a change.
type apiObject interface {
	GetNamespace() string
	GetName() string
}

func keyOf(o apiObject) key {
	k := key{namespace: o.GetNamespace(), name: o.GetName()}
	switch o.(type) {
	case *v1.Service:
		k.kind = serviceKind
	case *discovery.EndpointSlice:
		k.kind = sliceKind
	case *v1.Node:
		k.kind = nodeKind
	default:
		panic(fmt.Sprintf("no kind for a %T", o))
	}
	return k
}

// change says what an object is from now on, nil for gone. It depends on
// nothing before it: any sequence of changes makes sense, which is what lets
// a failing one be shrunk by leaving changes out.
type change struct {
	key key
	now apiObject
}

func put(o apiObject) change { return change{key: keyOf(o), now: o} }
func remove(k key) change    { return change{key: k} }

// String is the change as a YAML document that parseStep reads.
func (c change) String() string {
	if c.now == nil {
		return fmt.Sprintf("delete: %v %v\n", c.key.kind, c.key)
	}
	text, err := yaml.Marshal(c.now)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// step is what both sides learn between two comparisons.
type step []change

// cluster is what the API server holds.
type cluster map[key]apiObject

// event is what a watch without any selector would deliver. old is nil for an
// object that is new, now for one that is gone.
type event struct {
	key      key
	old, now apiObject
}

// apply makes a change and returns its event; false if there is none.
func (c cluster) apply(ch change) (event, bool) {
	e := event{key: ch.key, old: c[ch.key], now: ch.now}
	if ch.now == nil {
		delete(c, ch.key)
	} else {
		c[ch.key] = ch.now
	}
	return e, e.old != nil || e.now != nil
}

// keys lists all objects of a kind in a stable order.
func (c cluster) keys(of kind) []key {
	return slices.SortedFunc(func(yield func(key) bool) {
		for k := range maps.Keys(c) {
			if k.kind == of && !yield(k) {
				return
			}
		}
	}, key.compare)
}

func (c cluster) service(k key) *v1.Service {
	s, _ := c[k].(*v1.Service)
	return s
}

func (c cluster) slice(k key) *discovery.EndpointSlice {
	s, _ := c[k].(*discovery.EndpointSlice)
	return s
}

func (c cluster) node(k key) *v1.Node {
	n, _ := c[k].(*v1.Node)
	return n
}

// printSteps writes steps as cases are written.
func printSteps(steps []step) string {
	var b strings.Builder
	for i, s := range steps {
		fmt.Fprintf(&b, "# step %d\n", i+1)
		for _, c := range s {
			fmt.Fprintf(&b, "---\n%v", c)
		}
	}
	return b.String()
}

// parseStep reads a step: YAML documents, each an object to put or the name of
// one to delete. No defaults are filled in, so that what was printed is read as
// it was: whoever writes one must write down protocols.
func parseStep(text string) (step, error) {
	var s step
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		if isComment(doc) {
			continue
		}
		c, err := parseChange([]byte(doc))
		if err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		s = append(s, c)
	}
	return s, nil
}

func isComment(doc string) bool {
	for line := range strings.Lines(doc) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func parseChange(doc []byte) (change, error) {
	var head struct{ Kind, Delete string }
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return change{}, err
	}
	switch head.Kind {
	case "Node":
		return parseObject(doc, &v1.Node{})
	case "Service":
		return parseObject(doc, &v1.Service{})
	case "EndpointSlice":
		return parseObject(doc, &discovery.EndpointSlice{})
	}
	what, name, _ := strings.Cut(head.Delete, " ")
	namespace, name, _ := strings.Cut(name, "/")
	for _, k := range []kind{serviceKind, sliceKind} {
		if k.String() == what {
			return remove(key{k, namespace, name}), nil
		}
	}
	return change{}, fmt.Errorf("kind %q, delete %q: neither an object nor a deletion", head.Kind, head.Delete)
}

func parseObject(doc []byte, o apiObject) (change, error) {
	if err := yaml.UnmarshalStrict(doc, o); err != nil {
		return change{}, err
	}
	return put(o), nil
}
