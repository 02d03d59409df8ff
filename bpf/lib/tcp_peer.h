/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What getpeername() on a translated TCP socket must answer. One entry a
 * socket, made by connect(), removed when the socket is released; a full map
 * refuses new entries (the connection works, its peer name is the backend's)
 * and keeps the old ones. ADR 0003 has the measurements.
 */
#ifndef BEELINE_TCP_PEER_H
#define BEELINE_TCP_PEER_H

#include <bpf/bpf_core_read.h>

#include "config.h"
#include "count.h"
#include "kernel.h"
#include "lb.h"

/*
 * Whether the kernel itself owns the socket: a subflow of MPTCP, a mount of
 * NFS. No hook tells when such a socket is released (net/ipv4/af_inet.c,
 * inet_release), so an entry for it would stay for good.
 */
static __always_inline bool tcp_owned_by_kernel(struct bpf_sock *sk)
{
	struct sock *kernel_sk = (void *)bpf_skc_to_tcp_sock(sk);

	return !kernel_sk || BPF_CORE_READ_BITFIELD(kernel_sk, sk_kern_sock);
}

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
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (bpf_map_update_elem(&peers, &cookie, &peer, BPF_ANY))
		count(COUNTER_PEER_FULL);
}

/*
 * The record of a socket whose peer is addr:port, or NULL. A socket that was
 * disconnected and then connected to no Service keeps its old record, because
 * nothing on the way of such a connect() looks for one: it is told by the
 * backend, which is another one (pains A2).
 */
static __always_inline struct peer *
tcp_peer_lookup(void *ctx, const struct ip_addr *addr, __be16 port)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct peer *peer = bpf_map_lookup_elem(&peers, &cookie);
	struct backend *b;
	__u32 index;

	if (!peer)
		return NULL;
	index = peer->backend;
	b = bpf_map_lookup_elem(&backends, &index);
	if (b && b->generation == peer->generation &&
	    !(b->port == port && ip_equal(&b->addr, addr)))
		return NULL;
	return peer;
}

static __always_inline void tcp_peer_forget(void *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);

	bpf_map_delete_elem(&peers, &cookie);
}

#endif
