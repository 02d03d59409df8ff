/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Checksums, always by the difference and always by the kernel's helpers: they
 * alone know whether a checksum is finished, left to the device
 * (CHECKSUM_PARTIAL: the field holds the pseudo-header's sum only), or known
 * for the packet as a whole (CHECKSUM_COMPLETE).
 *
 * With CHECKSUM_COMPLETE the kernel keeps the sum of all bytes, so a change
 * that is not made up for inside the packet must be told to it:
 *  - IPv4 addresses are made up for by the header's own checksum; then the
 *    pseudo-header's part in the transport checksum is not, and
 *    bpf_l4_csum_replace(BPF_F_PSEUDO_HDR) tells it.
 *  - IPv6 has no such checksum, yet that helper tells the same. So IPv6
 *    addresses are stored with BPF_F_RECOMPUTE_CSUM, which tells the opposite,
 *    and the two cancel out (the kernel's own remedy, BPF_F_IPV6, is of 6.16).
 *  - Ports are made up for by the transport checksum.
 */
#ifndef BEELINE_CSUM_H
#define BEELINE_CSUM_H

#include "ctx.h"
#include "parse.h"

/* Where the transport checksum is, from its header. */
#define TCP_CSUM_OFFSET 16
#define UDP_CSUM_OFFSET 6
#define ICMP_CSUM_OFFSET 2

static __always_inline __wsum csum_add(__wsum a, __wsum b)
{
	a += b;
	return a + (a < b); /* the carry goes around */
}

/* Difference between two equally long runs of a few words, without a call. */
static __always_inline __wsum csum_diff(const void *from, const void *to,
					const __u32 len)
{
	const __u32 *f = from, *t = to;
	__u64 sum = 0;

	for (__u32 i = 0; i < len / sizeof(*f); i++)
		sum += (__u64)t[i] + (__u32)~f[i];
	return csum_add((__u32)sum, sum >> 32);
}

static __always_inline __u16 csum_fold(__wsum sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* What bpf_l4_csum_replace must know of a protocol. UDP's checksum may be
 * absent, which a 0 says, and must not become 0 by being updated. */
static __always_inline __u64 csum_flags(__u8 protocol)
{
	return protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

static __always_inline __u32 csum_offset(__u8 protocol)
{
	return protocol == IPPROTO_TCP ? TCP_CSUM_OFFSET :
	       protocol == IPPROTO_UDP ? UDP_CSUM_OFFSET :
					 ICMP_CSUM_OFFSET;
}

/* Addresses changed by `diff`. */
static __always_inline bool csum_pseudo(ctx_t *ctx, __u32 at, __wsum diff,
					__u64 flags)
{
	return !bpf_l4_csum_replace(ctx, at, 0, diff, flags | BPF_F_PSEUDO_HDR);
}

/* Bytes under the transport checksum changed by `diff`. */
static __always_inline bool csum_payload(ctx_t *ctx, __u32 at, __wsum diff,
					 __u64 flags)
{
	return !bpf_l4_csum_replace(ctx, at, 0, diff, flags);
}

/* The IPv4 header changed by `diff`. */
static __always_inline bool csum_header(ctx_t *ctx, __u32 l3, __wsum diff)
{
	return !bpf_l3_csum_replace(ctx, l3 + offsetof(struct iphdr, check), 0,
				    diff, 0);
}

/*
 * Whether the device is to finish the transport checksum at `at`. Asks the
 * kernel: it leaves such a checksum alone where only payload changed.
 * A UDP checksum of 0 must be excluded before.
 */
static __always_inline bool csum_is_partial(ctx_t *ctx, __u32 at)
{
	__u16 before, after;

	if (!ctx_load(ctx, at, &before, sizeof(before)) ||
	    !csum_payload(ctx, at, 1, 0) ||
	    !ctx_load(ctx, at, &after, sizeof(after)))
		return false;
	if (before == after)
		return true;
	ctx_store(ctx, at, &before, sizeof(before), false);
	return false;
}

#endif
