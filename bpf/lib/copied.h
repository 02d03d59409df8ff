/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The first bytes of a packet, copied, in place of ctx.h: for programs that
 * only look on and have no context of their own to read a packet from.
 */
#ifndef BEELINE_CTX_H
#define BEELINE_CTX_H

#include <linux/if_ether.h>

#include "compiler.h"

/* Link header, IPv6 with some extensions, and an ICMP error's quotation. */
#define COPIED_BYTES 256

struct copied {
	__u32 len;    /* of the whole packet */
	__u32 stored; /* how many of its bytes are here */
	__be16 protocol;
	__u16 pad[3];
	__u8 bytes[COPIED_BYTES];
};
_Static_assert(sizeof(struct copied) == 272, "copied");

typedef struct copied ctx_t;

static __always_inline __u32 ctx_len(const ctx_t *ctx)
{
	return ctx->len;
}

/* What is longer than a header can say is in segments. */
static __always_inline bool ctx_is_gso(const ctx_t *ctx)
{
	return ctx->len > 0xffff;
}

static __always_inline __u16 ctx_vlan(const ctx_t __attribute__((unused)) * ctx)
{
	return 0;
}

static __always_inline bool ctx_load(const ctx_t *ctx, __u32 off, void *to,
				     __u32 len)
{
	asm volatile(""
		     : "+r"(off)); /* the bounds below are of this register */
	if (off > COPIED_BYTES || off + len > ctx->stored)
		return false;
	/* Reads what lies beyond the array as well as what lies in it, and is
	 * told by the line above not to. */
	return !bpf_probe_read_kernel(to, len, ctx->bytes + off);
}

static __always_inline bool ctx_load_near(const ctx_t *ctx, __u32 off, void *to,
					  const __u32 len)
{
	return ctx_load(ctx, off, to, len);
}

#endif
