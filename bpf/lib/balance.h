/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The first packet of a flow: which Service, which backend, which source. Also
 * for a flow that has lost its backend, or whose client starts anew.
 */
#ifndef BEELINE_BALANCE_H
#define BEELINE_BALANCE_H

#include "frontend.h"
#include "handover.h"
#include "nat.h"
#include "trace.h"
#include "udp_answer.h"
#include "unclaimed.h"

enum outcome {
	OUTCOME_PASS,	   /* not ours */
	OUTCOME_TRANSLATE, /* to what `to` says: a flow begins */
	OUTCOME_KNOWN,	   /* ... as the flow that it has by now */
	OUTCOME_REJECT,	   /* refused, so that the client notices; counted */
	OUTCOME_DROP,	   /* dropped and counted */
};

struct balanced {
	struct flow_tuple to;
	struct lb_choice choice;
	struct affinity_key client;
	struct ip_addr source; /* what the backend is to see, if source_nat */
	__u32 flags;	       /* enum flow_flag */
	__u8 source_nat;
	__u8 turned; /* FLOW_TURNED */
};

static __always_inline int refuse_silently(struct lb_choice *choice,
					   enum counter reason)
{
	count(reason);
	choice->reason = reason;
	return OUTCOME_DROP;
}

/*
 * Whether the packet belongs to a connection that is not ours: it opens none,
 * and we have no flow. Of the node's own address the stack knows better: it may
 * be the answer to a connection that happens to have a NodePort for its source
 * (pains A9); if not, the stack resets it. On a VIP nobody else would: there
 * the packet goes to a backend, which resets it (pains A16). A datagram does
 * not say what it is; sockets and connection tracking do.
 */
static __always_inline bool somebody_elses(ctx_t *ctx, const struct packet *pkt,
					   const struct frontend *f)
{
	if (pkt->signal & SIGNAL_OPEN)
		return false;
	if (pkt->tuple.protocol == IPPROTO_UDP)
		return !(f->flags & FRONTEND_CLUSTER_IP) &&
		       local_addr(&pkt->tuple.dst) && udp_is_answer(ctx, pkt);
	return config_leave_unknown || local_addr(&pkt->tuple.dst);
}

static __always_inline int not_ours(enum trace_stage why)
{
	trace_stage(why);
	return OUTCOME_PASS;
}

/* Picks a backend by the frontend's rules. TRANSLATE: out->choice is filled
 * in. */
static __noinline int balance_pick(const struct packet *pkt,
				   const struct frontend *f, enum scope scope,
				   struct balanced *out)
{
	struct lb_choice *choice = &out->choice;

	out->client.client = pkt->tuple.src;
	choice->service = f->service;
	if (f->flags & FRONTEND_ADDRESS) {
		lb_refuse(choice, COUNTER_UNKNOWN_PORT, VERDICT_REJECT);
		return OUTCOME_REJECT;
	}
	if (!source_allowed(f, pkt))
		return refuse_silently(choice, COUNTER_SOURCE_RANGE);
	if (f->flags & FRONTEND_CLUSTER_IP && scope == SCOPE_EXTERNAL &&
	    !config_cluster_ip_outside)
		return refuse_silently(choice, COUNTER_CLUSTER_IP_OUTSIDE);
	/* The end of a connection that nobody remembers begins none. */
	if (pkt->signal & SIGNAL_RST)
		return refuse_silently(choice, COUNTER_FLOW_STRAY);
	switch (lb_choose(f, policy_set(f, scope), &out->client, choice)) {
	case VERDICT_BACKEND:
		return OUTCOME_TRANSLATE;
	case VERDICT_REJECT:
		return OUTCOME_REJECT;
	case VERDICT_DROP:
		return OUTCOME_DROP;
	default:
		return OUTCOME_PASS;
	}
}

/* Whether the frontend of a UDP flow is another Service's by now. `lost` was
 * read before. What is nobody's goes on, and asks again. */
static __noinline bool flow_frontend_left(const struct packet *pkt,
					  struct flow *flow, __u16 lost)
{
	struct frontend *f = packet_frontend(pkt);

	if (!f || f->flags & FRONTEND_ADDRESS)
		return false;
	if (f->service != flow->service)
		return true;
	if (!config_dry_run)
		WRITE_ONCE(flow->lost, lost);
	return false;
}

/*
 * Whether a request goes on as part of its old flow. A removed backend ends a
 * UDP flow, and so does a frontend that went to another Service; a TCP or SCTP
 * one is bound to its peer and goes on as long as that answers (kube-proxy:
 * conntrack/cleanup.go), but is not begun again there.
 */
