// SPDX-License-Identifier: Apache-2.0

package inspect

// Meaning says in words what a counter's name means, for people who look for
// the cause of a failure; empty if there is nothing to add to the name.
func Meaning(reason string) string {
	return map[string]string{
		"no_backend":            "the Service has no usable endpoint anywhere; the client is refused",
		"no_local_backend":      "traffic policy Local, and no usable endpoint on this node",
		"unknown_port":          "the Service has no such port",
		"stale_table":           "a table pointed nowhere: please report this",
		"tcp_peer_map_full":     "no room to remember what a TCP socket asked for: raise maps.peers",
		"udp_peer_no_memory":    "the kernel had no memory for a UDP socket's record",
		"udp_peer_evicted":      "a UDP socket talks to more than eight Services",
		"source_range":          "spec.loadBalancerSourceRanges does not let this client pass",
		"cluster_ip_outside":    "ClusterIPs are closed to clients outside the cluster",
		"flow_table_full":       "the flow table is full of established flows",
		"flow_evicted":          "a half-open flow made room for a new one",
		"flow_stray":            "ends a connection that nobody knows",
		"snat_no_port":          "no free port was found for source NAT",
		"snat_no_address":       "the way out has no address for source NAT",
		"no_route":              "there is no route to the backend or client",
		"too_big":               "exceeds the MTU of its way; its sender is told if it asked for that",
		"ttl_expired":           "its time to live is used up",
		"fragment_early":        "came before its first fragment",
		"handed_back":           "a flow went back to the stack: the node is being handed over to kube-proxy",
		"martian":               "names a loopback address, and came from outside",
		"unassigned_cluster_ip": "an address in a Service range that no Service has",
		"flow_busy":             "another CPU was at work at the same place of the flow table for too long",
		"ipv6_extensions":       "passed on untranslated: more IPv6 extension headers than are looked at",
		"malformed":             "cannot be translated as it is",
		"rewrite_failed":        "the kernel refused to change the packet",
		"icmp_limited":          "an ICMP answer was not sent: rate limit",
	}[reason]
}
