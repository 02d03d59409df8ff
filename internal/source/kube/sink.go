// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// sink takes what one reflector receives, converts it and hands it on. It is
// the reflector's store, and has no content of its own.
type sink[O metav1.Object, V any] struct {
	kind    string
	book    *object.Book
	convert func(O) (*V, []object.Problem)
	set     func(V)
	remove  func(model.Name)
	replace func([]V)
	link    link
}

// contactStore is what Run needs of a sink, whatever its types.
type contactStore interface {
	cache.TransformingStore
	contact() *link
}

// item is a converted object. It stands for the object in the list that the
// reflector collects while the first list streams in, where the metadata is
// only its key.
type item[V any] struct {
	metav1.ObjectMeta
	value    *V
	problems []object.Problem
}

func (s *sink[O, V]) contact() *link { return &s.link }

// Transformer converts objects at the moment they are decoded.
func (s *sink[O, V]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.item(obj) }
}

func (s *sink[O, V]) item(obj any) (*item[V], error) {
	switch obj := obj.(type) {
	case *item[V]:
		return obj, nil
	case O:
		it := &item[V]{}
		it.Namespace, it.Name = obj.GetNamespace(), obj.GetName()
		it.value, it.problems = s.convert(obj)
		return it, nil
	}
	return nil, fmt.Errorf("%s: received a %T", s.kind, obj)
}

// key names an object in the book.
func (s *sink[O, V]) key(namespace, name string) string {
	if namespace == "" {
		return s.kind + " " + name
	}
	return s.kind + " " + namespace + "/" + name
}

// Add takes a new object, which may also be one that is known: after a watch
// was interrupted.
func (s *sink[O, V]) Add(obj any) error {
	it, err := s.item(obj)
	if err != nil {
		return err
	}
	s.book.Set(s.key(it.Namespace, it.Name), it.problems)
	if it.value != nil {
		s.set(*it.value)
	} else {
		s.remove(model.Name{Namespace: it.Namespace, Name: it.Name})
	}
	return nil
}

// Update takes a changed object.
func (s *sink[O, V]) Update(obj any) error { return s.Add(obj) }

// Delete takes an object that is gone or does not match the selectors any more.
func (s *sink[O, V]) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("%s: received a %T", s.kind, obj)
	}
	s.book.Set(s.key(o.GetNamespace(), o.GetName()), nil)
	s.remove(model.Name{Namespace: o.GetNamespace(), Name: o.GetName()})
	return nil
}

// Replace takes the full truth, at the start and whenever the watch lost touch:
// what is not in it is gone.
func (s *sink[O, V]) Replace(list []any, _ string) error {
	values := make([]V, 0, len(list))
	seen := make(map[string]bool, len(list))
	for _, obj := range list {
		it, err := s.item(obj)
		if err != nil {
			return err
		}
		key := s.key(it.Namespace, it.Name)
		seen[key] = true
		s.book.Set(key, it.problems)
		if it.value != nil {
			values = append(values, *it.value)
		}
	}
	for _, key := range s.book.Keys(s.kind + " ") {
		if !seen[key] {
			s.book.Set(key, nil)
		}
	}
	s.replace(values)
	s.link.heard()
	return nil
}

// Resync has nothing to do: no store, nothing to repeat.
func (s *sink[O, V]) Resync() error { return nil }

// UpdateResourceVersion is called for every event, also for the bookmarks that
// only say that the watch is alive.
func (s *sink[O, V]) UpdateResourceVersion(string) { s.link.heard() }
