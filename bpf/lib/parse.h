/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From bytes to a packet: link header, VLAN tags, IPv4 with options, IPv6 with
 * extension headers, ports. What does not parse is not ours: it is left to the
 * kernel, which knows more protocols and drops what is broken.
 */
#ifndef BEELINE_PARSE_H
#define BEELINE_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "ctx.h"
#include "ip.h"
#include "packet_config.h"

#define VLAN_TAGS 2
#define VLAN_HLEN 4
#define IPV6_EXTENSIONS 6

#ifndef ETH_P_8021AD
#define ETH_P_8021AD 0x88A8
#endif

/* IPv4 in host order, of struct iphdr.frag_off. */
#define IPV4_DF 0x4000
#define IPV4_MF 0x2000
#define IPV4_OFFSET 0x1fff

enum parsed {
	PARSED_OTHER,	 /* nothing that Services know */
	PARSED_PORTS,	 /* TCP, UDP or SCTP, with ports */
	PARSED_FRAGMENT, /* a later fragment of one of these: no ports */
	PARSED_ICMP,	 /* ICMP of the packet's family */
	PARSED_DEEP,	 /* behind more IPv6 headers than are walked */
};

enum fragment_kind {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
};

/* What a packet does to its connection, TCP's and SCTP's words in one. */
enum signal {
	SIGNAL_OPEN = 1 << 0,	   /* SYN, INIT */
	SIGNAL_FIN = 1 << 1,	   /* FIN, SHUTDOWN COMPLETE */
	SIGNAL_RST = 1 << 2,	   /* RST, ABORT */
	SIGNAL_ACK = 1 << 3,	   /* TCP's ACK; any other chunk of SCTP */
	SIGNAL_ANSWER = 1 << 4,	   /* SYN-ACK; noticed in a rollback only */
	SIGNAL_MALFORMED = 1 << 5, /* its receiver could not read it */
};

struct packet {
	struct flow_tuple tuple;
	__u32 l3;  /* where the IP header starts */
	__u32 l4;  /* where the transport header starts */
	__u32 end; /* where the IP packet ends */
	__be32 fragment_id;
	__u8 family; /* 4 or 6 */
	__u8 ttl;
	__u8 fragment; /* enum fragment_kind */
	__u8 signal;   /* enum signal */
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 dont_fragment;
	__u8 vlan_tags; /* inside the packet */
};

struct ipv6_extension {
	__u8 next;
	__u8 len;
	__be16 more; /* fragment: offset and flags; routing: type, segments left
		      */
	__be32 id;
};

struct l4_ports {
	__be16 sport;
	__be16 dport;
};

/* TCP from its sequence number to its flags; SCTP's first chunk is at 12. */
struct l4_rest {
	__be32 seq, ack;
	__u8 offset_or_chunk;
	__u8 flags;
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define SCTP_INIT 1
#define SCTP_ABORT 6
#define SCTP_SHUTDOWN_COMPLETE 14

static __always_inline __u8 tcp_signal(__u8 flags)
{
	__u8 s = 0;

	if (flags & TCP_ACK)
		s |= SIGNAL_ACK;
	else if (flags & TCP_SYN)
		s |= SIGNAL_OPEN;
	if (flags & TCP_FIN)
		s |= SIGNAL_FIN;
	if (flags & TCP_RST)
		s |= SIGNAL_RST;
	if (config_refuse_new && flags & TCP_SYN && flags & TCP_ACK)
		s |= SIGNAL_ANSWER;
	return s;
}

static __always_inline __u8 sctp_signal(__u8 chunk)
{
	switch (chunk) {
	case SCTP_INIT:
		return SIGNAL_OPEN;
	case SCTP_ABORT:
		return SIGNAL_RST;
	case SCTP_SHUTDOWN_COMPLETE:
		return SIGNAL_FIN;
	default:
		return SIGNAL_ACK;
	}
}

/* How long the shortest transport header is; 0 for what Services do not know.*/
static __always_inline __u32 l4_min_len(__u8 protocol)
{
	switch (protocol) {
	case IPPROTO_TCP:
		return 20;
	case IPPROTO_UDP:
		return 8;
	case IPPROTO_SCTP:
		return 12;
	default:
		return 0;
	}
}

/* Whether UDP's length is that of a datagram that is all here. Segments have
 * that of the whole, and IPv6 knows 0 for jumbograms. */
static __always_inline bool udp_len_ok(const ctx_t *ctx,
				       const struct packet *pkt)
{
	__be16 field;
	__u32 len;

	if (pkt->fragment || ctx_is_gso(ctx))
		return true;
	if (!ctx_load_near(ctx, pkt->l4 + sizeof(struct l4_ports), &field,
			   sizeof(field)))
		return false;
	len = bpf_ntohs(field);
	if (!len && pkt->family == 6)
		return true;
	return len >= 8 && pkt->l4 + len <= pkt->end;
}

/* Ports and signals. Of a packet quoted by ICMP there may be no more than 8
 * bytes, so only the ports are asked for. */
static __always_inline enum parsed parse_l4(const ctx_t *ctx,
					    struct packet *pkt, bool quoted)
{
	__u8 protocol = pkt->tuple.protocol;
	__u32 min = l4_min_len(protocol);
	struct l4_ports ports;
	struct l4_rest rest;
	__u8 icmp[2];

