/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ends sockets that are connected to a backend which is gone, so that their
 * owners get an error at once and connect anew (pains A1, A2). Runs when the
 * agent reads an iterator, never on the way of a connection. ADR 0013.
 */
#include <linux/in.h>

#include <bpf/bpf_core_read.h>

#include "lib/kernel.h"
#include "lib/lb.h"
#include "lib/udp_peer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Linux 6.5; in programs that hold the socket's lock: bpf_iter/udp and tcp. */
extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/* Sockets that the agent has decided to end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct ending);
} endings SEC(".maps");

/* Whether the socket is connected to what was decided about. */
static __always_inline bool still_there(const struct ending *e,
					const struct sock_common *sk)
{
	struct ip_addr dst = sock_dst(sk);

	return e->port == sk->skc_dport && ip_equal(&e->addr, &dst);
}

/*
 * Tells of every socket, in whatever network namespace, that is connected to a
 * dead backend: those that have a record are just those that may be. Sockets of
 * the kernel's own are their owners' affair.
 */
SEC("iter/bpf_sk_storage_map")
int beeline_stale(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct stale_socket found = {};
	struct sock *sk = ctx->sk;
	struct sock_common *common;
	struct udp_flows *flows;
	struct udp_flow *flow;

	if (!sk)
		return 0;
	common = &sk->__sk_common;
	if (common->skc_state != TCP_ESTABLISHED ||
	    BPF_CORE_READ_BITFIELD(sk, sk_kern_sock))
		return 0;
	/* It is ctx->value, which does not let itself be indexed. */
	flows = bpf_sk_storage_get(&udp_peers, sk, 0, 0);
	if (!flows)
		return 0;
	found.dst = sock_dst(common);
	found.dport = common->skc_dport;
	flow = udp_flow_of_peer(flows, &found.dst, found.dport);
	if (!flow || backend_alive(flow->backend, flow->generation))
		return 0;
	found.cookie = bpf_get_socket_cookie(sk);
	found.src = sock_src(common);
	found.sport = bpf_htons(common->skc_num);
	found.vip = flow->vip;
	found.vip_port = flow->vip_port;
	found.family = common->skc_family;
	found.netns = common->skc_net.net->ns.inum;
	found.device = common->skc_bound_dev_if;
	found.backend = flow->backend;
	found.generation = flow->generation;
	bpf_seq_write(ctx->meta->seq, &found, sizeof(found));
	return 0;
}

/* Tells the cookie of each socket that it has ended. */
SEC("iter/udp")
int beeline_end_udp(struct bpf_iter__udp *ctx)
{
	struct udp_sock *udp = ctx->udp_sk;
	struct udp_flows *flows;
	struct sock_common *sk;
	struct udp_flow *flow;
	struct ending *e;
	__u64 cookie;

	if (!udp)
		return 0;
	sk = &udp->inet.sk.__sk_common;
	if (sk->skc_state != TCP_ESTABLISHED)
		return 0;
	cookie = bpf_get_socket_cookie(udp);
	e = bpf_map_lookup_elem(&endings, &cookie);
	if (!e || !still_there(e, sk))
		return 0;
	/* It may have come back to the same pod, as a new backend. */
	flows = bpf_sk_storage_get(&udp_peers, udp, 0, 0);
	if (!flows)
		return 0;
	flow = udp_flow_of_peer(flows, &e->addr, e->port);
	if (!flow || flow->backend != e->backend ||
	    flow->generation != e->generation)
		return 0;
	if (!bpf_sock_destroy((struct sock_common *)udp))
		bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	return 0;
}

SEC("iter/tcp")
int beeline_end_tcp(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct peer *peer;
	struct ending *e;
	__u64 cookie;

	if (!sk || sk->skc_state == TCP_TIME_WAIT ||
	    sk->skc_state == TCP_NEW_SYN_RECV || sk->skc_state == TCP_CLOSE ||
	    sk->skc_state == TCP_LISTEN)
		return 0;
	cookie = bpf_get_socket_cookie(sk);
	e = bpf_map_lookup_elem(&endings, &cookie);
	if (!e || !still_there(e, sk))
		return 0;
	peer = bpf_map_lookup_elem(&peers, &cookie);
	if (!peer || peer->backend != e->backend ||
	    peer->generation != e->generation)
		return 0;
	if (!bpf_sock_destroy(sk))
		bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	return 0;
}
