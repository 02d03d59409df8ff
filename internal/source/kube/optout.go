// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/source/object"
)

// SocketBalancing is the annotation of a Pod or a Namespace that says whether
// its sockets are balanced: "true" or "false". A Pod's goes before that of its
// Namespace; anything else counts as not given, and is reported.
const SocketBalancing = "beeline.dev/socket-balancing"

// kubelet names the cgroup of a static pod after its file's hash, which is the
// mirror pod's annotation (pkg/kubelet/types/pod_update.go).
const configHash = "kubernetes.io/config.hash"

// OptOuts follows which pods of this node want their sockets left alone. It
// reads Pods of this node and all Namespaces, which kube-proxy's ClusterRole
// does not allow.
type OptOuts struct {
	cfg     Config
	changed func(uids []string)

	mu         sync.Mutex
	pods       map[model.Name]optPod
	namespaces map[string]wish
	// readPods and readNamespaces: the first list is complete.
	readPods, readNamespaces bool
	told                     []string
	ever                     bool
}

// wish is what an annotation says.
type wish uint8

const (
	unsaid wish = iota
	balanced
	alone
)

// optPod is what matters of a pod; uid as its cgroup has it.
type optPod struct {
	name model.Name
	uid  string
	wish wish
}

// optNamespace is what matters of a Namespace.
type optNamespace struct {
	name string
	wish wish
}

// NewOptOuts prepares one. changed is called with the sorted UIDs of the pods
// whenever these are others, the first time once everything is known; from one
// goroutine at a time. It may block.
func NewOptOuts(cfg Config, changed func(uids []string)) *OptOuts {
	return &OptOuts{cfg: cfg, changed: changed, pods: map[model.Name]optPod{}, namespaces: map[string]wish{}}
}

// Run lists and watches until ctx ends.
func (o *OptOuts) Run(ctx context.Context) error {
	book := object.NewBook(o.cfg.Log, o.cfg.Report)
	pods := &sink[*corev1.Pod, optPod]{
		kind: "Pod", book: book, convert: convertPod,
		set:     func(p optPod) { o.update(func() { o.pods[p.name] = p }) },
		remove:  func(name model.Name) { o.update(func() { delete(o.pods, name) }) },
		replace: o.replacePods,
	}
	namespaces := &sink[*corev1.Namespace, optNamespace]{
		kind: "Namespace", book: book, convert: convertNamespace,
		set:     func(n optNamespace) { o.update(func() { o.namespaces[n.name] = n.wish }) },
		remove:  func(name model.Name) { o.update(func() { delete(o.namespaces, name.Name) }) },
		replace: o.replaceNamespaces,
	}
	here := fields.OneTermEqualSelector("spec.nodeName", o.cfg.NodeName).String()
	var running sync.WaitGroup
	running.Go(func() { follow(ctx, o.cfg.Client.core, "pods", "", here, &corev1.Pod{}, pods) })
	running.Go(func() { follow(ctx, o.cfg.Client.core, "namespaces", "", "", &corev1.Namespace{}, namespaces) })
	running.Wait()
	return nil
}

func (o *OptOuts) replacePods(all []optPod) {
	o.update(func() {
		clear(o.pods)
		for _, p := range all {
			o.pods[p.name] = p
		}
		o.readPods = true
	})
}

func (o *OptOuts) replaceNamespaces(all []optNamespace) {
	o.update(func() {
		clear(o.namespaces)
		for _, n := range all {
			o.namespaces[n.name] = n.wish
		}
		o.readNamespaces = true
	})
}

// update changes what is known and tells what follows from it.
func (o *OptOuts) update(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
	if !o.readPods || !o.readNamespaces {
		return
	}
	uids := map[string]bool{}
	for _, p := range o.pods {
		if p.wish == alone || p.wish == unsaid && o.namespaces[p.name.Namespace] == alone {
			uids[p.uid] = true
		}
	}
	now := slices.Sorted(maps.Keys(uids))
	if o.ever && slices.Equal(now, o.told) {
		return
	}
	o.told, o.ever = now, true
	o.changed(now)
}

// convertPod leaves out pods that have ended: their cgroup is gone.
func convertPod(p *corev1.Pod) (*optPod, []object.Problem) {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	uid := string(p.UID)
	if hash := p.Annotations[configHash]; hash != "" {
		uid = hash
	}
	w, problems := wishOf("Pod", p)
	return &optPod{name: model.Name{Namespace: p.Namespace, Name: p.Name}, uid: uid, wish: w}, problems
}

func convertNamespace(n *corev1.Namespace) (*optNamespace, []object.Problem) {
	w, problems := wishOf("Namespace", n)
	return &optNamespace{name: n.Name, wish: w}, problems
}

func wishOf(kind string, o metav1.Object) (wish, []object.Problem) {
	text, given := o.GetAnnotations()[SocketBalancing]
	if !given {
		return unsaid, nil
	}
	yes, err := strconv.ParseBool(text)
	switch {
	case err != nil:
		return unsaid, []object.Problem{{
			Object:  object.Ref(kind, o.GetNamespace(), o.GetName()),
			Message: "metadata.annotations[" + SocketBalancing + "]: " + strconv.Quote(text) + ` is neither "true" nor "false"`,
		}}
	case yes:
		return balanced, nil
	}
	return alone, nil
}