	if (protocol == (pkt->family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (pkt->fragment || quoted || pkt->l4 + 8 > pkt->end ||
		    !ctx_load(ctx, pkt->l4, icmp, sizeof(icmp)))
			return PARSED_OTHER;
		pkt->icmp_type = icmp[0];
		pkt->icmp_code = icmp[1];
		return PARSED_ICMP;
	}
	if (!min)
		return PARSED_OTHER;
	if (pkt->fragment == FRAGMENT_LATER)
		return quoted ? PARSED_OTHER : PARSED_FRAGMENT;
	if (!quoted && pkt->l4 + min > pkt->end)
		return PARSED_OTHER;
	if (!ctx_load_near(ctx, pkt->l4, &ports, sizeof(ports)))
		return PARSED_OTHER;
	pkt->tuple.sport = ports.sport;
	pkt->tuple.dport = ports.dport;
	if (quoted)
		return PARSED_PORTS;
	if (protocol == IPPROTO_UDP) {
		pkt->signal = udp_len_ok(ctx, pkt) ? 0 : SIGNAL_MALFORMED;
		return PARSED_PORTS;
	}
	/* A bare SCTP common header has no chunk; nobody sends one. */
	if (!ctx_load_near(ctx, pkt->l4 + sizeof(ports), &rest, sizeof(rest)))
		return PARSED_OTHER;
	pkt->signal = protocol == IPPROTO_TCP ?
			      tcp_signal(rest.flags) :
			      sctp_signal(rest.offset_or_chunk);
	if (protocol == IPPROTO_TCP && !pkt->fragment) {
		__u32 header = (rest.offset_or_chunk >> 4) * 4;

		if (header < min || pkt->l4 + header > pkt->end)
			pkt->signal |= SIGNAL_MALFORMED;
	}
	return PARSED_PORTS;
}

static __always_inline __u64 sum_words(const void *words, __u32 count)
{
	const __u32 *w = words;
	__u64 sum = 0;

	for (__u32 i = 0; i < count; i++)
		sum += w[i];
	return sum;
}

static __noinline __u64 sum_options(const ctx_t *ctx, __u32 at, __u32 len)
{
	__u32 options[10] = {};

	asm volatile(""
		     : "+r"(len)); /* the bounds below are of this register */
	if (!len || len > sizeof(options) || !ctx_load(ctx, at, options, len))
		return 0;
	return sum_words(options, 10);
}

/* Packets may leave without passing the stack, which would look at this. */
static __always_inline bool ipv4_intact(const ctx_t *ctx, __u32 l3,
					const struct iphdr *ip)
{
	__u64 sum = sum_words(ip, sizeof(*ip) / 4);

	if (ip->ihl > 5)
		sum += sum_options(ctx, l3 + sizeof(*ip),
				   ip->ihl * 4 - sizeof(*ip));
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline enum parsed parse_ipv4(const ctx_t *ctx,
					      struct packet *pkt, bool quoted)
{
	struct iphdr ip;
	__u32 header, total;
	__u16 frag;

	if (!ctx_load_near(ctx, pkt->l3, &ip, sizeof(ip)))
		return PARSED_OTHER;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (!total && ctx_is_gso(ctx)) /* more than the field can say */
		total = ctx_len(ctx) - pkt->l3;
	if (ip.version != 4 || header < sizeof(ip) || total < header)
		return PARSED_OTHER;
	pkt->end = pkt->l3 + total;
	if (!quoted &&
	    (pkt->end > ctx_len(ctx) || !ipv4_intact(ctx, pkt->l3, &ip)))
		return PARSED_OTHER;
	frag = bpf_ntohs(ip.frag_off);
	if (frag & IPV4_OFFSET)
		pkt->fragment = FRAGMENT_LATER;
	else if (frag & IPV4_MF)
		pkt->fragment = FRAGMENT_FIRST;
	pkt->dont_fragment = !!(frag & IPV4_DF);
	pkt->fragment_id = ip.id;
	pkt->family = 4;
	pkt->ttl = ip.ttl;
	pkt->l4 = pkt->l3 + header;
	pkt->tuple.src = ip_from_v4(ip.saddr);
	pkt->tuple.dst = ip_from_v4(ip.daddr);
	pkt->tuple.protocol = ip.protocol;
	return parse_l4(ctx, pkt, quoted);
}

/* Walks the extension headers. Returns PARSED_DEEP if there are too many,
 * PARSED_OTHER for one that changes where the packet goes, else PARSED_PORTS. */
static __always_inline enum parsed parse_extensions(const ctx_t *ctx,
						    struct packet *pkt)
{
	__u8 next = pkt->tuple.protocol;
	struct ipv6_extension ext;
	__u32 off = pkt->l4, len;

#pragma clang loop unroll(disable)
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT &&
		    next != IPPROTO_AH) {
			pkt->tuple.protocol = next;
			pkt->l4 = off;
			return PARSED_PORTS;
		}
		if (!ctx_load(ctx, off, &ext, sizeof(ext)))
			return PARSED_OTHER;
		len = (ext.len + 1) * 8;
		if (next == IPPROTO_ROUTING && ext.more & bpf_htons(0xff))
			return PARSED_OTHER; /* segments left: not yet at its
						end */
		if (next == IPPROTO_AH)
			len = (ext.len + 2) * 4;
		if (next == IPPROTO_FRAGMENT) {
			__u16 at = bpf_ntohs(ext.more);

			len = sizeof(ext);
			pkt->fragment_id = ext.id;
			if (at & 0xfff8)
				pkt->fragment = FRAGMENT_LATER;
			else if (at & 1)
				pkt->fragment = FRAGMENT_FIRST;
			if (pkt->fragment == FRAGMENT_LATER) {
				/* What follows is data, not a header. */
				pkt->tuple.protocol = ext.next;
				pkt->l4 = off + len;
				return PARSED_PORTS;
			}
		}
		next = ext.next;
		off += len;
	}
	return PARSED_DEEP;
}

static __always_inline enum parsed parse_ipv6(const ctx_t *ctx,
					      struct packet *pkt, bool quoted)
{
	enum parsed walked;
	struct ipv6hdr ip;

