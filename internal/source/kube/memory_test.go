// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/test/apiserver"
)

// childURL is set in the process that TestMemory measures, in which nothing
// runs but the Source.
const childURL = "BEELINE_TEST_API_SERVER"

// TestMemory loads 10,000 Services with 10 endpoints each, as an API server
// has them, and holds the live heap to a fifth of what the whole agent may use.
func TestMemory(t *testing.T) {
	if url := os.Getenv(childURL); url != "" {
		measure(t, url)
		return
	}
	if testing.Short() {
		t.Skip("needs a second process and some seconds")
	}
	api := apiserver.New(t)
	for i := range 10_000 {
		api.Put(large(i)...)
	}
	api.Put(node("n1", "192.0.2.1"))
	api.Forget()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestMemory$", "-test.v")
	cmd.Env = append(os.Environ(), childURL+"="+api.URL)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func measure(t *testing.T, url string) {
	found, err := Access{Server: url, QPS: -1}.Config()
	if err != nil {
		t.Fatal(err)
	}
	rc := found.Config
	client, err := NewClient(rc)
	if err != nil {
		t.Fatal(err)
	}
	store := snapshot.New(time.Now)
	src := New(Config{Client: client, NodeName: "n1", Store: store, Log: slog.New(slog.DiscardHandler)})
	begin := time.Now()
	go func() { _ = src.Run(t.Context()) }()
	eventually(t, "synced", store.HasSynced)
	took := time.Since(begin)
	if n := len(store.Take().Services); n != 10_000 {
		t.Errorf("%d Services", n)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			t.Log(strings.Join(strings.Fields(line), " "))
		}
	}
	t.Logf("synced in %v, live heap %d MiB", took, m.HeapAlloc>>20)
	if m.HeapAlloc > 30<<20 {
		t.Errorf("live heap of %d bytes", m.HeapAlloc)
	}
	runtime.KeepAlive(src)
}

// large is a Service and its slice with what such objects carry in a cluster.
func large(i int) []apiruntime.Object {
	name := fmt.Sprint("service-", i)
	managed := []metav1.ManagedFieldsEntry{{
		Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate,
		FieldsV1: metav1.NewFieldsV1(`{"f:x":{` + strings.Repeat(`"f:metadata":{},`, 100) + `"f:y":{}}}`),
	}}
	svc := service(name, fmt.Sprintf("10.96.%d.%d", i/256, i%256))
	svc.ManagedFields = managed
	slice := endpointSlice(name+"-abcde", name)
	slice.ManagedFields = managed
	yes, zone := true, "eu-1a"
	for j := range 10 {
		n := i*10 + j
		host := fmt.Sprintf("node-%d.example.com", n%500)
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&255, n&255)},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			NodeName:   &host, Zone: &zone,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: fmt.Sprintf("%s-6d4cf56db6-%05d", name, j),
				UID: types.UID("01234567-89ab-cdef-0123-456789abcdef")},
		})
	}
	return []apiruntime.Object{svc, slice}
}
