/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * "Is this address a frontend's at all?" in one array read. A set bit may be
 * a coincidence, an unset one is certain. ADR 0004.
 */
#ifndef BEELINE_VIP_FILTER_H
#define BEELINE_VIP_FILTER_H

#include "maps.h"

/* Go computes the same in internal/abi (FilterBit): change both or neither. */
static __always_inline __u32 vip_filter_bit(const struct ip_addr *a)
{
	__u32 h = a->word[0] * 0x9e3779b1 + a->word[1] * 0x85ebca77 +
		  a->word[2] * 0xc2b2ae3d + a->word[3] * 0x27d4eb2f;

	h ^= h >> 15;
	h *= 0x2c1b3c6d;
	h ^= h >> 12;
	return h & (VIP_FILTER_BITS - 1);
}

static __always_inline bool vip_filter_has(const struct ip_addr *a)
{
	__u32 bit = vip_filter_bit(a);
	__u32 key = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&vip_filter, &key);

	return word && (READ_ONCE(*word) >> (bit % 64) & 1);
}

#endif
