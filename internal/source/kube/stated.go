// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// statedPage is how many objects one request returns: an explanation must not
// hold a large cluster in memory.
const statedPage = 250

// Stated asks the API server for the Services that want accepts, whether they
// are proxied or not, with their slices and, where we may list them, their pods.
// A name narrows it to one; the zero name looks through all of them.
func (c *Client) Stated(ctx context.Context, name model.Name, want func(*model.Stated) bool) ([]model.Stated, error) {
	var all []model.Stated
	selectors := map[model.Name]map[string]string{}
	o := metav1.ListOptions{}
	if name.Name != "" {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name.Name).String()
	}
	err := pages(ctx, c.core, "services", name.Namespace, o, func() runtime.Object { return &corev1.ServiceList{} }, func(page runtime.Object) string {
		l := page.(*corev1.ServiceList)
		for i := range l.Items {
			s := object.StatedService(&l.Items[i])
			if want(&s) {
				selectors[s.Name] = l.Items[i].Spec.Selector
				all = append(all, s)
			}
		}
		return l.Continue
	})
	if err != nil {
		return nil, c.explain("services", err)
	}
	for i := range all {
		if err := c.statedSlices(ctx, &all[i]); err != nil {
			return nil, c.explain("endpointslices", err)
		}
		if selector := selectors[all[i].Name]; len(selector) > 0 {
			all[i].Pods = c.statedPods(ctx, all[i].Name.Namespace, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
		}
	}
	return all, nil
}

func (c *Client) statedSlices(ctx context.Context, s *model.Stated) error {
	o := metav1.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name.Name}).String()}
	return pages(ctx, c.discovery, "endpointslices", s.Name.Namespace, o, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }, func(page runtime.Object) string {
		l := page.(*discoveryv1.EndpointSliceList)
		for i := range l.Items {
			if slice, _, ok := object.StatedSlice(&l.Items[i]); ok {
				s.Slices = append(s.Slices, slice)
			}
		}
		return l.Continue
	})
}

// statedPods returns nil where we may not list pods: kube-proxy's ClusterRole
// does not allow it, an administrator's does.
func (c *Client) statedPods(ctx context.Context, namespace string, o metav1.ListOptions) []model.StatedPod {
	pods := []model.StatedPod{}
	err := pages(ctx, c.core, "pods", namespace, o, func() runtime.Object { return &corev1.PodList{} }, func(page runtime.Object) string {
		l := page.(*corev1.PodList)
		for i := range l.Items {
			pods = append(pods, object.StatedPod(&l.Items[i]))
		}
		return l.Continue
	})
	if err != nil {
		return nil
	}
	return pods
}

// Pod finds a pod; nil if there is none, or we may not look.
func (c *Client) Pod(ctx context.Context, name model.Name) *model.StatedPod {
	pods := c.statedPods(ctx, name.Namespace, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name.Name).String(),
	})
	if len(pods) == 0 {
		return nil
	}
	return &pods[0]
}

// pages lists page by page. A list that goes stale on the way ends there: who
// wants to know asks again.
func pages(ctx context.Context, g rest.Interface, resource, namespace string, o metav1.ListOptions,
	empty func() runtime.Object, page func(runtime.Object) (next string),
) error {
	o.Limit = statedPage
	for {
		into := empty()
		r := g.Get().Resource(resource).VersionedParams(&o, metav1.ParameterCodec)
		if namespace != "" {
			r = r.Namespace(namespace)
		}
		err := r.Do(ctx).Into(into)
		if o.Continue != "" && apierrors.IsResourceExpired(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.Continue = page(into); o.Continue == "" {
			return nil
		}
	}
}
