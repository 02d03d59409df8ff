/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Pings to a Service's address, answered while it has a backend. */
#ifndef BEELINE_ICMP_ECHO_H
#define BEELINE_ICMP_ECHO_H

#include "frontend.h"
#include "icmp_answer.h"

#define ICMP4_ECHO 8
#define ICMP4_ECHO_REPLY 0
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129

static __always_inline bool icmp_is_echo(const struct packet *pkt)
{
	return pkt->icmp_type == (pkt->family == 4 ? ICMP4_ECHO : ICMP6_ECHO);
}

/* Whether the frontend's Service port has somebody to answer for. */
static __always_inline bool has_backend(const struct frontend *f)
{
	__u32 set = SET_OF(f->service, SET_CLUSTER);
	__u64 *word = bpf_map_lookup_elem(&sets, &set);

	return word && READ_ONCE(*word) >> 32;
}

static __always_inline bool echo_rewrite(ctx_t *ctx, const struct packet *pkt)
{
	__u32 before = 0, after = 0;
	struct flow_tuple to = pkt->tuple;
	__u8 type = pkt->family == 4 ? ICMP4_ECHO_REPLY : ICMP6_ECHO_REPLY;
	__wsum unused;

	*(__u8 *)&before = pkt->icmp_type;
	*(__u8 *)&after = type;
	flow_reverse(&to);
	return rewrite_addrs(ctx, pkt->family, pkt->l3, &pkt->tuple, &to,
			     &unused) &&
	       ctx_store(ctx, pkt->l4, &type, sizeof(type), false) &&
	       csum_payload(ctx, pkt->l4 + ICMP_CSUM_OFFSET,
			    csum_diff(&before, &after, sizeof(after)), 0);
}

/* Answers a ping to a VIP whose Service has a backend; passes any other. */
__noinline int icmp_echo(ctx_t *ctx, const struct packet *pkt, __u32 hook)
{
	struct frontend *f;

	if (!pkt || !config_echo_reply)
		return pass();
	f = address_frontend(&pkt->tuple.dst);
	if (!f || !has_backend(f) || !source_is_sane(pkt))
		return pass();
	if (!icmp_token())
		return drop(COUNTER_ICMP_LIMITED);
	if (!echo_rewrite(ctx, pkt))
		return drop(COUNTER_REWRITE_FAILED);
	count(COUNTER_ICMP_SENT);
	return turn_around(ctx, hook);
}

#endif
