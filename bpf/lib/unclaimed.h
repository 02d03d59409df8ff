/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What no frontend claims and yet must not go on: packets from the wire that
 * name this machine's own loopback, and connections to addresses that only a
 * Service could have. The latter only as they leave, as with kube-proxy: by
 * then another proxy has translated what is for a Service of its own.
 */
#ifndef BEELINE_UNCLAIMED_H
#define BEELINE_UNCLAIMED_H

#include "drop.h"
#include "frontend.h"
#include "icmp_echo.h"
#include "parse.h"

static __always_inline bool is_loopback(const struct ip_addr *a, __u8 family)
{
	if (family == 4)
		return (a->word[3] & bpf_htonl(0xff000000)) ==
		       bpf_htonl(0x7f000000);
	return !a->word[0] && !a->word[1] && !a->word[2] &&
	       a->word[3] == bpf_htonl(1);
}

/* A martian (RFC 1812 5.3.7, RFC 4291 2.5.3). The kernel drops it, too, unless
 * net.ipv4.conf.*.route_localnet is set, as kube-proxy's iptables mode leaves
 * it: then neighbours reach what listens on 127.0.0.1 (CVE-2020-8558). */
static __always_inline bool is_martian(const struct packet *pkt)
{
	return is_loopback(&pkt->tuple.dst, pkt->family) ||
	       is_loopback(&pkt->tuple.src, pkt->family);
}

static __always_inline bool begins(const struct packet *pkt, enum parsed parsed)
{
	if (parsed == PARSED_ICMP)
		return icmp_is_echo(pkt);
	return parsed == PARSED_PORTS && (pkt->tuple.protocol == IPPROTO_UDP ||
					  pkt->signal & SIGNAL_OPEN);
}

static __always_inline bool ip_within(const struct ip_addr *a,
				      const volatile struct ip_addr *base,
				      const volatile struct ip_addr *mask)
{
	for (int i = 3; i >= 0; i--)
		if ((a->word[i] & mask->word[i]) != base->word[i])
			return false;
	return true;
}

/* Whether an address that ClusterIPs are taken from is meant. */
static __always_inline bool in_service_range(const struct ip_addr *a)
{
	for (__u32 i = 0; i < SERVICE_RANGES; i++) {
		if (i >= config_service_range_count)
			return false;
		if (ip_within(a, &config_service_range_base[i],
			      &config_service_range_mask[i]))
			return true;
	}
	return false;
}

/* A connection to an address of a Service range that no Service has: dropped,
 * as kube-proxy's nftables mode does. Else it would go to the default route,
 * and the kernel's conntrack would remember it (pains A23, A38). */
static __always_inline bool is_unassigned(const struct packet *pkt,
					  enum parsed parsed)
{
	return config_service_range_count && begins(pkt, parsed) &&
	       in_service_range(&pkt->tuple.dst);
}

/* Whether the destination is somebody's after all: the filter knows it, and not
 * by coincidence. */
static __noinline bool is_claimed(const struct packet *pkt, enum parsed parsed)
{
	if (!vip_filter_has(&pkt->tuple.dst))
		return false;
	return parsed == PARSED_ICMP || packet_frontend(pkt) ||
	       local_addr(&pkt->tuple.dst);
}

/* What becomes of a packet that leaves and has nothing to do with a flow. */
static __always_inline int leave_unclaimed(const struct packet *pkt,
					   enum parsed parsed)
{
	if (is_unassigned(pkt, parsed) && !is_claimed(pkt, parsed))
		return drop(COUNTER_UNASSIGNED);
	return pass();
}

#endif
