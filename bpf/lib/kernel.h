/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The fields of the kernel's own structs that are read; found by name when a
 * program is loaded, wherever this kernel has them.
 */
#ifndef BEELINE_KERNEL_H
#define BEELINE_KERNEL_H

#include "abi.h"
#include "ip.h"

#define AF_INET 2
#define AF_INET6 10

/* States of a socket (include/net/tcp_states.h). A UDP socket is ESTABLISHED
 * while it is connected. */
#define TCP_ESTABLISHED 1
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_NEW_SYN_RECV 12

#pragma clang attribute push(__attribute__((preserve_access_index)),           \
			     apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num; /* local port, in host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	int skc_bound_dev_if;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	__u32 sk_kern_sock : 1;
};

struct inet_sock {
	struct sock sk;
};

struct udp_sock {
	struct inet_sock inet;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
	struct sock *sk;
};

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

#pragma clang attribute pop

static __always_inline struct ip_addr ip_from_in6(const struct in6_addr *a)
{
	struct ip_addr addr = { .word = {
					a->in6_u.u6_addr32[0],
					a->in6_u.u6_addr32[1],
					a->in6_u.u6_addr32[2],
					a->in6_u.u6_addr32[3],
				} };

	return addr;
}

/* What a socket is connected to. One of IPv6 that talks IPv4 has the mapped
 * address there, as every address of ours. */
static __always_inline struct ip_addr sock_dst(const struct sock_common *sk)
{
	if (sk->skc_family == AF_INET)
		return ip_from_v4(sk->skc_daddr);
	return ip_from_in6(&sk->skc_v6_daddr);
}

static __always_inline struct ip_addr sock_src(const struct sock_common *sk)
{
	if (sk->skc_family == AF_INET)
		return ip_from_v4(sk->skc_rcv_saddr);
	return ip_from_in6(&sk->skc_v6_rcv_saddr);
}

#endif
