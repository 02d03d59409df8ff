/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Token buckets: how often a CPU may do what costs others. */
#ifndef BEELINE_RATE_H
#define BEELINE_RATE_H

#include "affinity.h"

/* Takes a token. `rate` is how many come in a second, `burst` how many there
 * can be at once. */
static __always_inline bool rate_take(struct rate_bucket *b, __u64 now,
				      __u32 rate, __u32 burst)
{
	__u64 fresh = idle_ns(now, b->filled_ns);

	if (fresh > NSEC_PER_SEC)
		fresh = NSEC_PER_SEC;
	fresh = fresh * rate / NSEC_PER_SEC;
	if (fresh) {
		b->tokens =
			fresh + b->tokens > burst ? burst : fresh + b->tokens;
		b->filled_ns = now;
	}
	if (!b->tokens)
		return false;
	b->tokens--;
	return true;
}

#endif
