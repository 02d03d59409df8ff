/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Socket hooks: a process that connects or sends to a Service gets a backend
 * before a packet exists, and is told the Service's address whenever it asks
 * who it talks to. After connect() nothing of us is left on the way.
 */
#include <linux/errno.h>
#include <linux/in.h>

#include "lib/handover.h"
#include "lib/ip.h"
#include "lib/lb.h"
#include "lib/opt_out.h"
#include "lib/sock_told.h"
#include "lib/tcp_peer.h"
#include "lib/udp_peer.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What a hook tells the kernel. */
#define SOCK_ALLOW 1
#define SOCK_DENY 0

/* What became of a destination. */
enum sock_result {
	SOCK_REFUSED,	 /* the call fails; bpf_set_retval has the errno */
	SOCK_UNTOUCHED,	 /* not a Service's */
	SOCK_TRANSLATED, /* to be written back to the hook's context */
};

/* A destination as the hooks hand it over, in one width for both families. */
struct sock_dest {
	struct ip_addr addr;
	__be16 port;
};

static __always_inline struct sock_dest dest4_load(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = {
		.addr = ip_from_v4(ctx->user_ip4),
		.port = ctx->user_port,
	};

	return d;
}

static __always_inline void dest4_store(struct bpf_sock_addr *ctx,
					const struct sock_dest *d)
{
	ctx->user_ip4 = d->addr.word[3];
	ctx->user_port = d->port;
}

static __always_inline struct sock_dest dest6_load(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = {
		.addr.word = { ctx->user_ip6[0], ctx->user_ip6[1],
			       ctx->user_ip6[2], ctx->user_ip6[3] },
		.port = ctx->user_port,
	};

	return d;
}

static __always_inline void dest6_store(struct bpf_sock_addr *ctx,
					const struct sock_dest *d)
{
	ctx->user_ip6[0] = d->addr.word[0];
	ctx->user_ip6[1] = d->addr.word[1];
	ctx->user_ip6[2] = d->addr.word[2];
	ctx->user_ip6[3] = d->addr.word[3];
	ctx->user_port = d->port;
}

/* A refused call returns -1 with this errno. Without bpf_set_retval (5.18) it
 * would always be EPERM, which no client expects. */
static __always_inline enum sock_result sock_refuse(int error)
{
	bpf_set_retval(-error);
	return SOCK_REFUSED;
}

/* Frontend of a local process's destination, or NULL to leave it alone. */
static __always_inline struct frontend *sock_frontend(struct bpf_sock_addr *ctx,
						      const struct sock_dest *d)
{
	__u32 protocol = ctx->protocol;
	struct frontend *f;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return NULL;
	f = frontend_lookup(&d->addr, d->port, protocol);
	if (!f || f->flags & FRONTEND_SOURCE_RANGES || opted_out(ctx))
		return NULL;
	/* 127.0.0.1 is the node's in its own network namespace only. */
	if (f->flags & FRONTEND_NODE_PORT && ip_is_loopback(&d->addr) &&
	    bpf_get_netns_cookie(ctx) != config_node_netns)
		return NULL;
	return f;
}

/*
 * Local processes are pods of this node or the node itself: an external
 * frontend gives both the cluster's backends whatever its policy says
 * (kube-proxy: "short-circuit" rules), only a ClusterIP's own policy binds.
 */
static __always_inline enum verdict sock_choose(struct bpf_sock_addr *ctx,
						const struct frontend *f,
						struct lb_choice *choice)
{
	enum set_kind kind =
		f->flags & FRONTEND_INTERNAL_LOCAL ? SET_LOCAL : SET_CLUSTER;
	struct affinity_key client = {};
	enum verdict v;

	if (f->flags & FRONTEND_ADDRESS) {
		choice->service = f->service;
		return lb_refuse(choice, COUNTER_UNKNOWN_PORT, VERDICT_REJECT);
	}
	if (f->affinity_secs) {
		__u64 cookie = bpf_get_netns_cookie(ctx);

		client.client.word[0] = CLIENT_NETNS;
		client.client.word[2] = cookie >> 32;
		client.client.word[3] = cookie;
	}
	v = lb_choose(f, kind, &client, choice);
	if (v == VERDICT_BACKEND)
		lb_pin(&client, choice);
	return v;
}

static __always_inline void
peer_record_in_socket(struct bpf_sock_addr *ctx, const struct sock_dest *vip,
		      const struct lb_choice *choice)
{
	struct udp_flows *flows;
	struct udp_flow *flow;

	flows = bpf_sk_storage_get(&udp_peers, ctx->sk, 0,
				   BPF_SK_STORAGE_GET_F_CREATE);
	if (!flows) {
		count(COUNTER_UDP_NO_STORAGE);
		return;
	}
	flow = udp_flow_by_vip(flows, &vip->addr, vip->port) ?:
		       udp_flow_unused(flows);
	udp_flow_write(flow, &vip->addr, vip->port, choice);
	flows->connected = 1 + (flow - flows->flow);
}

