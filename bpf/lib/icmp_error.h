/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP errors about packets of our flows, from either side. An error travels
 * against the packet that it quotes, so the quoted tuple turned around finds
 * the flow; the quotation is translated along with the message (pains A15).
 */
#ifndef BEELINE_ICMP_ERROR_H
#define BEELINE_ICMP_ERROR_H

#include "forward.h"

#define ICMP_HLEN 8
#define ICMP4_PARAMETER 12
#define ICMP6_ERROR_LAST 4

/* Work space; nobody else runs on the CPU meanwhile. */
struct icmp_work {
	struct packet quoted;
	struct flow_tuple seen;
	struct flow_tuple to;
	struct flow_tuple outer;
	struct route route;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct icmp_work);
} icmp_work SEC(".maps");

static __always_inline bool icmp_is_error(const struct packet *pkt)
{
	__u8 type = pkt->icmp_type;

	if (pkt->family == 6)
		return type && type <= ICMP6_ERROR_LAST;
	return type == ICMP4_UNREACHABLE || type == ICMP4_TIME_EXCEEDED ||
	       type == ICMP4_PARAMETER;
}

/* Mends the quoted transport checksum, if it is quoted at all and there is one.
 * `diff` is how addresses and ports changed, and becomes how all changed. */
static __always_inline bool quoted_csum(ctx_t *ctx, const struct packet *quoted,
					__u32 end, __wsum addrs, __wsum *diff)
{
	__u8 protocol = quoted->tuple.protocol;
	__u32 at = quoted->l4 + csum_offset(protocol);
	__u16 before, after;
	__u32 old, new;

	if (protocol == IPPROTO_SCTP || at + sizeof(before) > end ||
	    !ctx_load(ctx, at, &before, sizeof(before)) ||
	    (protocol == IPPROTO_UDP && !before))
		return true;
	/* The field is the complement of the sum that changes. */
	after = csum_fold(csum_add((__u16)~before, addrs));
	if (protocol == IPPROTO_UDP && !after)
		after = 0xffff;
	new = after;
	old = before;
	*diff = bpf_csum_diff((__be32 *)&old, sizeof(old), (__be32 *)&new,
			      sizeof(new), *diff);
	return ctx_store(ctx, at, &after, sizeof(after), false);
}

/* Translates the quoted packet. The ICMP checksum makes up for it, so that the
 * kernel need not be told of the change (csum.h). */
static __always_inline bool quoted_rewrite(ctx_t *ctx,
					   const struct packet *quoted,
					   const struct flow_tuple *to,
					   __u32 icmp, __u32 end)
{
	const struct flow_tuple *from = &quoted->tuple;
	struct l4_ports before = { from->sport, from->dport };
	struct l4_ports after = { to->sport, to->dport };
	__wsum addrs, ports, diff;

	if (quoted->family == 4) {
		if (!rewrite_addrs(ctx, 4, quoted->l3, from, to, &addrs))
			return false;
		diff = 0; /* the quoted header's checksum has made up for it */
	} else {
		addrs = csum_diff(&from->src, &to->src, 2 * sizeof(to->src));
		diff = addrs;
		if (!ctx_store(ctx, quoted->l3 + IPV6_ADDRS_OFFSET, &to->src,
			       2 * sizeof(to->src), false))
			return false;
	}
	ports = csum_diff(&before, &after, sizeof(after));
	diff = csum_add(diff, ports);
	return ctx_store(ctx, quoted->l4, &after, sizeof(after), false) &&
	       quoted_csum(ctx, quoted, end, csum_add(addrs, ports), &diff) &&
	       csum_payload(ctx, icmp + ICMP_CSUM_OFFSET, diff, 0);
}

/* Translates and forwards an ICMP error, or passes what is none of ours. */
__noinline int icmp_error(ctx_t *ctx, const struct packet *pkt, __u32 hook)
{
	struct flow_place place;
	struct icmp_work *work;
	__u32 flags, zero = 0;
	__wsum addrs;
	int done;

	work = bpf_map_lookup_elem(&icmp_work, &zero);
	if (!pkt || !work)
		return pass();
	__builtin_memset(work, 0, sizeof(*work));
	work->quoted.l3 = pkt->l4 + ICMP_HLEN;
	if (parse_quoted(ctx, pkt->family, &work->quoted) != PARSED_PORTS)
		return pass();
	work->seen = work->quoted.tuple;
	flow_reverse(&work->seen);
	if (!flow_find(&work->seen, &place) ||
	    !ip_equal(&work->seen.dst, &pkt->tuple.dst))
		return pass();
	work->to = place.flow->tuple[place.direction ^ 1];
	flags = place.flow->flags;
	if (!flow_still(&place))
		return pass();

	/* Outside, the source may be any router on the way: it stays, unless
	 * who gets the message could not make sense of it. */
	work->outer = pkt->tuple;
	work->outer.dst = work->to.src;
	if (place.direction == FLOW_REPLY || flags & FLOW_SNAT)
		work->outer.src = work->to.dst;
	done = find_route(ctx, pkt, &work->outer, hook, place.direction, flags,
			  &work->route);
	if (done != TC_ACT_OK)
		return done;
	/* work->to is now the reverse of how the packet goes on, which is just
	 * how the receiver knows the quoted one. */
	if (!quoted_rewrite(ctx, &work->quoted, &work->to, pkt->l4, pkt->end) ||
	    !rewrite_addrs(ctx, pkt->family, pkt->l3, &pkt->tuple, &work->outer,
			   &addrs) ||
	    (pkt->family == 6 &&
	     !csum_pseudo(ctx, pkt->l4 + ICMP_CSUM_OFFSET, addrs, 0)))
		return drop(COUNTER_REWRITE_FAILED);
	return leave(ctx, pkt, &work->route, hook, flags);
}

#endif
