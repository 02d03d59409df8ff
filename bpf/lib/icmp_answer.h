/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ICMP messages of our own: refusals and errors about a packet, which turn the
 * packet itself around, and answers to pings. Their source is the address that
 * the client wrote to. Rate-limited, as the kernel's own are.
 */
#ifndef BEELINE_ICMP_ANSWER_H
#define BEELINE_ICMP_ANSWER_H

#include "csum.h"
#include "drop.h"
#include "packet_maps.h"
#include "rate.h"
#include "rewrite.h"

enum icmp_answer {
	ICMP_ANSWER_REFUSED, /* port unreachable */
	ICMP_ANSWER_TOO_BIG, /* fragmentation needed, packet too big */
	ICMP_ANSWER_TTL,     /* time exceeded */
};

#define ICMP4_UNREACHABLE 3
#define ICMP4_TIME_EXCEEDED 11
#define ICMP4_PORT_UNREACHABLE 3
#define ICMP4_FRAG_NEEDED 4
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define ICMP6_TIME_EXCEEDED 3
#define ICMP6_PORT_UNREACHABLE 4

#define ANSWER_TTL 64

/* What is quoted: the IP header and what follows it up to the end of the
 * shortest transport header, where a checksum left to the device still is. IP
 * headers longer than this are not answered. */
#define QUOTE_MAX 128

struct quote {
	__u8 bytes[QUOTE_MAX];
};

/* Work space of one message; nobody else runs on the CPU meanwhile. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct quote);
} icmp_quote SEC(".maps");

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__be32 rest; /* too big: the MTU; IPv4 has it in the low half */
};

static __always_inline bool icmp_token(void)
{
	__u32 zero = 0;
	struct rate_bucket *b = bpf_map_lookup_elem(&icmp_tokens, &zero);

	return b && rate_take(b, bpf_ktime_get_coarse_ns(), config_icmp_rate,
			      config_icmp_burst);
}

static __always_inline struct icmp_header icmp4_header(enum icmp_answer what,
						       __u16 mtu)
{
	struct icmp_header h = { .type = ICMP4_UNREACHABLE };

	if (what == ICMP_ANSWER_TTL) {
		h.type = ICMP4_TIME_EXCEEDED;
	} else if (what == ICMP_ANSWER_TOO_BIG) {
		h.code = ICMP4_FRAG_NEEDED;
		h.rest = bpf_htonl(mtu);
	} else {
		h.code = ICMP4_PORT_UNREACHABLE;
	}
	return h;
}

static __always_inline struct icmp_header icmp6_header(enum icmp_answer what,
						       __u16 mtu)
{
	struct icmp_header h = { .type = ICMP6_UNREACHABLE };

	if (what == ICMP_ANSWER_TTL) {
		h.type = ICMP6_TIME_EXCEEDED;
	} else if (what == ICMP_ANSWER_TOO_BIG) {
		h.type = ICMP6_TOO_BIG;
		h.rest = bpf_htonl(mtu);
	} else {
		h.code = ICMP6_PORT_UNREACHABLE;
	}
	return h;
}

/* Back to where it came from. */
static __noinline int turn_around(ctx_t *ctx, enum hook hook)
{
	__u8 mac[2 * ETH_ALEN], swapped[2 * ETH_ALEN];

	if (!config_no_link_header) {
		if (!ctx_load(ctx, 0, mac, sizeof(mac)))
			return drop(COUNTER_REWRITE_FAILED);
		__builtin_memcpy(swapped, mac + ETH_ALEN, ETH_ALEN);
		__builtin_memcpy(swapped + ETH_ALEN, mac, ETH_ALEN);
		if (!ctx_store(ctx, 0, swapped, sizeof(swapped), false))
			return drop(COUNTER_REWRITE_FAILED);
	}
	return bpf_redirect(ctx->ifindex,
			    hook == HOOK_EGRESS ? BPF_F_INGRESS : 0);
}

/* Sum of some bytes of the packet. They are not put on the stack, which is too
 * small for everything. */
static __always_inline bool packet_sum(const ctx_t *ctx, __u32 at, __u32 len,
				       __wsum *sum)
{
	__u32 zero = 0;
	struct quote *q = bpf_map_lookup_elem(&icmp_quote, &zero);

	/* Linux 6.1 learns no lower bound from a comparison with 0; the upper
	 * one below is of this register. */
	len--;
	asm volatile("" : "+r"(len));
	if (!q || len >= sizeof(q->bytes))
		return false;
	__builtin_memset(q, 0, sizeof(*q));
	if (bpf_skb_load_bytes(ctx, at, q->bytes, len + 1))
		return false;
	*sum = bpf_csum_diff(NULL, 0, (__be32 *)q->bytes, sizeof(q->bytes),
			     *sum);
	return true;
}