/* Remembers what connect() was asked for. The kernel's own TCP sockets, whose
 * end no hook tells, take the dearer way of UDP: their records end with them
 * (libceph compares its peer's name, pains A18). */
static __always_inline void peer_record(struct bpf_sock_addr *ctx,
					const struct sock_dest *vip,
					const struct lb_choice *choice)
{
	if (ctx->protocol == IPPROTO_UDP) {
		peer_record_in_socket(ctx, vip, choice);
		return;
	}
	if (!config_tcp_peer_names)
		return;
	if (tcp_owned_by_kernel(ctx->sk))
		peer_record_in_socket(ctx, vip, choice);
	else
		tcp_peer_record(ctx, &vip->addr, vip->port, choice);
}

/* After a connect() straight to a pod its datagrams come from the pod, by
 * whatever Service the socket came to it before. */
static __always_inline void udp_connect_forget(struct bpf_sock_addr *ctx,
					       const struct sock_dest *d)
{
	struct udp_flows *flows;

	if (ctx->protocol != IPPROTO_UDP)
		return;
	flows = bpf_sk_storage_get(&udp_peers, ctx->sk, 0, 0);
	if (flows)
		udp_flow_forget(flows, &d->addr, d->port);
}

static __always_inline enum sock_result sock_connect(struct bpf_sock_addr *ctx,
						     struct sock_dest *d)
{
	struct sock_dest vip = *d;
	struct lb_choice choice;
	enum verdict verdict;
	struct frontend *f;

	f = sock_frontend(ctx, d);
	if (!f) {
		udp_connect_forget(ctx, d);
		return SOCK_UNTOUCHED;
	}
	if (config_refuse_new)
		return SOCK_UNTOUCHED;
	verdict = sock_choose(ctx, f, &choice);
	sock_told(ctx, &vip.addr, vip.port, verdict, &choice, EVENT_AT_CONNECT);
	switch (verdict) {
	case VERDICT_BACKEND:
		break;
	case VERDICT_DROP:
		/* What a dropped SYN ends in, without the wait (ADR 0005). */
		return sock_refuse(ETIMEDOUT);
	case VERDICT_REJECT:
		return sock_refuse(ECONNREFUSED);
	default:
		return SOCK_UNTOUCHED;
	}
	d->addr = choice.addr;
	d->port = choice.port;
	peer_record(ctx, &vip, &choice);
	return SOCK_TRANSLATED;
}

/* The backend this socket already talks to through that frontend: kept while
 * it lives, so that an exchange of many datagrams stays in one place. One that
 * it is connected to is kept however long they pause: send() passes by here. */
static __always_inline bool udp_reuse(struct udp_flow *flow, bool connected,
				      const struct frontend *f,
				      struct sock_dest *d)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (flow->service != f->service ||
	    (!connected && !udp_flow_fresh(flow, now)) ||
	    !backend_alive(flow->backend, flow->generation))
		return false;
	flow->seen_ns = now;
	d->addr = flow->addr;
	d->port = flow->port;
	if (config_refuse_new)
		count(COUNTER_HANDED_BACK);
	return true;
}

/* Whether a datagram that no flow of ours claims is left to netfilter. */
static __always_inline bool sock_left(struct bpf_sock_addr *ctx,
				      const struct sock_dest *d)
{
	if (config_refuse_new)
		return true;
	return config_keep_flows && ctx->sk &&
	       kept_flow_of_port(ctx->sk->src_port, &d->addr, d->port,
				 ctx->protocol);
}

static __always_inline enum sock_result sock_sendmsg(struct bpf_sock_addr *ctx,
						     struct sock_dest *d)
{
	struct sock_dest vip = *d;
	struct udp_flows *flows;
	struct lb_choice choice;
	bool connected = false;
	enum verdict verdict;
	struct udp_flow *flow;
	struct frontend *f;

	f = sock_frontend(ctx, d);
	if (!f)
		return SOCK_UNTOUCHED;
	flows = bpf_sk_storage_get(
		&udp_peers, ctx->sk, 0,
		config_refuse_new ? 0 : BPF_SK_STORAGE_GET_F_CREATE);
	if (flows) {
		flow = udp_flow_by_vip(flows, &vip.addr, vip.port);
		connected = flow && ctx->sk->state == BPF_TCP_ESTABLISHED &&
			    flow == udp_flow_connected(flows);
		if (flow && udp_reuse(flow, connected, f, d))
			return SOCK_TRANSLATED;
	} else if (!config_refuse_new) {
		count(COUNTER_UDP_NO_STORAGE);
	}
	if (sock_left(ctx, d))
		return SOCK_UNTOUCHED;
	verdict = sock_choose(ctx, f, &choice);
	sock_told(ctx, &vip.addr, vip.port, verdict, &choice, EVENT_AT_SENDMSG);
	switch (verdict) {
	case VERDICT_BACKEND:
		break;
	case VERDICT_DROP:
		/* What a netfilter DROP tells a local sender (ADR 0005). */
		return sock_refuse(EPERM);
	case VERDICT_REJECT:
		return sock_refuse(ECONNREFUSED);
	default:
		return SOCK_UNTOUCHED;
	}
	if (flows) {
		/* Looked for again: a pointer that is kept across the choice
		 * makes the verifier walk through that once for each value. */
		flow = NULL;
		if (!connected) /* it tells that the socket must be ended */
			flow = udp_flow_by_vip(flows, &vip.addr, vip.port);
		udp_flow_write(flow ?: udp_flow_unused(flows), &vip.addr,
			       vip.port, &choice);
	}
	d->addr = choice.addr;
	d->port = choice.port;
	return SOCK_TRANSLATED;
}

