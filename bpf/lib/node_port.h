/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * NodePorts: the node's own addresses, and the frontends that stand for all of
 * them under the unspecified address.
 */
#ifndef BEELINE_NODE_PORT_H
#define BEELINE_NODE_PORT_H

#include "ip.h"
#include "maps.h"

/* Flags of an address of the node; 0 for others. The key is a copy because
 * Linux 6.1 takes none from an argument of a global function. */
static __always_inline __u32 local_addr(const struct ip_addr *addr)
{
	struct ip_addr key = *addr;
	__u32 *flags = bpf_map_lookup_elem(&local_addrs, &key);

	return flags ? *flags : 0;
}

/* The frontend of a NodePort, or NULL. */
static __always_inline struct frontend *
node_port_frontend(const struct frontend_key *at)
{
	struct frontend_key key = *at;

	if (!(local_addr(&key.addr) & LOCAL_ADDR_NODE_PORT))
		return NULL;
	key.addr.word[2] = ip_is_v4(&key.addr) ? V4_MAPPED_PREFIX : 0;
	key.addr.word[0] = 0;
	key.addr.word[1] = 0;
	key.addr.word[3] = 0;
	return bpf_map_lookup_elem(&frontends, &key);
}

#endif
