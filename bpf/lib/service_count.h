/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What each Service port has had: connections, packets, bytes, refusals. */
#ifndef BEELINE_SERVICE_COUNT_H
#define BEELINE_SERVICE_COUNT_H

#include "config.h"
#include "maps.h"

/* NULL if this one is not counted. */
static __always_inline struct service_count *service_count(__u32 service)
{
	if (!config_service_counts || config_dry_run)
		return NULL;
	return bpf_map_lookup_elem(&service_counts, &service);
}

static __always_inline void service_refuse(__u32 service, __u32 reason)
{
	struct service_refusal key = { .service = service, .reason = reason };
	__u64 first = 1, *n;

	if (!config_service_counts || config_dry_run)
		return;
	n = bpf_map_lookup_elem(&service_refused, &key);
	if (n)
		(*n)++;
	else
		bpf_map_update_elem(&service_refused, &key, &first,
				    BPF_NOEXIST);
}

#endif
