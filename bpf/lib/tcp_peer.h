/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What getpeername() on a translated TCP socket must answer. One entry a
 * socket, made by connect(), removed when the socket is released; a full map
 * refuses new entries (the connection works, its peer name is the backend's)
 * and keeps the old ones. ADR 0003 has the measurements.
 */
#ifndef BEELINE_TCP_PEER_H
#define BEELINE_TCP_PEER_H

#include "config.h"
#include "count.h"
#include "lb.h"

static __always_inline void tcp_peer_record(void *ctx,
					    const struct ip_addr *vip,
					    __be16 port,
					    const struct lb_choice *choice)
{
	struct peer peer = {
		.vip = *vip,
		.port = port,
		.service = choice->service,
		.backend = choice->backend,
		.generation = choice->generation,
	};
	__u64 cookie;

	if (!config_tcp_peer_names)
		return;
	cookie = bpf_get_socket_cookie(ctx);
	if (bpf_map_update_elem(&peers, &cookie, &peer, BPF_ANY))
		count(COUNTER_PEER_FULL);
}

static __always_inline struct peer *tcp_peer_lookup(void *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	return bpf_map_lookup_elem(&peers, &cookie);
}

static __always_inline void tcp_peer_forget(void *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&peers, &cookie);
}

#endif
