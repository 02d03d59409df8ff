/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What did not go the usual way is counted, never silent. */
#ifndef BEELINE_COUNT_H
#define BEELINE_COUNT_H

#include "maps.h"

static __always_inline void count(enum counter which)
{
	__u32 key = which;
	__u64 *n = bpf_map_lookup_elem(&counters, &key);

	if (n)
		(*n)++;
}

#endif
