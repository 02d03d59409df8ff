/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The Services a UDP socket talks to, kept in the socket: replies are given
 * back the Service's address, and one socket keeps one backend per Service as
 * long as that backend lives and the talk goes on (pains A1, A19, A20).
 */
#ifndef BEELINE_UDP_PEER_H
#define BEELINE_UDP_PEER_H

#include "count.h"
#include "ip.h"
#include "lb.h"

static __always_inline bool udp_flow_fresh(const struct udp_flow *flow,
					   __u64 now)
{
	__u64 secs = flow->replied ? config_udp_stream_timeout_secs :
				     config_udp_timeout_secs;

	return idle_ns(now, flow->seen_ns) <= secs * NSEC_PER_SEC;
}

/* The socket's flow to a Service address, or NULL. */
static __always_inline struct udp_flow *
udp_flow_by_vip(struct udp_flows *flows, const struct ip_addr *vip, __be16 port)
{
	struct udp_flow *flow;

	for (int i = 0; i < UDP_FLOWS; i++) {
		flow = &flows->flow[i];
		if (flow->generation && flow->vip_port == port &&
		    ip_equal(&flow->vip, vip))
			return flow;
	}
	return NULL;
}

/* The socket's flow that a backend's datagram belongs to, or NULL. Where two
 * Services share the backend, the one that was talked to last. */
static __always_inline struct udp_flow *
udp_flow_by_backend(struct udp_flows *flows, const struct ip_addr *addr,
		    __be16 port)
{
	struct udp_flow *flow, *best = NULL;

	for (int i = 0; i < UDP_FLOWS; i++) {
		flow = &flows->flow[i];
		if (flow->generation && flow->port == port &&
		    ip_equal(&flow->addr, addr) &&
		    (!best || flow->seen_ns > best->seen_ns))
			best = flow;
	}
	return best;
}

/* The flow that connect() made, or NULL. */
static __always_inline struct udp_flow *
udp_flow_connected(struct udp_flows *flows)
{
	__u32 i = flows->connected - 1;

	return i < UDP_FLOWS && flows->flow[i].generation ? &flows->flow[i] :
							    NULL;
}

/*
 * The flow through which a socket came to be connected to addr:port, or NULL. A
 * connect() that failed after the hook leaves the socket where it was, with a
 * record of where it would have gone: so the destination decides.
 */
static __always_inline struct udp_flow *
udp_flow_of_peer(struct udp_flows *flows, const struct ip_addr *addr,
		 __be16 port)
{
	struct udp_flow *flow = udp_flow_connected(flows);

	if (flow && flow->port == port && ip_equal(&flow->addr, addr))
		return flow;
	return udp_flow_by_backend(flows, addr, port);
}

/* Forgets through which Services the socket came to a backend. */
static __always_inline void udp_flow_forget(struct udp_flows *flows,
					    const struct ip_addr *addr,
					    __be16 port)
{
	struct udp_flow *flow;

	for (int i = 0; i < UDP_FLOWS; i++) {
		flow = &flows->flow[i];
		if (flow->port == port && ip_equal(&flow->addr, addr))
			flow->generation = 0;
	}
	flows->connected = 0;
}

/* The flow of a connected socket is not given up for one of its others: it
 * tells whether the socket must be ended (pains A2). */
static __always_inline struct udp_flow *udp_flow_unused(struct udp_flows *flows)
{
	__u32 i = flows->next++ % UDP_FLOWS;

	if (i + 1 == flows->connected)
		i = flows->next++ % UDP_FLOWS;
	if (flows->flow[i].generation)
		count(COUNTER_UDP_FLOW_EVICTED);
	return &flows->flow[i];
}

static __always_inline void udp_flow_write(struct udp_flow *flow,
					   const struct ip_addr *vip,
					   __be16 port,
					   const struct lb_choice *choice)
{
	flow->vip = *vip;
	flow->vip_port = port;
	flow->addr = choice->addr;
	flow->port = choice->port;
	flow->service = choice->service;
	flow->backend = choice->backend;
	flow->generation = choice->generation;
	flow->seen_ns = bpf_ktime_get_coarse_ns();
	flow->replied = 0;
}

#endif