	if (!ctx_load_near(ctx, pkt->l3, &ip, sizeof(ip)) || ip.version != 6)
		return PARSED_OTHER;
	pkt->l4 = pkt->l3 + sizeof(ip);
	pkt->end = pkt->l4 + bpf_ntohs(ip.payload_len);
	if (!ip.payload_len && ctx_is_gso(ctx))
		pkt->end = ctx_len(ctx);
	if (!quoted && pkt->end > ctx_len(ctx))
		return PARSED_OTHER;
	pkt->family = 6;
	pkt->ttl = ip.hop_limit;
	pkt->dont_fragment = 1;
	__builtin_memcpy(&pkt->tuple.src, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(&pkt->tuple.dst, &ip.daddr, sizeof(ip.daddr));
	pkt->tuple.protocol = ip.nexthdr;
	if (l4_min_len(ip.nexthdr)) /* the usual case skips the walk */
		return parse_l4(ctx, pkt, quoted);
	walked = parse_extensions(ctx, pkt);
	if (walked != PARSED_PORTS)
		return walked;
	return parse_l4(ctx, pkt, quoted);
}

/* Finds the IP header behind link header and VLAN tags; 0 if there is none.
 * Returns its EtherType in network order. */
static __always_inline __be16 parse_link(const ctx_t *ctx, struct packet *pkt)
{
	__be16 type = ctx->protocol;
	__be16 tag[2]; /* control information, EtherType */

	if (config_no_link_header)
		return type;
	pkt->l3 = ETH_HLEN;
	for (int i = 0; i < VLAN_TAGS; i++) {
		if (type != bpf_htons(ETH_P_8021Q) &&
		    type != bpf_htons(ETH_P_8021AD))
			break;
		if (!ctx_load(ctx, pkt->l3, tag, sizeof(tag)))
			return 0;
		type = tag[1];
		pkt->l3 += VLAN_HLEN;
		pkt->vlan_tags++;
	}
	return type;
}

/* Returns enum parsed. `pkt` comes in zeroed. */
__noinline int parse(const ctx_t *ctx, struct packet *pkt)
{
	__be16 type;

	if (!pkt)
		return PARSED_OTHER;
	type = parse_link(ctx, pkt);
	if (config_leave_tagged && (pkt->vlan_tags || ctx_vlan(ctx)))
		return PARSED_OTHER;
	switch (type) {
	case bpf_htons(ETH_P_IP):
		return parse_ipv4(ctx, pkt, false);
	case bpf_htons(ETH_P_IPV6):
		return parse_ipv6(ctx, pkt, false);
	default:
		return PARSED_OTHER;
	}
}

/* Parses the packet that an ICMP error quotes. pkt->l3 says where it is. */
static __always_inline enum parsed parse_quoted(const ctx_t *ctx, __u8 family,
						struct packet *pkt)
{
	return family == 4 ? parse_ipv4(ctx, pkt, true) :
			     parse_ipv6(ctx, pkt, true);
}

#endif
