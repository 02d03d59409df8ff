/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Telling what goes on to who listens (`beeline monitor`). Only where something
 * begins or ends in a refusal, never for a packet of an established flow. While
 * nobody listens it costs a look at one cache line; what a listener is too slow
 * for is counted and forgotten, never waited for.
 */
#ifndef BEELINE_EVENT_H
#define BEELINE_EVENT_H

#include "lb.h"

/* enum event_kind and enum event_hook in one number. */
#define EVENT_WHAT(kind, hook) ((kind) | (hook) << 8)

/* NULL if nobody listens. */
static __always_inline struct listener_places *event_listeners(void)
{
	__u32 key = 0;
	struct listener_places *l = bpf_map_lookup_elem(&listeners, &key);
	__u64 any = 0;

	if (!l || config_dry_run)
		return NULL;
	for (int i = 0; i < LISTENERS; i++)
		any |= READ_ONCE(l->listener[i].until_ns);
	return any ? l : NULL;
}

static __always_inline bool event_wanted(const struct listener *l,
					 const struct lb_choice *choice,
					 __u32 what)
{
	__u32 service = READ_ONCE(l->service);

	return READ_ONCE(l->until_ns) > bpf_ktime_get_coarse_ns() &&
	       READ_ONCE(l->kinds) & 1 << (what & 0xff) &&
	       (service == SERVICE_NONE || service == choice->service);
}

/* Room for an event in the ring of listener `i`, zeroed; NULL if it does not
 * want it or is too slow. To be given to event_send. */
static __always_inline struct event *
event_room(__u32 i, const struct lb_choice *choice, __u32 what)
{
	struct listener_places *l = event_listeners();
	struct event *e;
	void *ring;

	if (!l || i >= LISTENERS ||
	    !event_wanted(&l->listener[i], choice, what))
		return NULL;
	ring = bpf_map_lookup_elem(&event_rings, &i);
	if (!ring)
		return NULL;
	e = bpf_ringbuf_reserve(ring, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&l->lost[i % LISTENERS], 1);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = bpf_ktime_get_ns();
	e->service = choice->service;
	e->kind = what;
	e->hook = what >> 8;
	return e;
}

/* Nobody is woken up, which would cost more than the event: listeners look for
 * themselves, many times a second. */
static __always_inline void event_send(struct event *e)
{
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

#endif
