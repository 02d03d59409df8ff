/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Which way a packet goes from here, by the node's own routes and rules. */
#ifndef BEELINE_FIB_H
#define BEELINE_FIB_H

#include "parse.h"

#define FAMILY_INET 2
#define FAMILY_INET6 10

enum way {
	WAY_STACK,    /* to the stack: it is for the node itself, or the
		       * stack is to forward it */
	WAY_REDIRECT, /* straight to the device that the routes name */
	WAY_NONE,     /* the routes forbid it */
	WAY_TOO_BIG,  /* larger than the way's MTU, in fib.mtu_result */
	WAY_LOOPBACK, /* to the stack, by the loopback device */
};

#define JUMBO_HLEN 8

/* Whether a hop-by-hop header says how long it all is, which is none of the
 * segments' (BIG TCP): cutting takes it out. For what is to be cut. */
static __always_inline bool has_jumbo_header(const ctx_t *ctx,
					     const struct packet *pkt)
{
	__be16 len;

	return pkt->family == 6 &&
	       pkt->l4 - pkt->l3 >= sizeof(struct ipv6hdr) + JUMBO_HLEN &&
	       ctx_load(ctx,
			pkt->l3 +
				__builtin_offsetof(struct ipv6hdr, payload_len),
			&len, sizeof(len)) &&
	       !len;
}

/* Length of the largest packet that this one will be cut into. Not inlined:
 * there are two places that ask. */
static __noinline __u32 segment_len(const ctx_t *ctx, const struct packet *pkt)
{
	__u32 header = 8; /* UDP */
	__u8 offset;

	if (pkt->tuple.protocol == IPPROTO_TCP &&
	    ctx_load(ctx, pkt->l4 + 12, &offset, sizeof(offset)))
		header = (offset >> 4) * 4;
	if (has_jumbo_header(ctx, pkt))
		header -= JUMBO_HLEN;
	return pkt->l4 - pkt->l3 + header + ctx->gso_size;
}

/* Length of the packet, or of the largest one that it will be cut into. */
static __always_inline __u16 wire_len(const ctx_t *ctx,
				      const struct packet *pkt)
{
	return ctx->gso_size ? segment_len(ctx, pkt) : pkt->end - pkt->l3;
}

/* Asks the routes about a packet from src to dst. On WAY_REDIRECT `fib` holds
 * device and next hop. */
static __always_inline enum way fib_way(ctx_t *ctx, const struct packet *pkt,
					const struct ip_addr *src,
					const struct ip_addr *dst,
					struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->ifindex = ctx->ifindex;
	fib->l4_protocol = pkt->tuple.protocol;
	fib->tot_len = wire_len(ctx, pkt);
	if (pkt->family == 4) {
		fib->family = FAMILY_INET;
		fib->ipv4_src = src->word[3];
		fib->ipv4_dst = dst->word[3];
	} else {
		fib->family = FAMILY_INET6;
		__builtin_memcpy(fib->ipv6_src, src, sizeof(*src));
		__builtin_memcpy(fib->ipv6_dst, dst, sizeof(*dst));
	}
	switch (bpf_fib_lookup(ctx, fib, sizeof(*fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH: /* redirecting resolves it */
		return WAY_REDIRECT;
	case BPF_FIB_LKUP_RET_BLACKHOLE:
	case BPF_FIB_LKUP_RET_UNREACHABLE:
	case BPF_FIB_LKUP_RET_PROHIBIT:
		return WAY_NONE;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return WAY_TOO_BIG;
	default:
		/* Local, forwarding off, tunnels by metadata: the stack's. */
		return WAY_STACK;
	}
}

/* Sends the packet the way found; the kernel finds the neighbour. */
static __always_inline int fib_redirect(const struct bpf_fib_lookup *fib)
{
	struct bpf_redir_neigh next = {
		.nh_family = fib->family,
	};

	/* The lookup has put the gateway where the destination was. */
	__builtin_memcpy(next.ipv6_nh, fib->ipv6_dst, sizeof(next.ipv6_nh));
	return bpf_redirect_neigh(fib->ifindex, &next, sizeof(next), 0);
}

#endif
