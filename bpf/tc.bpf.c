/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets that no socket of this node has sent to a backend itself: from
 * clients outside, from pods whose sockets we cannot see, and what comes back.
 * One pair of programs on every device. What comes in is translated as soon as
 * it is here; replies of this node's own backends as they leave.
 */
#include "lib/balance.h"
#include "lib/forward.h"
#include "lib/frag.h"
#include "lib/icmp_echo.h"
#include "lib/icmp_error.h"
#include "lib/packet_told.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PACKET_FOR_US 0 /* linux/if_packet.h: PACKET_HOST */

/* Work space, because the stack is short; nobody else runs on the CPU
 * meanwhile. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct balanced);
} balance_work SEC(".maps");

/* A packet without a flow, or one that begins a flow again. */
__noinline int begin(ctx_t *ctx, const struct packet *pkt, __u32 hook)
{
	struct balanced *out;
	__u32 zero = 0;
	int outcome;

	out = bpf_map_lookup_elem(&balance_work, &zero);
	if (!pkt || !out)
		return pass();
	if (hook == HOOK_INGRESS && is_martian(pkt))
		return drop(COUNTER_MARTIAN);
	__builtin_memset(out, 0, sizeof(*out));
	outcome = balance(ctx, pkt, out, hook);
	if (outcome == OUTCOME_TRANSLATE)
		outcome = balance_open(pkt, out);
	switch (outcome) {
	case OUTCOME_TRANSLATE:
	case OUTCOME_KNOWN:
		if (outcome == OUTCOME_TRANSLATE)
			packet_began(ctx, pkt, &out->to, &out->choice, hook);
		else
			packet_count(pkt, out->choice.service, FLOW_REQUEST);
		if (pkt->fragment == FRAGMENT_FIRST)
			fragment_remember(pkt, FRAGMENT_OURS);
		return forward(ctx, pkt, &out->to,
			       FORWARD_AT(hook, FLOW_REQUEST), out->flags);
	case OUTCOME_REJECT:
		packet_refused(ctx, pkt, &out->choice, EVENT_REFUSED, hook);
		return icmp_answer(ctx, pkt, ICMP_ANSWER_REFUSED, 0, hook);
	case OUTCOME_DROP:
		packet_refused(ctx, pkt, &out->choice, EVENT_DROPPED, hook);
		return TC_ACT_SHOT;
	default:
		if (pkt->fragment == FRAGMENT_FIRST && hook == HOOK_INGRESS)
			fragment_remember(pkt, FRAGMENT_OTHERS);
		return pass();
	}
}

/*
 * In a rollback: whether an answer that looks like our flow's is to a flow that
 * netfilter has begun since, because its source NAT took the same port after
 * ours had ended.
 */
static __always_inline bool flow_is_anothers(const struct flow_place *place,
					     __u8 signal, __u64 now)
{
	if (place->flow->tuple[FLOW_REQUEST].protocol == IPPROTO_UDP)
		return flow_expired(place->flow, now);
	return signal & SIGNAL_ANSWER && flow_ending(place->flow);
}

static __always_inline int established(ctx_t *ctx, const struct packet *pkt,
				       enum hook hook, struct flow_place *place)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow *flow = place->flow;
	struct flow_tuple to;
	__u32 flags;

	if (unlikely(pkt->signal & SIGNAL_MALFORMED))
		return drop(COUNTER_MALFORMED);
	if (place->direction == FLOW_REQUEST && !flow_goes_on(flow, pkt, now))
		return begin(ctx, pkt, hook);
	if (config_refuse_new && place->direction == FLOW_REPLY &&
	    flow_is_anothers(place, pkt->signal, now)) {
		flow_end(place);
		return pass();
	}
	to = flow->tuple[place->direction ^ 1];
	flow_reverse(&to);
	flags = READ_ONCE(flow->flags);
	if (!flow_still(place))
		return begin(ctx, pkt, hook);
	flow_track(flow, place->direction, pkt->signal, now);
	packet_count(pkt, READ_ONCE(flow->service), place->direction);
	if (pkt->fragment == FRAGMENT_FIRST)
		fragment_remember(pkt, FRAGMENT_OURS);
	return forward(ctx, pkt, &to, FORWARD_AT(hook, place->direction),
		       flags);
}

/* A packet without a flow may ask for a Service if it comes in, or if this node
 * sends it itself. */
static __always_inline int handle(ctx_t *ctx, struct packet *pkt,
				  enum hook hook)
{
	struct flow_place place;
	enum parsed parsed;
	__u32 known;

	/* A bridge's frames for others pass by here, too. */
	if (hook == HOOK_INGRESS && !config_no_link_header &&
	    ctx->pkt_type != PACKET_FOR_US)
		return pass();
	parsed = parse(ctx, pkt);
	if (parsed == PARSED_OTHER)
		return pass();
	if (parsed == PARSED_DEEP) {
		if (vip_filter_has(&pkt->tuple.dst))
			count(COUNTER_EXTENSIONS);
		return pass();
	}
	/* Replies to source NAT come to addresses in the filter, too. */
	if (hook == HOOK_INGRESS && !vip_filter_has(&pkt->tuple.dst))
		return is_martian(pkt) ? drop(COUNTER_MARTIAN) : pass();
	switch (parsed) {
	case PARSED_ICMP:
		if (icmp_is_error(pkt))
			return icmp_error(ctx, pkt, hook);
		if (!icmp_is_echo(pkt))
			return pass();
		/* The node's own ping goes on: its process would be told that
		 * the device has no room. */
		if (hook == HOOK_EGRESS && ctx->ingress_ifindex &&
		    is_unassigned(pkt, parsed) && !is_claimed(pkt, parsed))
			return drop(COUNTER_UNASSIGNED);
		return icmp_echo(ctx, pkt, hook);
	case PARSED_FRAGMENT:
		known = fragment_recall(pkt);
		if (known == FRAGMENT_AWAITED)
			return fragment_early(ctx, pkt, hook);
		if (known == FRAGMENT_OTHERS)
			return pass();
		break;
	default:
		break;
	}
	if (flow_find(&pkt->tuple, &place))
		return established(ctx, pkt, hook, &place);
	/* What this node only forwards has come in. */
	if (hook == HOOK_EGRESS &&
	    (ctx->ingress_ifindex || !vip_filter_has(&pkt->tuple.dst)))
		return leave_unclaimed(pkt, parsed);
	return begin(ctx, pkt, hook);
}

SEC("tc")
int beeline_ingress(ctx_t *ctx)
{
	struct packet pkt = {};

	return packet_end(ctx, &pkt, HOOK_INGRESS,
			  handle(ctx, &pkt, HOOK_INGRESS));
}

SEC("tc")
int beeline_egress(ctx_t *ctx)
{
	struct packet pkt = {};

	return packet_end(ctx, &pkt, HOOK_EGRESS,
			  handle(ctx, &pkt, HOOK_EGRESS));
}
