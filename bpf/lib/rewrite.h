/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Gives a packet other addresses and ports. One path for both families: all
 * are written, changed or not.
 */
#ifndef BEELINE_REWRITE_H
#define BEELINE_REWRITE_H

#include "csum.h"
#include "sctp.h"

#define IPV4_ADDRS_OFFSET 12
#define IPV6_ADDRS_OFFSET 8

/* Writes both addresses of the IP header at l3. `diff` is how the sum of the
 * addresses changes. */
static __always_inline bool rewrite_addrs(ctx_t *ctx, __u8 family, __u32 l3,
					  const struct flow_tuple *from,
					  const struct flow_tuple *to,
					  __wsum *diff)
{
	if (family == 4) {
		__be32 before[2] = { from->src.word[3], from->dst.word[3] };
		__be32 after[2] = { to->src.word[3], to->dst.word[3] };

		*diff = csum_diff(before, after, sizeof(after));
		return ctx_store(ctx, l3 + IPV4_ADDRS_OFFSET, after,
				 sizeof(after), false) &&
		       csum_header(ctx, l3, *diff);
	}
	/* src and dst lie side by side, here and there. */
	*diff = csum_diff(&from->src, &to->src, 2 * sizeof(to->src));
	return ctx_store(ctx, l3 + IPV6_ADDRS_OFFSET, &to->src,
			 2 * sizeof(to->src), true);
}

/* The transport header of a packet whose addresses changed by `addrs`. */
static __always_inline bool rewrite_l4(ctx_t *ctx, const struct packet *pkt,
				       const struct flow_tuple *to,
				       __wsum addrs)
{
	const struct flow_tuple *from = &pkt->tuple;
	__u8 protocol = from->protocol;
	struct l4_ports before = { from->sport, from->dport };
	struct l4_ports after = { to->sport, to->dport };
	bool sctp = protocol == IPPROTO_SCTP;
	__u32 old, new, at;

	__builtin_memcpy(&old, &before, sizeof(old));
	__builtin_memcpy(&new, &after, sizeof(new));
	if (sctp) {
		/* Half a packet does not tell the length of the whole. */
		if (old != new && pkt->fragment)
			return false;
		return ctx_store(ctx, pkt->l4, &after, sizeof(after), true) &&
		       sctp_csum(ctx, pkt->l4, old ^ new, pkt->end - pkt->l4);
	}
	at = pkt->l4 + csum_offset(protocol);
	return csum_pseudo(ctx, at, addrs, csum_flags(protocol)) &&
	       (old == new ||
		(csum_payload(ctx, at, csum_diff(&old, &new, sizeof(new)),
			      csum_flags(protocol)) &&
		 ctx_store(ctx, pkt->l4, &after, sizeof(after), false)));
}

/* Turns the packet from pkt->tuple into `to`. False if the kernel refused, or
 * SCTP's checksum cannot be kept right: the packet is then not to be sent. */
static __always_inline bool rewrite(ctx_t *ctx, const struct packet *pkt,
				    const struct flow_tuple *to)
{
	__wsum addrs;

	if (!rewrite_addrs(ctx, pkt->family, pkt->l3, &pkt->tuple, to, &addrs))
		return false;
	return pkt->fragment == FRAGMENT_LATER ||
	       rewrite_l4(ctx, pkt, to, addrs);
}

/* One hop less to live, as every router does. The caller has made sure that
 * some are left. */
static __always_inline bool rewrite_ttl(ctx_t *ctx, const struct packet *pkt)
{
	__u32 at = pkt->l3 + offsetof(struct iphdr, ttl);
	__u8 ttl = pkt->ttl - 1;
	__be16 before, after;

	if (pkt->family == 6)
		return ctx_store(ctx,
				 pkt->l3 + offsetof(struct ipv6hdr, hop_limit),
				 &ttl, sizeof(ttl), true);
	before = bpf_htons(pkt->ttl << 8 | pkt->tuple.protocol);
	after = bpf_htons(ttl << 8 | pkt->tuple.protocol);
	return !bpf_l3_csum_replace(ctx,
				    pkt->l3 + offsetof(struct iphdr, check),
				    before, after, sizeof(after)) &&
	       ctx_store(ctx, at, &ttl, sizeof(ttl), false);
}

#endif