/* Gives a datagram's source back as the address that was sent to. Returns
 * whether `d` changed. */
static __always_inline bool sock_recvmsg(struct bpf_sock_addr *ctx,
					 struct sock_dest *d)
{
	struct udp_flows *flows;
	struct udp_flow *flow;

	flows = bpf_sk_storage_get(&udp_peers, ctx->sk, 0, 0);
	if (!flows)
		return false;
	flow = udp_flow_by_backend(flows, &d->addr, d->port);
	if (!flow)
		return false;
	flow->seen_ns = bpf_ktime_get_coarse_ns();
	flow->replied = 1;
	if (config_refuse_new)
		count(COUNTER_HANDED_BACK);
	d->addr = flow->vip;
	d->port = flow->vip_port;
	return true;
}

static __always_inline bool sock_getpeername(struct bpf_sock_addr *ctx,
					     struct sock_dest *d)
{
	struct udp_flows *flows;
	struct udp_flow *flow;
	struct peer *peer;

	if (ctx->protocol == IPPROTO_TCP) {
		peer = tcp_peer_lookup(ctx, &d->addr, d->port);
		if (peer) {
			d->addr = peer->vip;
			d->port = peer->port;
			return true;
		}
	}
	flows = bpf_sk_storage_get(&udp_peers, ctx->sk, 0, 0);
	if (!flows)
		return false;
	flow = udp_flow_by_backend(flows, &d->addr, d->port);
	if (!flow)
		return false;
	d->addr = flow->vip;
	d->port = flow->vip_port;
	return true;
}

SEC("cgroup/connect4")
int beeline_connect4(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest4_load(ctx);
	enum sock_result result = sock_connect(ctx, &d);

	if (result == SOCK_TRANSLATED)
		dest4_store(ctx, &d);
	return result == SOCK_REFUSED ? SOCK_DENY : SOCK_ALLOW;
}

SEC("cgroup/connect6")
int beeline_connect6(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest6_load(ctx);
	enum sock_result result = sock_connect(ctx, &d);

	if (result == SOCK_TRANSLATED)
		dest6_store(ctx, &d);
	return result == SOCK_REFUSED ? SOCK_DENY : SOCK_ALLOW;
}

SEC("cgroup/sendmsg4")
int beeline_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest4_load(ctx);
	enum sock_result result = sock_sendmsg(ctx, &d);

	if (result == SOCK_TRANSLATED)
		dest4_store(ctx, &d);
	return result == SOCK_REFUSED ? SOCK_DENY : SOCK_ALLOW;
}

SEC("cgroup/sendmsg6")
int beeline_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest6_load(ctx);
	enum sock_result result = sock_sendmsg(ctx, &d);

	if (result == SOCK_TRANSLATED)
		dest6_store(ctx, &d);
	return result == SOCK_REFUSED ? SOCK_DENY : SOCK_ALLOW;
}

SEC("cgroup/recvmsg4")
int beeline_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest4_load(ctx);

	if (sock_recvmsg(ctx, &d))
		dest4_store(ctx, &d);
	return SOCK_ALLOW;
}

SEC("cgroup/recvmsg6")
int beeline_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest6_load(ctx);

	if (sock_recvmsg(ctx, &d))
		dest6_store(ctx, &d);
	return SOCK_ALLOW;
}

SEC("cgroup/getpeername4")
int beeline_getpeername4(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest4_load(ctx);

	if (sock_getpeername(ctx, &d))
		dest4_store(ctx, &d);
	return SOCK_ALLOW;
}

SEC("cgroup/getpeername6")
int beeline_getpeername6(struct bpf_sock_addr *ctx)
{
	struct sock_dest d = dest6_load(ctx);

	if (sock_getpeername(ctx, &d))
		dest6_store(ctx, &d);
	return SOCK_ALLOW;
}

SEC("cgroup/sock_release")
int beeline_sock_release(struct bpf_sock *ctx)
{
	if (ctx->protocol == IPPROTO_TCP)
		tcp_peer_forget(ctx);
	return SOCK_ALLOW;
}
