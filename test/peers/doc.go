// SPDX-License-Identifier: Apache-2.0

// Package peers holds Beeline side by side with the real kube-proxy. Each runs
// on the nodes of a cluster's network of its own, made of namespaces, and both
// read the same API server. The same probes then go through both networks: who
// answers, whom that takes for the client, and how what is not served fails;
// from clients outside, nodes, pods, pods whose sockets Beeline does not see or
// leaves alone; in the end over links that are narrower than the hosts know.
//
// Every difference is either a line of docs/reference/differences.md or an
// error, and every line that can show here must show.
package peers
