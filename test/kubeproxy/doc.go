// SPDX-License-Identifier: Apache-2.0

// Package kubeproxy proves Beeline's Service semantics against kube-proxy's own
// code. Its tests invent Services, EndpointSlices and Nodes and sequences of
// changes to them, feed the same API objects to both, and compare after every
// step what a client meets at every frontend.
//
// kube-proxy is a test dependency of this module alone: the product never
// imports k8s.io/kubernetes.
package kubeproxy
