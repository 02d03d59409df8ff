/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The flow table: records in one array, hints to them in another (ADR 0010).
 *
 * A tuple's hash names two lines of the index; the hint is in the one or the
 * other. A record is found free by going round the array, a few places for each
 * new flow, so a table is full when all of these hold flows that must not go.
 * Nothing sweeps: what has expired lies there until its place is needed.
 *
 * Writers own a record while its `seq` is odd. A reader that was overtaken
 * finds another `seq` afterwards, and looks again as if it had found nothing.
 * Who begins a flow holds the first line of its request meanwhile: of two CPUs
 * with the first packets of one flow, the second finds what the first has made.
 */
#ifndef BEELINE_FLOW_TABLE_H
#define BEELINE_FLOW_TABLE_H

#include "packet_config.h"
#include "packet_maps.h"

#define FLOW_PROBES 16
#define FLOW_LINE_CROWDED 4

struct flow_place {
	struct flow *flow;
	__u32 index;
	__u32 seq;
	__u8 direction; /* enum flow_direction the tuple matched */
};

static __always_inline __u64 flow_hash(const struct flow_tuple *t)
{
	const __u64 *w = (const __u64 *)t;
	__u64 h = (w[1] ^ config_flow_seed) * 0x9e3779b97f4a7c15 +
		  (w[3] + config_flow_seed) * 0xc2b2ae3d27d4eb4f +
		  w[0] * 0x165667b19e3779f9 + w[2] * 0xd6e8feb86659fd93 +
		  w[4] * 0xff51afd7ed558ccd;

	h ^= h >> 32;
	h *= 0x94d049bb133111eb;
	return h ^ h >> 29;
}

static __always_inline bool flow_tuple_equal(const struct flow_tuple *a,
					     const struct flow_tuple *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return x[1] == y[1] && x[3] == y[3] && x[4] == y[4] && x[0] == y[0] &&
	       x[2] == y[2];
}

/* How the other side's packets show the same flow. */
static __always_inline void flow_reverse(struct flow_tuple *t)
{
	struct ip_addr addr = t->src;
	__be16 port = t->sport;

	t->src = t->dst;
	t->sport = t->dport;
	t->dst = addr;
	t->dport = port;
}

/* Never 0, which is no hint. */
static __always_inline __u32 flow_tag(__u64 hash)
{
	return (__u32)(hash >> 32) | 1;
}

/* The two lines of a hash; `choice` is 0 or 1. There is half a line a flow.
 * They are never the same one: odd times odd is odd. */
static __always_inline struct flow_line *flow_line(__u64 hash, __u32 choice)
{
	__u32 at = (__u32)hash;

	if (choice)
		at ^= flow_tag(hash) * 0x5bd1e995;
	at &= config_flow_mask >> 1;
	return bpf_map_lookup_elem(&flow_index, &at);
}

static __always_inline struct flow *flow_record(__u32 index)
{
	return bpf_map_lookup_elem(&flows, &index);
}

/* How often a CPU looks whether another one is done: much longer than making a
 * flow takes, unless the hypervisor has put that CPU aside. */
#define FLOW_HOLD_TRIES (1 << 16)

struct flow_holding {
	struct flow_line *line;
	__u64 held;
};

static long flow_try_to_hold(__u32 __attribute__((unused)) i, void *ctx)
{
	struct flow_holding *h = ctx;

	if (READ_ONCE(h->line->away) & FLOW_LINE_HELD)
		return 0;
	h->held = !(__sync_fetch_and_or(&h->line->away, FLOW_LINE_HELD) &
		    FLOW_LINE_HELD);
	return h->held;
}

/* Makes the caller the only one that begins flows whose request's first line
 * this is. False if somebody else does, and for too long. Other hints come
 * and go meanwhile. */
static __noinline __attribute__((unused)) bool flow_hold(struct flow_line *line)
{
	struct flow_holding h = { .line = line };

	bpf_loop(FLOW_HOLD_TRIES, flow_try_to_hold, &h, 0);
	return h.held;
}

static __always_inline void flow_let_go(struct flow_line *line)
{
	__sync_fetch_and_and(&line->away, ~FLOW_LINE_HELD);
}

#define FLOW_NOT_FOUND ((__u64)~0)

/* Finds the flow that a tuple belongs to, whichever its direction. Returns its
 * hint (low half) and the record's seq (high half), or FLOW_NOT_FOUND. */
__noinline __u64 flow_lookup(const struct flow_tuple *tuple)
{
	struct flow_line *line = NULL;
	struct flow *flow;
	__u64 hash, hint;
	__u32 seq;

	if (!tuple)
		return FLOW_NOT_FOUND;
	hash = flow_hash(tuple);
	for (int i = 0; i < 2 * FLOW_HINTS; i++) {
		if (i == FLOW_HINTS && !READ_ONCE(line->away))
			break;
		if (i % FLOW_HINTS == 0)
			line = flow_line(hash, i / FLOW_HINTS);
		if (!line)
			break;
		hint = READ_ONCE(line->hint[i % FLOW_HINTS]);
		if (hint >> 32 != flow_tag(hash))
			continue;
		flow = flow_record((__u32)hint >> 1);
		if (!flow)
			break;
		seq = READ_ONCE(flow->seq);
		if (!(seq & 1) &&
		    flow_tuple_equal(tuple, &flow->tuple[hint & 1]))
			return (__u64)seq << 32 | (__u32)hint;
	}
	return FLOW_NOT_FOUND;
}

