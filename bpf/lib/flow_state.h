/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a flow's packets say about it, and how long it is kept. There is no
 * window tracking: a stray segment or reset can neither end a flow nor pass
 * untranslated (pains A10).
 */
#ifndef BEELINE_FLOW_STATE_H
#define BEELINE_FLOW_STATE_H

#include "affinity.h"
#include "parse.h"

/* Younger changes of seen_ns are not worth dirtying a cache line. */
#define FLOW_SEEN_GRAIN_NS NSEC_PER_SEC

#define FLOW_FINS (FLOW_FIN_REQUEST | FLOW_FIN_REPLY)

/* A reset of an established connection may be anybody's: it counts for no more
 * than a FIN of one side. */
static __always_inline enum flow_timeout flow_timeout_tcp(__u32 flags)
{
	if (flags & FLOW_RST)
		return flags & FLOW_ASSURED && !(flags & FLOW_FINS) ?
			       FLOW_TIMEOUT_TCP_HALF_CLOSED :
			       FLOW_TIMEOUT_TCP_RESET;
	if ((flags & FLOW_FINS) == FLOW_FINS)
		return FLOW_TIMEOUT_TCP_CLOSED;
	if (flags & FLOW_FINS)
		return FLOW_TIMEOUT_TCP_HALF_CLOSED;
	if (flags & FLOW_ASSURED)
		return FLOW_TIMEOUT_TCP_ESTABLISHED;
	return flags & FLOW_REPLIED ? FLOW_TIMEOUT_TCP_ANSWERED :
				      FLOW_TIMEOUT_TCP_OPENING;
}

static __always_inline enum flow_timeout flow_timeout(__u8 protocol,
						      __u32 flags)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return flow_timeout_tcp(flags);
	case IPPROTO_SCTP:
		if (flags & (FLOW_RST | FLOW_FINS))
			return FLOW_TIMEOUT_SCTP_CLOSED;
		return flags & FLOW_ASSURED ? FLOW_TIMEOUT_SCTP_ESTABLISHED :
					      FLOW_TIMEOUT_SCTP_OPENING;
	default:
		return flags & FLOW_REPLIED ? FLOW_TIMEOUT_UDP_ANSWERED :
					      FLOW_TIMEOUT_UDP_UNANSWERED;
	}
}

/* Expired is what may be replaced, not what must be forgotten: a connection
 * that goes on after a stray reset or a long silence is served as long as
 * nobody needed its place. */
static __always_inline bool flow_expired(const struct flow *flow, __u64 now)
{
	__u32 which =
		flow_timeout(flow->tuple[FLOW_REQUEST].protocol, flow->flags);

	if (which >= FLOW_TIMEOUTS) /* for the verifier */
		return true;
	return idle_ns(now, flow->seen_ns) >
	       config_flow_timeout_secs[which] * NSEC_PER_SEC;
}

/* Half open, closed or reset: goes before a new flow is refused, as
 * nf_conntrack drops early what is not assured. An established one never does.
 */
static __always_inline bool flow_evictable(const struct flow *flow)
{
	__u32 flags = flow->flags;

	if (flow->tuple[FLOW_REQUEST].protocol == IPPROTO_UDP)
		return !(flags & FLOW_REPLIED);
	return !(flags & FLOW_ASSURED) || flags & FLOW_RST ||
	       (flags & FLOW_FINS) == FLOW_FINS;
}

/* Whether a new SYN (INIT) on this flow starts another connection. One on an
 * open connection does not: it is sent again, or forged. */
static __always_inline bool flow_ending(const struct flow *flow)
{
	return flow->flags & (FLOW_FINS | FLOW_RST);
}

/* Whether another flow may have its reply tuple. A FIN of one side, or a reset
 * that nobody has checked, ends no connection: its data would go to another. */
static __always_inline bool flow_yields(const struct flow *flow, __u64 now)
{
	return flow_expired(flow, now) ||
	       (flow->flags & FLOW_FINS) == FLOW_FINS;
}

/* Takes note of a packet of the flow. */
static __always_inline void flow_track(struct flow *flow, __u8 direction,
				       __u8 signal, __u64 now)
{
	__u32 flags = flow->flags, old = flags;

	if (direction == FLOW_REPLY)
		flags |= FLOW_REPLIED;
	else if (flags & FLOW_REPLIED && !(signal & SIGNAL_OPEN))
		flags |= FLOW_ASSURED;
	if (signal & SIGNAL_FIN)
		flags |= direction == FLOW_REPLY ? FLOW_FIN_REPLY :
						   FLOW_FIN_REQUEST;
	if (signal & SIGNAL_RST)
		flags |= FLOW_RST;
	else
		flags &= ~FLOW_RST; /* it was a stray one */
	/* Another CPU may see the other direction now, and note that. */
	if (flags & ~old && !config_dry_run)
		__sync_fetch_and_or(&flow->flags, flags & ~old);
	if (old & ~flags && !config_dry_run)
		__sync_fetch_and_and(&flow->flags, ~FLOW_RST);
	if ((idle_ns(now, flow->seen_ns) > FLOW_SEEN_GRAIN_NS ||
	     flags != old) &&
	    !config_dry_run)
		WRITE_ONCE(flow->seen_ns, now);
}

#endif
