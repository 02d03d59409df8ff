/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Living beside another proxy while the node is handed over, in either
 * direction (ADR 0016). A flow stays with whoever began it: those that
 * netfilter translates already are named in `kept_flows`, and in a rollback
 * nothing new is begun here. Otherwise both settings are off, and none of this
 * is in the programs.
 */
#ifndef BEELINE_HANDOVER_H
#define BEELINE_HANDOVER_H

#include "config.h"
#include "ip.h"
#include "maps.h"

/* Not inlined: the key would not fit into the stack of who calls. */
static __noinline bool kept_flow_known(const struct flow_tuple *tuple)
{
	struct flow_tuple key = *tuple;

	return bpf_map_lookup_elem(&kept_flows, &key);
}

/* Whether netfilter has the flow that a packet with this tuple belongs to, in
 * either direction. */
static __always_inline bool kept_flow(const struct flow_tuple *tuple)
{
	return config_keep_flows && kept_flow_known(tuple);
}

/* The same for what a socket sends to a Service. Its own address is not known
 * here; another socket that is mistaken for the one goes netfilter's way, too,
 * which leads to a backend as long as kept flows lead there. `sport` is in host
 * order. */
static __always_inline bool kept_flow_of_port(__u32 sport,
					      const struct ip_addr *vip,
					      __be16 dport, __u8 protocol)
{
	struct flow_tuple key = {
		.dst = *vip,
		.sport = bpf_htons((__u16)sport),
		.dport = dport,
		.protocol = protocol,
	};

	return config_keep_flows && bpf_map_lookup_elem(&kept_flows, &key);
}

#endif
