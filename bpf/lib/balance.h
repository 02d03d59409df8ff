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
#include "unclaimed.h"

enum outcome {
	OUTCOME_PASS,	   /* not ours */
	OUTCOME_TRANSLATE, /* to what `to` says */
	OUTCOME_REJECT,	   /* refused, so that the client notices; counted */
	OUTCOME_DROP,	   /* dropped and counted */
};

struct balanced {
	struct flow_tuple to;
	struct lb_choice choice;
	__u32 flags; /* enum flow_flag */
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
 * the packet goes to a backend, which resets it (pains A16).
 */
static __always_inline bool somebody_elses(const struct packet *pkt)
{
	if (pkt->tuple.protocol == IPPROTO_UDP || pkt->signal & SIGNAL_OPEN)
		return false;
	return config_leave_unknown || local_addr(&pkt->tuple.dst);
}

static __always_inline int not_ours(enum trace_stage why)
{
	trace_stage(why);
	return OUTCOME_PASS;
}

/* Picks a backend by the frontend's rules. TRANSLATE: `choice` is filled in. */
static __noinline int balance_pick(const struct packet *pkt,
				   const struct frontend *f, enum scope scope,
				   struct lb_choice *choice)
{
	struct affinity_key client = { .client = pkt->tuple.src };

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
	switch (lb_choose(f, policy_set(f, scope), &client, choice)) {
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

/*
 * Finds a backend for a packet and makes the flow. A flow that the packet's
 * tuple had before is ended first, but only if there is another to take its
 * place. Returns enum outcome.
 */
__noinline int balance(ctx_t *ctx, const struct packet *pkt,
		       struct balanced *out)
{
	const struct ip_addr *source = NULL;
	struct lb_choice *choice;
	struct flow_place old;
	struct frontend *f;
	struct backend *b;
	enum scope scope;
	__u32 index;
	int outcome;
	bool local;

	if (!pkt || !out)
		return OUTCOME_PASS;
	choice = &out->choice;
	choice->service = SERVICE_NONE;
	f = packet_frontend(pkt);
	if (!f && is_unassigned(pkt, PARSED_PORTS) &&
	    !local_addr(&pkt->tuple.dst))
		return refuse_silently(choice, COUNTER_UNASSIGNED);
	if (!f)
		return not_ours(TRACE_NO_FRONTEND);
	if (!source_is_sane(pkt))
		return not_ours(TRACE_ODD_SOURCE);
	if (somebody_elses(pkt))
		return not_ours(TRACE_MID_FLOW);
	if (config_refuse_new || kept_flow(&pkt->tuple)) {
		/* What follows must not be taken for the old flow's. */
		if (!config_dry_run && flow_find(&pkt->tuple, &old))
			flow_end(&old);
		return not_ours(TRACE_HANDED_OVER);
	}
	scope = client_scope(pkt);
	trace_frontend(f, scope, policy_set(f, scope));
	outcome = balance_pick(pkt, f, scope, choice);
	if (outcome != OUTCOME_TRANSLATE)
		return outcome;
	index = choice->backend; /* Linux 6.1 wants keys on the stack */
	b = bpf_map_lookup_elem(&backends, &index);
	local = b && b->local;
	if (source_nat(f, pkt, scope, &choice->addr, local)) {
		trace_chosen(choice->backend, true);
		source = egress_addr(ctx, pkt, &choice->addr);
		if (!source)
			return refuse_silently(choice, COUNTER_SNAT_NO_ADDRESS);
	} else {
		trace_chosen(choice->backend, false);
	}
	if (!config_dry_run && flow_find(&pkt->tuple, &old))
		flow_end(&old);
	if (!nat_open(&pkt->tuple, choice, local, source, &out->to,
		      &out->flags))
		return OUTCOME_DROP;
	trace_stage(TRACE_TRANSLATED);
	return OUTCOME_TRANSLATE;
}

#endif
