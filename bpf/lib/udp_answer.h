/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Datagrams to the node's own address that are no requests, although their port
 * is a NodePort: answers to what this node has sent from that port, a socket of
 * its own or netfilter's source NAT (pains A9). Only asked for what has no
 * flow. ADR 0025.
 */
#ifndef BEELINE_UDP_ANSWER_H
#define BEELINE_UDP_ANSWER_H

#include "parse.h"

/* Of the kernel's connection tracking, where it has one (config_conntrack)
 * (Linux 5.18); the layout of the options is fixed by their size. */
struct bpf_ct_opts___12 {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};
_Static_assert(sizeof(struct bpf_ct_opts___12) == 12, "bpf_ct_opts");

struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *skb,
					 struct bpf_sock_tuple *tuple,
					 __u32 tuple_size,
					 struct bpf_ct_opts___12 *opts,
					 __u32 opts_size) __weak __ksym;
extern void bpf_ct_release(struct nf_conn *ct) __weak __ksym;

#define CT_REPLY 1 /* IP_CT_DIR_REPLY */

/* A socket that is connected to the sender. */
static __always_inline bool
socket_awaits(ctx_t *ctx, struct bpf_sock_tuple *tuple, __u32 size)
{
	struct bpf_sock *sk =
		bpf_sk_lookup_udp(ctx, tuple, size, BPF_F_CURRENT_NETNS, 0);
	bool connected;

	if (!sk)
		return false;
	connected = sk->state == BPF_TCP_ESTABLISHED;
	bpf_sk_release(sk);
	return connected;
}

/* A flow that the kernel has seen the first datagram of, in the other direction.
 */
static __always_inline bool
conntrack_awaits(ctx_t *ctx, struct bpf_sock_tuple *tuple, __u32 size)
{
	struct bpf_ct_opts___12 opts = {
		.netns_id = BPF_F_CURRENT_NETNS,
		.l4proto = IPPROTO_UDP,
	};
	struct nf_conn *ct;

	if (!config_conntrack)
		return false;
	ct = bpf_skb_ct_lookup(ctx, tuple, size, &opts, sizeof(opts));
	if (!ct)
		return false;
	bpf_ct_release(ct);
	return opts.dir == CT_REPLY;
}

static __noinline bool udp_is_answer(ctx_t *ctx, const struct packet *pkt)
{
	struct bpf_sock_tuple tuple = {};
	__u32 size = sizeof(tuple.ipv6);

	if (pkt->family == 4) {
		size = sizeof(tuple.ipv4);
		tuple.ipv4.saddr = pkt->tuple.src.word[3];
		tuple.ipv4.daddr = pkt->tuple.dst.word[3];
		tuple.ipv4.sport = pkt->tuple.sport;
		tuple.ipv4.dport = pkt->tuple.dport;
	} else {
		__builtin_memcpy(tuple.ipv6.saddr, &pkt->tuple.src,
				 sizeof(tuple.ipv6.saddr));
		__builtin_memcpy(tuple.ipv6.daddr, &pkt->tuple.dst,
				 sizeof(tuple.ipv6.daddr));
		tuple.ipv6.sport = pkt->tuple.sport;
		tuple.ipv6.dport = pkt->tuple.dport;
	}
	return socket_awaits(ctx, &tuple, size) ||
	       conntrack_awaits(ctx, &tuple, size);
}

#endif
