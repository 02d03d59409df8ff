// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/beeline-net/beeline/internal/source/object"
	"github.com/beeline-net/beeline/test/apiserver"
)

func optMeta(namespace, name, wish string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name}
	if wish != "" {
		m.Annotations = map[string]string{SocketBalancing: wish}
	}
	return m
}

func optPodOn(node, namespace, name, wish string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: optMeta(namespace, name, wish), Spec: corev1.PodSpec{NodeName: node}}
	p.UID = types.UID("uid-" + name)
	return p
}

func optNamespaceNamed(name, wish string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: optMeta("", name, wish)}
}

// Pains A17: a pod's own word goes before its Namespace's.
func TestA17OptOutsFollowPodsAndNamespaces(t *testing.T) {
	api := apiserver.New(t)
	static := optPodOn("n1", "kube-system", "static", "false")
	static.Annotations[configHash] = "abc123"
	done := optPodOn("n1", "plain", "done", "false")
	done.Status.Phase = corev1.PodSucceeded
	api.Put(
		optNamespaceNamed("plain", ""), optNamespaceNamed("mesh", "false"), optNamespaceNamed("kube-system", ""),
		optPodOn("n1", "plain", "a", ""), optPodOn("n1", "plain", "b", "false"), optPodOn("n1", "plain", "odd", "off"),
		optPodOn("n1", "mesh", "c", ""), optPodOn("n1", "mesh", "d", "true"), optPodOn("n2", "mesh", "elsewhere", ""),
		static, done,
	)
	rc, err := Access{Server: api.URL, QPS: -1}.Config()
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(rc.Config)
	if err != nil {
		t.Fatal(err)
	}
	told, problems := make(chan []string, 10), make(chan string, 10)
	opt := NewOptOuts(Config{
		Client: client, NodeName: "n1", Log: slog.New(slog.DiscardHandler),
		Report: func(p object.Problem) { problems <- p.String() },
	}, func(uids []string) { told <- uids })
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = opt.Run(ctx) }()
	defer func() { stop(); api.CutWatches(); <-ended }()
	want := func(uids ...string) {
		t.Helper()
		select {
		case got := <-told:
			if !slices.Equal(got, uids) {
				t.Errorf("told %v, want %v", got, uids)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("not told of %v", uids)
		}
	}
	want("abc123", "uid-b", "uid-c")
	if got, want := <-problems, `Pod plain/odd: metadata.annotations[beeline.dev/socket-balancing]: "off" is neither "true" nor "false"`; got != want {
		t.Errorf("problem %q, want %q", got, want)
	}
	api.Put(optNamespaceNamed("plain", "false"))
	want("abc123", "uid-a", "uid-b", "uid-c", "uid-odd")
	api.Put(optNamespaceNamed("plain", ""), optNamespaceNamed("mesh", ""))
	want("abc123", "uid-b", "uid-c")
	want("abc123", "uid-b")
	api.Drop(optPodOn("n1", "plain", "b", "false"))
	want("abc123")
}
