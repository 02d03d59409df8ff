// SPDX-License-Identifier: Apache-2.0

// Package plan decides what the kernel has to know: from Services, their
// endpoints, this node and the configuration it computes frontends, backends
// and the sets that each client may pick from. The rules are kube-proxy's
// (k8s.io/kubernetes/pkg/proxy v1.37); where one is not obvious, its source is
// named beside it.
//
// The package is pure: no I/O, no clock, no goroutine. A Planner remembers what
// it was told and answers every change with the plans that changed by it; the
// order of the changes leaves no trace.
//
// # Who gets an address
//
// A frontend key (address, port, protocol) belongs to one Service. A ClusterIP
// wins over every other kind, because the API server has allotted it; then the
// older Service wins, then the one whose name sorts first. The others are
// reported as a Problem and take over when the winner goes.
//
// # No loops
//
// No member of a set is a frontend, so whatever a backend is sent reaches it
// untranslated, on every node:
//
//   - An ExternalIP that is any Service's endpoint yields: the key stays claimed
//     but is not planned. Whoever may create a Service may write one, and must
//     not take endpoints away from others by it (pains D2).
//   - An endpoint that is some Service's frontend of another kind is no backend
//     of another Service, nor is a ClusterIP of its own. Those addresses are
//     allotted, not wished for.
//   - If an endpoint is an external frontend of its own Service (pods in the host
//     network behind a node's address and the same port), the frontend yields:
//     the key stays claimed but is not planned, and its clients reach that
//     endpoint directly.
//
// A NodePort counts as a frontend on this node's addresses. What the plan cannot
// see is that an endpoint is the NodePort of another node; such a packet may be
// handed on, as with kube-proxy, until its TTL ends.
package plan
