// SPDX-License-Identifier: Apache-2.0

// Package object turns API objects into the model's values, for every source
// of such objects.
//
// What kube-proxy leaves out on purpose (headless Services, slices of other
// proxies, addresses with ipMode Proxy, ...) is left out silently. What nobody
// can use is reported, since a manifest has no API server that would refuse
// it. The rule for what is then used:
//
//   - a part that cannot be used is left out as if it had not been written;
//     the rest of the object stays in use,
//   - an object without a valid name, a Service without a valid ClusterIP and a
//     slice without a valid address type are not used at all,
//   - leaving something out never opens what was meant to be closed: an
//     unreadable source range withholds the LoadBalancer addresses that no
//     other range protects.
//
// Whether an address may be claimed (loopback, metadata, a node's own) is not
// decided here but in the plan, for all sources alike.
package object

import (
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/beeline-net/beeline/internal/model"
)

// intern makes equal strings share memory. Every object comes with its own
// copy of names that thousands of others have too.
func intern(s string) string { return unique.Make(s).Value() }

// objectName checks an object's name and namespace.
func (c *checker) objectName(valid func(string) bool, rule string) (model.Name, bool) {
	switch {
	case !isLabel(c.namespace):
		c.addf("metadata.namespace: %s is not a DNS label of up to %d characters", quote(c.namespace), maxLabel)
	case !valid(c.name):
		c.addf("metadata.name: %s is not a DNS %s", quote(c.name), rule)
	default:
		return model.Name{Namespace: intern(c.namespace), Name: c.name}, true
	}
	return model.Name{}, false
}

func (c *checker) uid(meta *metav1.ObjectMeta) string {
	if len(meta.UID) > maxUID {
		c.addf("metadata.uid: longer than %d characters", maxUID)
		return ""
	}
	return string(meta.UID)
}
