/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Addresses: building, comparing, IPv4 inside IPv6. */
#ifndef BEELINE_IP_H
#define BEELINE_IP_H

#include "abi.h"

#define V4_MAPPED_PREFIX bpf_htonl(0x0000ffff)

static __always_inline struct ip_addr ip_from_v4(__be32 v4)
{
	struct ip_addr a = { .word = { 0, 0, V4_MAPPED_PREFIX, v4 } };

	return a;
}

static __always_inline bool ip_equal(const struct ip_addr *a,
				     const struct ip_addr *b)
{
	/* Most specific word first: addresses of one cluster differ there. */
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] &&
	       a->word[1] == b->word[1] && a->word[0] == b->word[0];
}

static __always_inline bool ip_is_v4(const struct ip_addr *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == V4_MAPPED_PREFIX;
}

static __always_inline bool ip_is_loopback(const struct ip_addr *a)
{
	if (ip_is_v4(a))
		return (bpf_ntohl(a->word[3]) >> 24) == 127;
	return !a->word[0] && !a->word[1] && !a->word[2] &&
	       a->word[3] == bpf_htonl(1);
}

#endif
