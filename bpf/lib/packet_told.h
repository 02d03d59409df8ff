/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the packet path decides, for counters and listeners. */
#ifndef BEELINE_PACKET_TOLD_H
#define BEELINE_PACKET_TOLD_H

#include "drop.h"
#include "event.h"
#include "flow_table.h"
#include "lb.h"
#include "parse.h"
#include "service_count.h"

/* Tells listeners. Of a translated packet, `to` is what it becomes; of others
 * the choice has the reason. */
__noinline int packet_event(ctx_t *ctx, const struct packet *pkt,
			    const struct flow_tuple *to,
			    const struct lb_choice *choice, __u32 what)
{
	struct event *e;

	if (!pkt || !choice)
		return 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < LISTENERS; i++) {
		e = event_room(i, choice, what);
		if (!e)
			continue;
		e->asked = pkt->tuple;
		if (to)
			e->to = *to;
		e->backend = choice->backend;
		e->generation = choice->generation;
		e->reason = choice->reason;
		e->ifindex = ctx->ifindex;
		event_send(e);
	}
	return 0;
}

static __always_inline __u32 packet_what(enum event_kind kind, enum hook hook)
{
	return EVENT_WHAT(kind, hook == HOOK_INGRESS ? EVENT_AT_INGRESS :
						       EVENT_AT_EGRESS);
}

/* Counts a packet that goes no further. Its Service is found by its flow, if it
 * has one. Returns what the program is to return. */
static __noinline int packet_drop(ctx_t *ctx, const struct packet *pkt,
				  enum hook hook, enum counter reason)
{
	struct lb_choice choice = { .service = SERVICE_NONE, .reason = reason };
	struct flow_place place;

	count(reason);
	if (flow_find(&pkt->tuple, &place)) {
		choice.service = READ_ONCE(place.flow->service);
		choice.backend = READ_ONCE(place.flow->backend);
		choice.generation = READ_ONCE(place.flow->generation);
	}
	service_refuse(choice.service, reason);
	if (event_listeners())
		packet_event(ctx, pkt, NULL, &choice,
			     packet_what(EVENT_DROPPED, hook));
	return TC_ACT_SHOT;
}

/* From what was decided about a packet to what the program returns. */
static __always_inline int packet_end(ctx_t *ctx, const struct packet *pkt,
				      enum hook hook, int verdict)
{
	if (likely(verdict < DROP_BASE))
		return verdict;
	return packet_drop(ctx, pkt, hook, verdict - DROP_BASE);
}

/* Called for every packet of a flow. */
static __always_inline void packet_count(const struct packet *pkt,
					 __u32 service, __u8 direction)
{
	struct service_count *n = service_count(service);

	if (!n)
		return;
	n->packets[direction & 1]++;
	n->bytes[direction & 1] += pkt->end - pkt->l3;
}

/* Called for every packet that begins a flow. */
static __always_inline void packet_began(ctx_t *ctx, const struct packet *pkt,
					 const struct flow_tuple *to,
					 const struct lb_choice *choice,
					 enum hook hook)
{
	struct service_count *n = service_count(choice->service);

	if (n)
		n->flows++;
	packet_count(pkt, choice->service, FLOW_REQUEST);
	if (unlikely(event_listeners()))
		packet_event(ctx, pkt, to, choice,
			     packet_what(EVENT_FLOW, hook));
}

/* Called for every packet that asked for a Service in vain. The reason is
 * counted. */
static __always_inline void packet_refused(ctx_t *ctx, const struct packet *pkt,
					   const struct lb_choice *choice,
					   enum event_kind kind, enum hook hook)
{
	service_refuse(choice->service, choice->reason);
	if (unlikely(event_listeners()))
		packet_event(ctx, pkt, NULL, choice, packet_what(kind, hook));
}

#endif
