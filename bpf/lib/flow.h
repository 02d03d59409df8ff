/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Making flows. A new one takes the place of a free record or an expired one;
 * if there is neither, of one that never came about; if there is none either,
 * it is refused. An established flow gives way to nobody (pains A4). The same
 * goes for places in the index.
 */
#ifndef BEELINE_FLOW_H
#define BEELINE_FLOW_H

#include "count.h"
#include "flow_state.h"
#include "flow_table.h"

enum flow_fate {
	FLOW_STAYS,
	FLOW_GONE, /* there is none, or none that anybody waits for */
	FLOW_MAY_GO,
};

/* Returns enum flow_fate. Not inlined, so that the verifier walks it once and
 * not for each place that is looked at. */
__noinline int flow_fate(const struct flow *flow, __u64 now)
{
	if (!flow)
		return FLOW_STAYS;
	if (!(flow->flags & FLOW_USED) || flow_expired(flow, now))
		return FLOW_GONE;
	return flow_evictable(flow) ? FLOW_MAY_GO : FLOW_STAYS;
}

/* Takes the record for its next owner. */
static __always_inline bool flow_reuse(struct flow *flow, __u32 index,
				       __u32 seq)
{
	if (!flow_take(flow, seq))
		return false;
	flow_clear(flow, index);
	return true;
}

/* Counts a flow that had to go. `flags` are what it had; one that was reset is
 * missed by nobody. */
static __always_inline void count_evicted(__u32 flags)
{
	if (!(flags & FLOW_RST))
		count(COUNTER_FLOW_EVICTED);
}

/* For when both lines of a hash are full: forgets one flow that they name and
 * that may go. Always returns 0. */
__noinline int flow_make_room(__u64 hash)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_line *line = NULL;
	struct flow *flow;
	__u32 index, seq, flags;
	int fate;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 2 * FLOW_HINTS; i++) {
		if (i % FLOW_HINTS == 0)
			line = flow_line(hash, i / FLOW_HINTS);
		if (!line)
			return 0;
		index = (__u32)READ_ONCE(line->hint[i % FLOW_HINTS]) >> 1;
		flow = flow_record(index);
		if (!flow)
			return 0;
		seq = READ_ONCE(flow->seq);
		flags = READ_ONCE(flow->flags);
		fate = flow_fate(flow, now);
		if (fate != FLOW_STAYS && flow_reuse(flow, index, seq)) {
			flow_publish(flow);
			if (fate == FLOW_MAY_GO)
				count_evicted(flags);
			return 0;
		}
	}
	return 0;
}

/* Where to look for a place next. Going round in order keeps the flows of a
 * table that is mostly empty close together, which the TLB thanks for, and
 * evicts the oldest of a flood. CPUs that race for it merely probe the same
 * places. */
__u32 flow_cursor;

/* Finds a place for a flow. Returns the index of a record that the caller has
 * taken, or -1. */
__noinline __s64 flow_alloc(__u64 now)
{
	__u32 start = READ_ONCE(flow_cursor), index, seq;
	__u32 oldest = 0, oldest_seq = 1, flags;
	__u64 oldest_seen = ~0ULL;
	struct flow *flow;
	int fate;

	for (__u32 i = 0; i < FLOW_PROBES; i++) {
		index = (start + i) & config_flow_mask;
		WRITE_ONCE(flow_cursor, index + 1);
		flow = flow_record(index);
		if (!flow)
			return -1;
		seq = READ_ONCE(flow->seq);
		if (seq & 1)
			continue;
		fate = flow_fate(flow, now);
		if (fate == FLOW_GONE && flow_reuse(flow, index, seq))
			return index;
		if (fate == FLOW_MAY_GO && flow->seen_ns < oldest_seen) {
			oldest = index;
			oldest_seq = seq;
			oldest_seen = flow->seen_ns;
		}
	}
	flow = flow_record(oldest);
	if (!flow)
		return -1;
	flags = READ_ONCE(flow->flags);
	if (!flow_reuse(flow, oldest, oldest_seq))
		return -1;
	count_evicted(flags);
	return oldest;
}

/* Gives up a record that the caller has taken. */
static __always_inline void flow_abandon(struct flow *flow, __u32 index)
{
	flow_clear(flow, index);
	flow_publish(flow);
}

/* Starts a flow for a request. Returns its record, taken, or NULL if the table
 * is full. */
static __always_inline struct flow *flow_open(const struct flow_tuple *request,
					      __u64 now, __u32 *index)
{
	__s64 found = flow_alloc(now);
	struct flow *flow;
	__u64 hash;

	if (found < 0)
		return NULL;
	*index = found;
	flow = flow_record(found);
	if (!flow)
		return NULL;
	flow->tuple[FLOW_REQUEST] = *request;
	flow->flags = FLOW_USED;
	flow->created_ns = now;
	flow->seen_ns = now;
	hash = flow_hash(request);
	if (flow_link(hash, FLOW_HINT(*index, FLOW_REQUEST)))
		return flow;
	flow_make_room(hash);
	if (flow_link(hash, FLOW_HINT(*index, FLOW_REQUEST)))
		return flow;
	flow_abandon(flow, *index);
	return NULL;
}

/* Ends a flow, so that its tuple can be another's. False if somebody else is
 * at it. */
static __always_inline bool flow_end(struct flow_place *place)
{
	if (!flow_reuse(place->flow, place->index, place->seq))
		return false;
	flow_publish(place->flow);
	return true;
}

/* Whether a reply tuple would be given to a new flow. */
static __always_inline bool flow_reply_free(const struct flow_tuple *reply,
					    __u64 now)
{
	struct flow_place old;

	return !flow_find(reply, &old) || flow_yields(old.flow, now);
}

#define FLOW_NO_ROOM 2

/* Gives the flow its reply tuple, if nobody has it. The record must be taken,
 * and be the only one that this caller writes. Returns 1, 0, or FLOW_NO_ROOM,
 * which flow_make_room() may help. */
__noinline int flow_reserve_reply(const struct flow_tuple *reply, __u32 index,
				  __u64 now)
{
	struct flow *flow;
	struct flow_place old;
	__u64 hash;

	if (!reply)
		return 0;
	if (config_dry_run)
		return flow_reply_free(reply, now);
	flow = flow_record(index);
	if (!flow)
		return 0;
	hash = flow_hash(reply);
	if (flow_tuple_taken(reply, hash, index)) {
		/* What has expired or closed is in nobody's way. */
		if (!flow_find(reply, &old) || !flow_yields(old.flow, now) ||
		    !flow_end(&old) || flow_tuple_taken(reply, hash, index))
			return 0;
	}
	flow->tuple[FLOW_REPLY] = *reply;
	if (!flow_link(hash, FLOW_HINT(index, FLOW_REPLY)))
		return FLOW_NO_ROOM;
	/* Two at once: each sees the other now, and neither keeps it. */
	if (!flow_tuple_taken(reply, hash, index))
		return 1;
	flow_unlink(hash, FLOW_HINT(index, FLOW_REPLY));
	return 0;
}

#endif
