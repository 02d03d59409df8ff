// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kjson "sigs.k8s.io/json"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// Stated reads a folder and returns the Services in it that want accepts, with
// their slices, and the pods that are in it, too. It is for people who ask why:
// what is not proxied is there as well, and what cannot be read is left out.
func Stated(dir string, want func(*model.Stated) bool) ([]model.Stated, error) {
	s := New(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	_, names, err := s.list()
	if err != nil {
		return nil, err
	}
	f := heap{slices: map[model.Name][]model.StatedSlice{}}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		data, err := s.read(name, info)
		if err != nil {
			continue
		}
		docs, err := split(name, data)
		if err != nil {
			continue
		}
		for _, d := range docs {
			if text, err := toJSON(d.data); err == nil {
				f.add(text, "")
			}
		}
	}
	return f.join(want), nil
}

// heap is what a folder says, not put together yet.
type heap struct {
	services []corev1.Service
	slices   map[model.Name][]model.StatedSlice
	pods     []corev1.Pod
}

// add takes one document; kind is that of the list around it.
func (f *heap) add(data []byte, kind string) {
	var meta metav1.TypeMeta
	if kjson.UnmarshalCaseSensitivePreserveInts(data, &meta) != nil {
		return
	}
	if meta.Kind == "" {
		meta.Kind = kind
	}
	switch meta.Kind {
	case "Service":
		var in corev1.Service
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &in) == nil {
			defaultService(&in)
			f.services = append(f.services, in)
		}
	case "EndpointSlice":
		var in discoveryv1.EndpointSlice
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &in) == nil {
			defaultSlice(&in)
			if s, service, ok := object.StatedSlice(&in); ok {
				f.slices[service] = append(f.slices[service], s)
			}
		}
	case "Pod":
		var in corev1.Pod
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &in) == nil {
			f.pods = append(f.pods, in)
		}
	default:
		var l list
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &l) == nil {
			for _, item := range l.Items {
				f.add(item, trimList(meta.Kind))
			}
		}
	}
}

func trimList(kind string) string {
	const suffix = "List"
	if len(kind) > len(suffix) && kind[len(kind)-len(suffix):] == suffix {
		return kind[:len(kind)-len(suffix)]
	}
	return ""
}

func (f *heap) join(want func(*model.Stated) bool) []model.Stated {
	var all []model.Stated
	for i := range f.services {
		in := &f.services[i]
		s := object.StatedService(in)
		if !want(&s) {
			continue
		}
		s.Slices = f.slices[s.Name]
		if len(f.pods) > 0 && len(in.Spec.Selector) > 0 {
			s.Pods = f.selected(s.Name.Namespace, in.Spec.Selector)
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b model.Stated) int { return a.Name.Compare(b.Name) })
	return all
}

func (f *heap) selected(namespace string, selector map[string]string) []model.StatedPod {
	matches := labels.SelectorFromSet(selector)
	pods := []model.StatedPod{}
	for i := range f.pods {
		if p := &f.pods[i]; p.Namespace == namespace && matches.Matches(labels.Set(p.Labels)) {
			pods = append(pods, object.StatedPod(p))
		}
	}
	return pods
}
