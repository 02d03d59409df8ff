/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Getting a translated packet to where it is translated to. The stack takes
 * what it would have taken anyway; what left with another source does not go
 * through the stack, which would find a packet from itself.
 */
#ifndef BEELINE_FORWARD_H
#define BEELINE_FORWARD_H

#include "drop.h"
#include "fib.h"
#include "icmp_answer.h"
#include "packet_told.h"
#include "rewrite.h"

/* Hook and direction in one argument: there are five at most. */
#define FORWARD_AT(hook, direction) ((hook) | (direction) << 1)

struct route {
	struct bpf_fib_lookup fib;
	__u8 way; /* enum way */
};

static __always_inline bool needs_route(enum hook hook, __u8 direction,
					__u32 flags)
{
	if (hook == HOOK_EGRESS) /* replies are on their way already */
		return direction == FLOW_REQUEST;
	return direction == FLOW_REPLY || flags & FLOW_SNAT ||
	       config_redirect_local;
}

/* Where a packet is cut that is too big for its way and may be: the stack does
 * it. It takes no packet from an address of this node that comes in by a
 * device, except by the loopback device, if told so (ADR 0026). */
static __noinline enum way way_of_fragments(const struct flow_tuple *to,
					    enum hook hook)
{
	if (hook == HOOK_INGRESS && !local_addr(&to->src))
		return WAY_STACK;
	return config_cut_by_loopback ? WAY_LOOPBACK : WAY_NONE;
}

/* Finds the way before the packet is changed, so that an ICMP answer can quote
 * it as its sender knows it. Returns TC_ACT_OK to go on; else the packet is
 * dealt with. */
static __always_inline int find_route(ctx_t *ctx, const struct packet *pkt,
				      const struct flow_tuple *to,
				      enum hook hook, __u8 direction,
				      __u32 flags, struct route *route)
{
	route->way = WAY_STACK;
	if (!needs_route(hook, direction, flags))
		return TC_ACT_OK;
	/* Source rules apply to the source that came in, as in the stack. */
	route->way = fib_way(ctx, pkt, &pkt->tuple.src, &to->dst, &route->fib);
	switch (route->way) {
	case WAY_NONE:
		return drop(COUNTER_NO_ROUTE);
	case WAY_TOO_BIG:
		if (!pkt->dont_fragment) {
			route->way = way_of_fragments(to, hook);
			if (route->way != WAY_NONE)
				return TC_ACT_OK;
		}
		packet_drop(ctx, pkt, hook, COUNTER_TOO_BIG);
		if (!pkt->dont_fragment)
			return TC_ACT_SHOT;
		return icmp_answer(ctx, pkt, ICMP_ANSWER_TOO_BIG,
				   route->fib.mtu_result, hook);
	case WAY_REDIRECT:
		if (pkt->ttl > 1)
			return TC_ACT_OK;
		packet_drop(ctx, pkt, hook, COUNTER_TTL_EXPIRED);
		return icmp_answer(ctx, pkt, ICMP_ANSWER_TTL, 0, hook);
	default:
		return TC_ACT_OK;
	}
}

/* A tag belongs to the link that the packet came from. */
static __always_inline bool untag(ctx_t *ctx, const struct packet *pkt)
{
	for (int i = 0; i < VLAN_TAGS; i++)
		if ((i < pkt->vlan_tags ||
		     (i == pkt->vlan_tags && ctx->vlan_present)) &&
		    bpf_skb_vlan_pop(ctx))
			return false;
	return true;
}

#define LOOPBACK_IFINDEX 1

/* Makes the packet come in by the loopback device, whose address is all 0. */
static __noinline int leave_by_loopback(ctx_t *ctx, const struct packet *pkt)
{
	struct ethhdr link = { .h_proto = bpf_htons(ETH_P_IP) };

	if (!untag(ctx, pkt) ||
	    (config_no_link_header && !ctx_push_link_header(ctx)) ||
	    !ctx_store(ctx, 0, &link, sizeof(link), false))
		return drop(COUNTER_REWRITE_FAILED);
	return bpf_redirect(LOOPBACK_IFINDEX, BPF_F_INGRESS);
}

/* Sends the rewritten packet off. */
static __always_inline int leave(ctx_t *ctx, const struct packet *pkt,
				 const struct route *route, enum hook hook,
				 __u32 flags)
{
	if (flags & FLOW_TURNED)
		return turn_around(ctx, hook);
	if (route->way == WAY_LOOPBACK)
		return leave_by_loopback(ctx, pkt);
	if (route->way != WAY_REDIRECT)
		return pass();
	/* bpf_redirect_neigh() drops what has no link header to replace. */
	if (!rewrite_ttl(ctx, pkt) || !untag(ctx, pkt) ||
	    (config_no_link_header && !ctx_push_link_header(ctx)))
		return drop(COUNTER_REWRITE_FAILED);
	return fib_redirect(&route->fib);
}

/* Translates a packet of a flow and sends it off. Returns what the program is
 * to return. */
__noinline int forward(ctx_t *ctx, const struct packet *pkt,
		       const struct flow_tuple *to, __u32 at, __u32 flags)
{
	enum hook hook = at & 1;
	__u8 direction = at >> 1 & 1;
	struct route route;
	int done;

	if (!pkt || !to)
		return TC_ACT_SHOT;
	done = find_route(ctx, pkt, to, hook, direction, flags, &route);
	if (done != TC_ACT_OK)
		return done;
	if (!rewrite(ctx, pkt, to))
		return drop(COUNTER_REWRITE_FAILED);
	return leave(ctx, pkt, &route, hook, flags);
}

#endif