static __always_inline bool flow_goes_on(struct flow *flow,
					 const struct packet *pkt, __u64 now)
{
	bool udp = pkt->tuple.protocol == IPPROTO_UDP;
	bool opens = pkt->signal & SIGNAL_OPEN;
	__u32 index = flow->backend;
	struct backend *b;
	__u16 lost;

	if (!udp && !opens)
		return true;
	b = bpf_map_lookup_elem(&backends, &index);
	if (!b || READ_ONCE(b->generation) != flow->generation ||
	    flow_expired(flow, now))
		return false;
	if (!udp)
		return !flow_ending(flow);
	lost = READ_ONCE(b->lost);
	return likely(lost == READ_ONCE(flow->lost)) ||
	       !flow_frontend_left(pkt, flow, lost);
}

/* Takes the flow that another CPU has made of an earlier packet of the same
 * meanwhile; ends one that does not go on. */
static __always_inline bool balance_known(const struct packet *pkt,
					  struct balanced *out)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_place old;

	if (!flow_find(&pkt->tuple, &old))
		return false;
	if (old.direction == FLOW_REQUEST && flow_goes_on(old.flow, pkt, now)) {
		out->to = old.flow->tuple[FLOW_REPLY];
		flow_reverse(&out->to);
		out->flags = READ_ONCE(old.flow->flags);
		out->choice.service = READ_ONCE(old.flow->service);
		flow_track(old.flow, FLOW_REQUEST, pkt->signal, now);
		if (flow_still(&old))
			return true;
	}
	flow_end(&old);
	return false;
}

/*
 * Finds a backend for a packet that has no flow, or one that does not go on.
 * Returns enum outcome; TRANSLATE is for balance_open().
 */
__noinline int balance(ctx_t *ctx, const struct packet *pkt,
		       struct balanced *out, __u32 hook)
{
	const struct ip_addr *source;
	struct lb_choice *choice;
	struct flow_place old;
	struct frontend *f;
	enum scope scope;
	int outcome;

	if (!pkt || !out)
		return OUTCOME_PASS;
	choice = &out->choice;
	choice->service = SERVICE_NONE;
	f = packet_frontend(pkt);
	if (!f && hook == HOOK_EGRESS && is_unassigned(pkt, PARSED_PORTS) &&
	    !local_addr(&pkt->tuple.dst))
		return refuse_silently(choice, COUNTER_UNASSIGNED);
	if (!f)
		return not_ours(TRACE_NO_FRONTEND);
	if (!source_is_sane(pkt))
		return not_ours(TRACE_ODD_SOURCE);
	if (pkt->signal & SIGNAL_MALFORMED)
		return refuse_silently(choice, COUNTER_MALFORMED);
	if (somebody_elses(ctx, pkt, f))
		return not_ours(TRACE_MID_FLOW);
	if (config_refuse_new || kept_flow(&pkt->tuple)) {
		/* What follows must not be taken for the old flow's. */
		if (!config_dry_run && flow_find(&pkt->tuple, &old))
			flow_end(&old);
		return not_ours(TRACE_HANDED_OVER);
	}
	scope = client_scope(pkt);
	trace_frontend(f, scope, policy_set(f, scope));
	outcome = balance_pick(pkt, f, scope, out);
	if (outcome != OUTCOME_TRANSLATE)
		return outcome;
	out->source_nat =
		source_nat(f, pkt, scope, &choice->addr, choice->local);
	if (hook == HOOK_EGRESS && local_addr(&choice->addr)) {
		out->turned = out->source_nat = true;
		out->source = pkt->tuple.dst;
	}
	trace_chosen(choice->backend, out->source_nat);
	if (out->turned)
		return OUTCOME_TRANSLATE;
	if (!out->source_nat)
		return OUTCOME_TRANSLATE;
	source = egress_addr(ctx, pkt, &choice->addr);
	if (!source)
		return refuse_silently(choice, COUNTER_SNAT_NO_ADDRESS);
	out->source = *source;
	return OUTCOME_TRANSLATE;
}

/*
 * Makes the flow to the backend that balance() has chosen, or finds the one
 * that has been made since. A flow that the packet's tuple had before is ended
 * first. Returns enum outcome. Apart from balance(), so that the stack has
 * room.
 */
__noinline int balance_open(const struct packet *pkt, struct balanced *out)
{
	int outcome = OUTCOME_TRANSLATE;
	struct flow_line *line;

	if (!pkt || !out)
		return OUTCOME_PASS;
	line = flow_line(flow_hash(&pkt->tuple), 0);
	if (!line || (!config_dry_run && !flow_hold(line)))
		return refuse_silently(&out->choice, COUNTER_FLOW_BUSY);
	if (!config_dry_run && balance_known(pkt, out))
		outcome = OUTCOME_KNOWN;
	else if (!nat_open(&pkt->tuple, &out->choice,
			   out->source_nat ? &out->source : NULL,
			   out->turned ? FLOW_TURNED : 0, &out->to,
			   &out->flags))
		outcome = OUTCOME_DROP;
	else
		trace_stage(TRACE_TRANSLATED);
	if (outcome == OUTCOME_TRANSLATE)
		lb_pin(&out->client, &out->choice);
	if (!config_dry_run)
		flow_let_go(line);
	return outcome;
}

#endif
