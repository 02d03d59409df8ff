/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a backend takes for its client: the client itself, or the node with a
 * port of its own. Whichever it is, no two flows look alike to a backend; the
 * later one gets another source port (pains A8, A9).
 */
#ifndef BEELINE_NAT_H
#define BEELINE_NAT_H

#include "drop.h"
#include "fib.h"
#include "flow.h"
#include "handover.h"
#include "lb.h"

#define NAT_TRIES 16

/* The address that packets to a backend leave with. */
static __noinline const struct ip_addr *
egress_addr(ctx_t *ctx, const struct packet *pkt, const struct ip_addr *backend)
{
	struct egress_key key = { .family = pkt->family };
	struct bpf_fib_lookup fib;
	struct ip_addr *addr;

	if (fib_way(ctx, pkt, &pkt->tuple.src, backend, &fib) == WAY_REDIRECT) {
		key.ifindex = fib.ifindex;
		addr = bpf_map_lookup_elem(&egress_addrs, &key);
		if (addr)
			return addr;
		key.ifindex = 0;
	}
	return bpf_map_lookup_elem(&egress_addrs, &key);
}

static __always_inline bool port_reserved(__u16 port)
{
	__u32 key = port / 64;
	__u64 *word = bpf_map_lookup_elem(&reserved_ports, &key);

	return word && *word >> (port % 64) & 1;
}

/* Whether a Service has the port, whatever range NodePorts are taken from. Not
 * inlined: its key would not fit into the stack of who calls. */
static __noinline bool port_is_node_port(const struct flow_tuple *reply,
					 __be16 port)
{
	struct frontend_key key = { .port = port, .protocol = reply->protocol };

	if (ip_is_v4(&reply->dst))
		key.addr.word[2] = V4_MAPPED_PREFIX;
	return bpf_map_lookup_elem(&frontends, &key);
}

/* A port to try, in network order; 0 if it is not to be used. */
static __always_inline __be16 nat_port(const struct flow_tuple *reply)
{
	__u32 span = config_snat_port_max - config_snat_port_min + 1;
	__u16 port = config_snat_port_min +
		     ((__u64)bpf_get_prandom_u32() * span >> 32);

	if (port_reserved(port) || port_is_node_port(reply, bpf_htons(port)))
		return 0;
	return bpf_htons(port);
}

/* Finds a reply tuple that nobody has, starting from the given one, whose port
 * is the client's own or 0. Returns 1, or 0 if none was found. */
__noinline int nat_reserve(struct flow_tuple *reply, __u32 index, __u64 now)
{
	int done;

	if (!reply)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < NAT_TRIES; i++) {
		if (reply->dport && !kept_flow(reply)) {
			done = flow_reserve_reply(reply, index, now);
			if (done == 1)
				return 1;
			if (done == FLOW_NO_ROOM) {
				flow_make_room(flow_hash(reply));
				continue;
			}
		}
		reply->dport = nat_port(reply);
	}
	return 0;
}

/* Makes the flow from a request to the chosen backend. `source` is what the
 * backend is to see, or NULL for the client itself; `extra` are flags. Fills in
 * what the packet turns into; false, with the reason counted, if there is no
 * flow to be had. */
static __always_inline bool nat_open(const struct flow_tuple *request,
				     struct lb_choice *choice,
				     const struct ip_addr *source, __u32 extra,
				     struct flow_tuple *to, __u32 *flags)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow *flow = NULL;
	__u32 index = 0;

	if (!config_dry_run) {
		flow = flow_open(request, now, &index);
		if (!flow) {
			choice->reason = COUNTER_FLOW_FULL;
			count(COUNTER_FLOW_FULL);
			return false;
		}
	}
	/* The reply first, as the backend will send it; then turned around. */
	to->src = choice->addr;
	to->sport = choice->port;
	to->dst = source ? *source : request->src;
	to->dport = source ? 0 : request->sport;
	to->protocol = request->protocol;
	if (!nat_reserve(to, index, now)) {
		if (flow)
			flow_abandon(flow, index);
		choice->reason = COUNTER_SNAT_NO_PORT;
		count(COUNTER_SNAT_NO_PORT);
		return false;
	}
	*flags = FLOW_USED | extra | (choice->local ? FLOW_LOCAL : 0);
	if (source || to->dport != request->sport)
		*flags |= FLOW_SNAT;
	flow_reverse(to);
	if (!flow)
		return true;
	flow->service = choice->service;
	flow->backend = choice->backend;
	flow->generation = choice->generation;
	flow->lost = 0;
	flow->flags = *flags;
	flow_publish(flow);
	return true;
}

#endif
