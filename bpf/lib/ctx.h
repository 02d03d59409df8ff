/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The packet as its hook hands it over. Everything that differs between tc's
 * struct __sk_buff and XDP's struct xdp_md is here and in csum.h.
 */
#ifndef BEELINE_CTX_H
#define BEELINE_CTX_H

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "compiler.h"

typedef struct __sk_buff ctx_t;

/* Which side of a device a program sits on. */
enum hook {
	HOOK_INGRESS,
	HOOK_EGRESS,
};

static __always_inline __u32 ctx_len(const ctx_t *ctx)
{
	return ctx->len;
}

/* Whether this is many segments in one; its headers may not say how long it is.
 */
static __always_inline bool ctx_is_gso(const ctx_t *ctx)
{
	return ctx->gso_size;
}

#define VLAN_ID 0x0fff

/* The VLAN that the kernel has read off the packet; 0 for none. */
static __always_inline __u16 ctx_vlan(const ctx_t *ctx)
{
	return ctx->vlan_present ? ctx->vlan_tci & VLAN_ID : 0;
}

/* Copies bytes out of the packet, linear or not; false if there are fewer. */
static __always_inline bool ctx_load(const ctx_t *ctx, __u32 off, void *to,
				     __u32 len)
{
	return !bpf_skb_load_bytes(ctx, off, to, len);
}

#define CTX_NEAR 255

/* Like ctx_load with a constant, even length, and without a call where the
 * bytes lie at hand. */
static __always_inline bool ctx_load_near(const ctx_t *ctx, __u32 off, void *to,
					  const __u32 len)
{
	const void *at;

	/* The verifier wants a bound, and one pointer for check and access. */
	asm volatile("" : "+r"(off));
	if (unlikely(off > CTX_NEAR))
		return ctx_load(ctx, off, to, len);
	at = (const void *)(long)ctx->data + off;
	asm volatile("" : "+r"(at));
	if (unlikely(at + len > (const void *)(long)ctx->data_end))
		return ctx_load(ctx, off, to, len);
	/* By words, not bytes: amd64 and arm64 do not mind where they lie. */
	if (len % 4 == 0)
		__builtin_memcpy(to, __builtin_assume_aligned(at, 4), len);
	else
		__builtin_memcpy(to, __builtin_assume_aligned(at, 2), len);
	return true;
}

/* Overwrites bytes of the packet. `csum` says that no checksum inside the
 * packet makes up for the change, see csum.h. */
static __always_inline bool ctx_store(ctx_t *ctx, __u32 off, const void *from,
				      __u32 len, bool csum)
{
	return !bpf_skb_store_bytes(ctx, off, from, len,
				    csum ? BPF_F_RECOMPUTE_CSUM : 0);
}

/* Puts an empty Ethernet header in front of a packet that has none. */
static __always_inline bool ctx_push_link_header(ctx_t *ctx)
{
	return !bpf_skb_change_head(ctx, ETH_HLEN, 0);
}

#endif
