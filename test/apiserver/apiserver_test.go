// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestListsComeInPages(t *testing.T) {
	s := New(t)
	for i := range 5 {
		s.Put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("s%d", i)}})
	}
	get := func(query string) (list corev1.ServiceList) {
		resp, err := http.Get(s.URL + "/api/v1/services?" + query)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if all := get(""); len(all.Items) != 5 || all.Continue != "" {
		t.Errorf("without a limit: %d, %q", len(all.Items), all.Continue)
	}
	var names, next string
	for pages := 1; ; pages++ {
		part := get("limit=2&continue=" + next)
		for _, o := range part.Items {
			names += o.Name + " "
		}
		if next = part.Continue; next == "" || pages > 3 {
			break
		}
	}
	if names != "s0 s1 s2 s3 s4 " {
		t.Errorf("in pages of two: %s", names)
	}
}
