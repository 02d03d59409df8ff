/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Session affinity ClientIP: keyed by client and Service port, whichever
 * frontend was used; the timeout slides with every new connection
 * (kube-proxy: pkg/proxy/nftables, `update @affinity-… { ip saddr }`).
 */
#ifndef BEELINE_AFFINITY_H
#define BEELINE_AFFINITY_H

#include "config.h"
#include "maps.h"

#define NSEC_PER_SEC 1000000000ULL

/*
 * Nanoseconds since `seen`. Another CPU may have written it after this one
 * read its clock: that is now, not half an eternity ago.
 */
static __always_inline __u64 idle_ns(__u64 now, __u64 seen)
{
	return now > seen ? now - seen : 0;
}

/* Returns the backend of that set which the client is pinned to, or -1. */
static __always_inline __s64 affinity_lookup(const struct affinity_key *key,
					     enum set_kind kind,
					     __u32 timeout_secs, __u64 now)
{
	struct affinity *pin = bpf_map_lookup_elem(&affinities, key);
	struct backend *b;
	__u32 index;

	if (!pin || idle_ns(now, pin->seen_ns) > timeout_secs * NSEC_PER_SEC)
		return -1;
	index = pin->backend;
	b = bpf_map_lookup_elem(&backends, &index);
	/* Still this Service's, and still one that new flows may find? */
	if (!b || b->generation != pin->generation || !(b->sets >> kind & 1))
		return -1;
	return index;
}

static __always_inline void affinity_update(const struct affinity_key *key,
					    __u32 backend, __u32 generation,
					    __u64 now)
{
	struct affinity pin = {
		.seen_ns = now,
		.backend = backend,
		.generation = generation,
	};

	if (!config_dry_run)
		bpf_map_update_elem(&affinities, key, &pin, BPF_ANY);
}

#endif
