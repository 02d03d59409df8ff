/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragments. Only the first one shows the ports; it leaves them for those that
 * follow. A program cannot hold back one that comes too early: ADR 0012.
 */
#ifndef BEELINE_FRAG_H
#define BEELINE_FRAG_H

#include "affinity.h"
#include "drop.h"
#include "frontend.h"

/* How long a receiver waits for the rest: net.ipv4.ipfrag_time. */
#define FRAGMENT_TIMEOUT_NS (30 * NSEC_PER_SEC)

static __always_inline struct fragment_key
fragment_key(const struct packet *pkt)
{
	struct fragment_key key = {
		.src = pkt->tuple.src,
		.dst = pkt->tuple.dst,
		.id = pkt->fragment_id,
		.protocol = pkt->tuple.protocol,
	};

	return key;
}

/* Called for the first fragment of a packet that is ours. */
static __noinline void fragment_remember(const struct packet *pkt)
{
	struct fragment_key key = fragment_key(pkt);
	struct fragment ports = {
		.seen_ns = bpf_ktime_get_coarse_ns(),
		.sport = pkt->tuple.sport,
		.dport = pkt->tuple.dport,
	};

	bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

/* Gives a later fragment the ports of its first; false if that is unknown. */
static __noinline bool fragment_recall(struct packet *pkt)
{
	struct fragment_key key = fragment_key(pkt);
	struct fragment *ports = bpf_map_lookup_elem(&fragments, &key);

	if (!ports ||
	    bpf_ktime_get_coarse_ns() - ports->seen_ns > FRAGMENT_TIMEOUT_NS)
		return false;
	pkt->tuple.sport = ports->sport;
	pkt->tuple.dport = ports->dport;
	return true;
}

/* One whose first fragment is not ours, or has not come yet. Where the address
 * is a Service's and nobody else's, the stack has no use for it either. */
static __noinline int fragment_unknown(const struct packet *pkt, enum hook hook)
{
	if (config_leave_unknown)
		return pass(); /* the first one may have been the stack's */
	if (hook == HOOK_INGRESS && address_frontend(&pkt->tuple.dst))
		return drop(COUNTER_FRAGMENT_EARLY);
	return pass();
}

#endif
