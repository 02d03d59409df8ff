/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragments. Only the first one shows the ports; it leaves them for those that
 * follow. One that comes too early cannot be held back, but can be sent round:
 * it comes in by its device once more, behind what waits there already, which
 * is usually the first one. ADR 0012.
 */
#ifndef BEELINE_FRAG_H
#define BEELINE_FRAG_H

#include "affinity.h"
#include "drop.h"
#include "frontend.h"
#include "rate.h"

/* How long a receiver waits for the rest: net.ipv4.ipfrag_time. */
#define FRAGMENT_TIMEOUT_NS (30 * NSEC_PER_SEC)

/* How long one is sent round, and how often a CPU does that in a second: some
 * percent of its time at most, whoever sends fragments without a first one. */
#define FRAGMENT_AWAIT_NS (10 * 1000 * 1000)
#define FRAGMENT_ROUNDS_PER_SEC 50000
#define FRAGMENT_ROUNDS_BURST 5000

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

/* Called for the first fragment of a packet, which is ours or not. */
static __noinline void fragment_remember(const struct packet *pkt, __u32 state)
{
	struct fragment_key key = fragment_key(pkt);
	struct fragment ports = {
		.seen_ns = bpf_ktime_get_coarse_ns(),
		.sport = pkt->tuple.sport,
		.dport = pkt->tuple.dport,
		.state = state,
	};

	bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

/* Gives a later fragment the ports of its first. Returns what is known of that,
 * FRAGMENT_AWAITED for nothing. */
static __noinline __u32 fragment_recall(struct packet *pkt)
{
	struct fragment_key key = fragment_key(pkt);
	struct fragment *ports = bpf_map_lookup_elem(&fragments, &key);

	if (!ports || idle_ns(bpf_ktime_get_coarse_ns(), ports->seen_ns) >
			      FRAGMENT_TIMEOUT_NS)
		return FRAGMENT_AWAITED;
	pkt->tuple.sport = ports->sport;
	pkt->tuple.dport = ports->dport;
	return ports->state;
}

static __always_inline bool fragment_token(__u64 now)
{
	__u32 zero = 0;
	struct rate_bucket *b = bpf_map_lookup_elem(&fragment_tokens, &zero);

	return b && rate_take(b, now, FRAGMENT_ROUNDS_PER_SEC,
			      FRAGMENT_ROUNDS_BURST);
}

/* Whether one that came too early is to be sent round. */
static __noinline bool fragment_await(const struct packet *pkt)
{
	struct fragment_key key = fragment_key(pkt);
	struct fragment since = {
		.seen_ns = bpf_ktime_get_ns(),
		.state = FRAGMENT_AWAITED,
	};
	struct fragment *known = bpf_map_lookup_elem(&fragments, &key);
	__u64 waited = known ? idle_ns(since.seen_ns, known->seen_ns) : 0;

	if (!known || waited > FRAGMENT_TIMEOUT_NS)
		bpf_map_update_elem(&fragments, &key, &since, BPF_ANY);
	else if (waited > FRAGMENT_AWAIT_NS)
		return false;
	return fragment_token(since.seen_ns);
}

/* One whose first fragment has not come yet. Where the address is a Service's
 * and nobody else's, the stack has no use for it either. */
static __noinline int fragment_early(ctx_t *ctx, const struct packet *pkt,
				     enum hook hook)
{
	if (hook != HOOK_INGRESS)
		return pass();
	if (fragment_await(pkt))
		return bpf_redirect(ctx->ifindex, BPF_F_INGRESS);
	if (address_frontend(&pkt->tuple.dst))
		return drop(COUNTER_FRAGMENT_EARLY);
	return pass();
}

#endif
