/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet asks for, and who asks: the frontend it reaches, where its
 * client is, and whether the client may pass. Order and exceptions are those
 * of kube-proxy's rules (pkg/proxy/nftables).
 */
#ifndef BEELINE_FRONTEND_H
#define BEELINE_FRONTEND_H

#include "lb.h"
#include "node_port.h"
#include "packet_config.h"
#include "packet_maps.h"
#include "parse.h"

/* An address that names one sender. Others are for the kernel to refuse. */
static __always_inline bool source_is_sane(const struct packet *pkt)
{
	const struct ip_addr *src = &pkt->tuple.src;
	__u32 top;

	if (ip_equal(src, &pkt->tuple.dst))
		return false;
	if (pkt->family == 4) {
		top = bpf_ntohl(src->word[3]) >> 24;
		return top && top != 127 && top < 224;
	}
	return (bpf_ntohl(src->word[0]) >> 24) != 0xff &&
	       (src->word[0] || src->word[1] || src->word[2] ||
		bpf_ntohl(src->word[3]) > 1);
}

/* An address of its own goes before a NodePort on the node's, and both before
 * the address as such. */
static __always_inline struct frontend *
packet_frontend(const struct packet *pkt)
{
	struct frontend_key key = {
		.addr = pkt->tuple.dst,
		.port = pkt->tuple.dport,
		.protocol = pkt->tuple.protocol,
	};
	struct frontend *f = bpf_map_lookup_elem(&frontends, &key);

	if (f)
		return f;
	f = node_port_frontend(&key);
	if (f)
		return f;
	if (!config_refuse_unknown_ports)
		return NULL;
	key.port = 0;
	key.protocol = 0;
	return bpf_map_lookup_elem(&frontends, &key);
}

/* The frontend of an address as such: whose it is, whatever the port. */
static __always_inline struct frontend *
address_frontend(const struct ip_addr *addr)
{
	struct frontend_key key = { .addr = *addr };

	return bpf_map_lookup_elem(&frontends, &key);
}

/* Pods first, then the node: in this order kube-proxy's rules come. */
static __always_inline enum scope client_scope(const struct packet *pkt)
{
	struct pod_range_key key = {
		.prefixlen = 128,
		.addr = pkt->tuple.src,
	};

	if (config_pod_device || bpf_map_lookup_elem(&pod_ranges, &key))
		return SCOPE_POD;
	return local_addr(&pkt->tuple.src) ? SCOPE_NODE : SCOPE_EXTERNAL;
}

/* Source ranges bind every client, inside the cluster and out. */
static __always_inline bool source_allowed(const struct frontend *f,
					   const struct packet *pkt)
{
	struct source_range_key key = {
		.prefixlen = 32 + 128,
		.service = f->service,
		.addr = pkt->tuple.src,
	};

	return !(f->flags & FRONTEND_SOURCE_RANGES) ||
	       bpf_map_lookup_elem(&source_ranges, &key);
}

static __always_inline enum set_kind policy_set(const struct frontend *f,
						enum scope scope)
{
	__u32 local = scope == SCOPE_EXTERNAL ? FRONTEND_EXTERNAL_LOCAL :
						FRONTEND_INTERNAL_LOCAL;

	return f->flags & local ? SET_LOCAL : SET_CLUSTER;
}

/* Whether kube-proxy would masquerade, hairpin aside. */
static __always_inline bool policy_masquerades(const struct frontend *f,
					       const struct packet *pkt,
					       enum scope scope)
{
	bool detects =
		pkt->family == 4 ? config_detect_local4 : config_detect_local6;

	if (f->flags & FRONTEND_CLUSTER_IP)
		return config_masquerade_all || (detects && scope != SCOPE_POD);
	return !(f->flags & FRONTEND_EXTERNAL_LOCAL) || scope == SCOPE_NODE;
}

/*
 * Whether the backend must see an address of the node. Where its answer comes
 * by here anyway, an external frontend's sees the client's own, unless one asks
 * for kube-proxy's ways; a backend that is its own client would answer itself.
 * The node's own processes never do: the stack refuses packets from itself, and
 * netfilter masquerades only what leaves.
 */
static __always_inline bool
source_nat(const struct frontend *f, const struct packet *pkt, enum scope scope,
	   const struct ip_addr *backend, bool local)
{
	if (local_addr(backend))
		return false;
	if (local && ip_equal(backend, &pkt->tuple.src))
		return true;
	if (local && scope == SCOPE_EXTERNAL && !config_masquerade_local &&
	    !(f->flags & FRONTEND_CLUSTER_IP))
		return false;
	return policy_masquerades(f, pkt, scope);
}

#endif
