// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
	"github.com/beeline-net/beeline/test/apiserver"
)

// What the agent does not watch is there for who asks: other proxies' Services and
// headless ones, with their slices; and pods, where one may list them.
func TestStatedTellsWhatIsNotWatched(t *testing.T) {
	server := apiserver.New(t)
	server.SetLacks("pods", apierrors.NewForbidden(corev1.Resource("pods"), "", nil))
	theirs, headless := service("theirs", "10.96.0.2"), service("headless", corev1.ClusterIPNone)
	theirs.Labels = map[string]string{object.LabelProxyName: "other"}
	theirs.Spec.Selector = map[string]string{"app": "web"}
	slice := endpointSlice("theirs-x", "theirs", "10.0.0.1")
	slice.Labels[corev1.IsHeadlessService] = ""
	server.Put(service("web", "10.96.0.1"), theirs, headless, slice, endpointSlice("web-x", "web", "10.0.0.2"))
	client, err := NewClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	stated, err := client.Stated(t.Context(), model.Name{Namespace: "ns", Name: "theirs"}, func(s *model.Stated) bool { return s.Name.Name == "theirs" })
	if err != nil || len(stated) != 1 {
		t.Fatalf("%v, %v", stated, err)
	}
	s := stated[0]
	if s.OtherProxy == nil || *s.OtherProxy != "other" || s.Selector != "app=web" || s.Pods != nil {
		t.Errorf("%+v", s)
	}
	if len(s.Slices) != 1 || !s.Slices[0].Headless || s.Slices[0].Endpoints[0].Addr != "10.0.0.1" || !s.Slices[0].Endpoints[0].Ready {
		t.Errorf("its slices: %+v", s.Slices)
	}
	byAddress := func(s *model.Stated) bool { return s.Mentions("10.96.0.1") || s.Headless }
	all, err := client.Stated(t.Context(), model.Name{}, byAddress)
	if err != nil || len(all) != 2 {
		t.Errorf("by address, and headless: %+v, %v", all, err)
	}
	if pod := client.Pod(t.Context(), model.Name{Namespace: "ns", Name: "web-1"}); pod != nil {
		t.Errorf("a pod that nobody may list: %+v", pod)
	}
}
