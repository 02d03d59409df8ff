/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Whose sockets are left alone, so that their packets carry the Service's
 * address and the packet path translates them: pods with a service mesh, and
 * all pods if only the host's sockets are balanced (pains A17). ADR 0023.
 */
#ifndef BEELINE_OPT_OUT_H
#define BEELINE_OPT_OUT_H

#include <linux/in.h>

#include "config.h"
#include "maps.h"
#include "tcp_peer.h"

/* The deepest cgroup of a pod, counted from the hierarchy's root: kubelet's
 * are at 2 or 3, and a node may itself be a container. */
#define OPT_OUT_DEPTH 12

/* Whether one of the cgroups that the process is in has opted out: its pod's,
 * whichever of its containers it is. */
static __always_inline bool cgroup_opted_out(void)
{
	__u32 key = 0;
	__u32 *entries = bpf_map_lookup_elem(&opt_out_count, &key);
	__u64 id;

	if (!entries || likely(!READ_ONCE(*entries)))
		return false;
	for (int level = 1; level <= OPT_OUT_DEPTH; level++) {
		id = bpf_get_current_ancestor_cgroup_id(level);
		if (!id)
			return false;
		if (bpf_map_lookup_elem(&opt_outs, &id))
			return true;
	}
	return false;
}

static __always_inline bool opted_out(struct bpf_sock_addr *ctx)
{
	if (config_node_only && bpf_get_netns_cookie(ctx) != config_node_netns)
		return true;
	/* Before Linux 6.6 kernel_connect() let a hook overwrite what an NFS
	 * mount will connect to the next time. */
	if (config_leave_kernel_sockets && ctx->protocol == IPPROTO_TCP &&
	    tcp_owned_by_kernel(ctx->sk))
		return true;
	return config_opt_out && cgroup_opted_out();
}

#endif