static __always_inline bool flow_find(const struct flow_tuple *tuple,
				      struct flow_place *place)
{
	__u64 found = flow_lookup(tuple);

	if (found == FLOW_NOT_FOUND)
		return false;
	place->index = (__u32)found >> 1;
	place->direction = found & 1;
	place->seq = found >> 32;
	place->flow = flow_record(place->index);
	return place->flow;
}

/* Whether what was read of the record since belongs to one flow. */
static __always_inline bool flow_still(const struct flow_place *place)
{
	return READ_ONCE(place->flow->seq) == place->seq;
}

/* Takes a record for writing; false if somebody else did, or had it since. */
static __always_inline bool flow_take(struct flow *flow, __u32 seq)
{
	return !(seq & 1) &&
	       __sync_val_compare_and_swap(&flow->seq, seq, seq + 1) == seq;
}

/* Ends taking. The atomic add orders it behind what was written. */
static __always_inline void flow_publish(struct flow *flow)
{
	__sync_fetch_and_add(&flow->seq, 1);
}

static __always_inline __u32 flow_line_used(const struct flow_line *line)
{
	__u32 used = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_HINTS; i++)
		used += !!READ_ONCE(line->hint[i]);
	return used;
}

static __noinline bool flow_line_put(struct flow_line *line, __u64 hint)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < FLOW_HINTS; i++)
		if (!READ_ONCE(line->hint[i]) &&
		    !__sync_val_compare_and_swap(&line->hint[i], 0, hint))
			return true;
	return false;
}

/* The first line counts what is in the second: nobody looks there for nothing.
 * Counted first, so that no reader misses it. */
static __always_inline bool flow_put_away(struct flow_line *first,
					  struct flow_line *second, __u64 hint)
{
	__sync_fetch_and_add(&first->away, 1);
	if (flow_line_put(second, hint))
		return true;
	__sync_fetch_and_sub(&first->away, 1);
	return false;
}

/* Puts a hint into the first line, where it is found soonest; but before that
 * is full into the emptier one, so that both being full is next to impossible
 * even if every record is in use. Returns 0 if it happens. */
__noinline int flow_link(__u64 hash, __u32 place)
{
	__u64 hint = (__u64)flow_tag(hash) << 32 | place;
	struct flow_line *first = flow_line(hash, 0),
			 *second = flow_line(hash, 1);
	__u32 used;

	if (!first || !second)
		return 0;
	used = flow_line_used(first);
	if (used >= FLOW_LINE_CROWDED && flow_line_used(second) < used)
		return flow_put_away(first, second, hint) ||
		       flow_line_put(first, hint);
	return flow_line_put(first, hint) || flow_put_away(first, second, hint);
}

__noinline int flow_unlink(__u64 hash, __u32 place)
{
	__u64 hint = (__u64)flow_tag(hash) << 32 | place;
	struct flow_line *line = NULL, *first = flow_line(hash, 0);

	for (int i = 0; i < 2 * FLOW_HINTS; i++) {
		if (i % FLOW_HINTS == 0)
			line = i ? flow_line(hash, 1) : first;
		if (!line || !first)
			return 0;
		if (READ_ONCE(line->hint[i % FLOW_HINTS]) != hint)
			continue;
		if (__sync_val_compare_and_swap(&line->hint[i % FLOW_HINTS],
						hint, 0) == hint &&
		    i >= FLOW_HINTS)
			__sync_fetch_and_sub(&first->away, 1);
		return 1;
	}
	return 0;
}

/* Whether another record than `index` has, or is just being given, this tuple.
 * Who is being written with the same tag counts: better one port too many
 * tried than two flows with one tuple. */
static __noinline bool flow_tuple_taken(const struct flow_tuple *tuple,
					__u64 hash, __u32 index)
{
	struct flow_line *line = NULL;
	struct flow *flow;
	__u64 hint;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 2 * FLOW_HINTS; i++) {
		if (i == FLOW_HINTS && !READ_ONCE(line->away))
			break;
		if (i % FLOW_HINTS == 0)
			line = flow_line(hash, i / FLOW_HINTS);
		if (!line)
			return false;
		hint = READ_ONCE(line->hint[i % FLOW_HINTS]);
		if (hint >> 32 != flow_tag(hash) || (__u32)hint >> 1 == index)
			continue;
		flow = flow_record((__u32)hint >> 1);
		if (flow && (READ_ONCE(flow->seq) & 1 ||
			     flow_tuple_equal(tuple, &flow->tuple[hint & 1])))
			return true;
	}
	return false;
}

/* Takes a record's hints out of the index. A function of its own with a number
 * for its argument, so that the verifier walks it once. Always returns 0. */
__noinline int flow_unlink_both(__u32 index)
{
	struct flow *flow = flow_record(index);

	if (!flow)
		return 0;
	flow_unlink(flow_hash(&flow->tuple[FLOW_REQUEST]),
		    FLOW_HINT(index, FLOW_REQUEST));
	flow_unlink(flow_hash(&flow->tuple[FLOW_REPLY]),
		    FLOW_HINT(index, FLOW_REPLY));
	return 0;
}

/* Forgets the flow in a record that the caller has taken. */
static __always_inline void flow_clear(struct flow *flow, __u32 index)
{
	if (!(flow->flags & FLOW_USED))
		return;
	flow->flags = 0;
	flow_unlink_both(index);
}

#endif