/*
 * Sum of the quoted transport bytes as they will be on the wire. If the device
 * finishes their checksum, it sees to it that their sum is the complement of
 * what the field holds now.
 */
static __always_inline bool quote_sum_l4(ctx_t *ctx, const struct packet *pkt,
					 __u32 len, __wsum *sum)
{
	__u32 at = pkt->l4 + csum_offset(pkt->tuple.protocol);
	__u16 field;

	if (pkt->tuple.protocol != IPPROTO_SCTP &&
	    ctx_load(ctx, at, &field, sizeof(field)) && field &&
	    csum_is_partial(ctx, at)) {
		*sum = (__u16)~field;
		return true;
	}
	return packet_sum(ctx, pkt->l4, len, sum);
}

static __always_inline bool answer4_headers(ctx_t *ctx,
					    const struct packet *pkt,
					    struct icmp_header h, __u32 quote,
					    __wsum sum)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tos = 0xc0, /* internetwork control, as icmp_send() has it */
		.tot_len = bpf_htons(sizeof(ip) + sizeof(h) + quote),
		.ttl = ANSWER_TTL,
		.protocol = IPPROTO_ICMP,
		.saddr = pkt->tuple.dst.word[3],
		.daddr = pkt->tuple.src.word[3],
	};

	ip.check =
		csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	h.checksum =
		csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&h, sizeof(h), sum));
	return ctx_store(ctx, pkt->l3, &ip, sizeof(ip), false) &&
	       ctx_store(ctx, pkt->l3 + sizeof(ip), &h, sizeof(h), false);
}

static __always_inline bool answer6_headers(ctx_t *ctx,
					    const struct packet *pkt,
					    struct icmp_header h, __u32 quote,
					    __wsum sum)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(sizeof(h) + quote),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = ANSWER_TTL,
	};

	__builtin_memcpy(&ip.saddr, &pkt->tuple.dst, sizeof(ip.saddr));
	__builtin_memcpy(&ip.daddr, &pkt->tuple.src, sizeof(ip.daddr));
	/* The pseudo-header: addresses, length, protocol. */
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&ip.saddr, 2 * sizeof(ip.saddr),
			    sum);
	sum = csum_add(sum, ip.payload_len);
	sum = csum_add(sum, bpf_htons(IPPROTO_ICMPV6));
	h.checksum =
		csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)&h, sizeof(h), sum));
	return ctx_store(ctx, pkt->l3, &ip, sizeof(ip), false) &&
	       ctx_store(ctx, pkt->l3 + sizeof(ip), &h, sizeof(h), false);
}

/* The packet has been told of as refused or dropped: that it is not answered
 * either is counted, but not the packet once more. */
static __always_inline int unanswered(enum counter why)
{
	count(why);
	return TC_ACT_SHOT;
}

/*
 * Answers a packet of TCP, UDP or SCTP with an ICMP error about it. Returns
 * what the program is to return; the packet is gone either way. Why, its caller
 * has counted and told.
 */
__noinline int icmp_answer(ctx_t *ctx, const struct packet *pkt, __u32 what,
			   __u32 mtu, __u32 hook)
{
	__u32 quote_l4, quote, room;
	__wsum sum = 0;
	bool ok;
	int done;

	if (!pkt)
		return TC_ACT_SHOT;
	/* RFC 1122 3.2.2: neither about a fragment nor about ICMP. */
	quote_l4 = l4_min_len(pkt->tuple.protocol);
	if (pkt->fragment == FRAGMENT_LATER || !quote_l4)
		return TC_ACT_SHOT;
	if (!icmp_token())
		return unanswered(COUNTER_ICMP_LIMITED);
	quote = pkt->l4 - pkt->l3 + quote_l4;
	if (!quote_sum_l4(ctx, pkt, quote_l4, &sum) ||
	    !packet_sum(ctx, pkt->l3, pkt->l4 - pkt->l3, &sum) ||
	    bpf_skb_change_tail(ctx, pkt->l3 + quote, 0))
		return unanswered(COUNTER_REWRITE_FAILED);
	room = (pkt->family == 4 ? sizeof(struct iphdr) :
				   sizeof(struct ipv6hdr)) +
	       sizeof(struct icmp_header);
	if (bpf_skb_adjust_room(ctx, room, BPF_ADJ_ROOM_MAC, 0))
		return unanswered(COUNTER_REWRITE_FAILED);
	if (pkt->family == 4)
		ok = answer4_headers(ctx, pkt, icmp4_header(what, mtu), quote,
				     sum);
	else
		ok = answer6_headers(ctx, pkt, icmp6_header(what, mtu), quote,
				     sum);
	if (!ok)
		return unanswered(COUNTER_REWRITE_FAILED);
	count(COUNTER_ICMP_SENT);
	done = turn_around(ctx, hook);
	return done < DROP_BASE ? done : unanswered(done - DROP_BASE);
}

#endif
