/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings of the packet path, with the values that hold where nobody sets
 * others. A device's kind is a setting, too: each kind has its own programs.
 */
#ifndef BEELINE_PACKET_CONFIG_H
#define BEELINE_PACKET_CONFIG_H

#include "config.h"
#include "abi.h"

#define CONFIG_VALUE(type, name, value, doc)                                   \
	volatile const type config_##name = value

/* The device. */
CONFIG_VALUE(__u8, no_link_header, 0, "packets start with the IP header");
CONFIG_VALUE(__u8, pod_device, 0, "what comes in here was sent by a pod");
CONFIG_VALUE(__u8, leave_tagged, 0,
	     "what has a VLAN tag is for that VLAN's device to see");

/* The node's ways. */
CONFIG_VALUE(__u8, detect_local4, 0, "pods are told from outsiders, IPv4");
CONFIG_VALUE(__u8, detect_local6, 0, "pods are told from outsiders, IPv6");
CONFIG_VALUE(__u8, masquerade_all, 0, "source NAT for every ClusterIP");
CONFIG_VALUE(__u8, masquerade_local, 0,
	     "source NAT even where the reply must pass here anyway");
CONFIG_VALUE(__u8, cluster_ip_outside, 1, "outsiders may use a ClusterIP");
CONFIG_VALUE(__u8, redirect_local, 0,
	     "packets to backends of this node skip the stack and netfilter");
CONFIG_VALUE(
	__u8, leave_unknown, 0,
	"connections without a flow are the stack's, while it has them still");
CONFIG_VALUE(__u8, cut_by_loopback, 0,
	     "the loopback device takes packets from the node's own addresses");
CONFIG_VALUE(__u8, conntrack, 0,
	     "connection tracking can be asked (bpf_skb_ct_lookup)");
CONFIG_VALUE(__u8, echo_reply, 0, "a VIP with a backend answers pings");

/* Source NAT takes ports from here, except those in `reserved_ports`: below
 * the NodePorts (30000) and the ports of the node's own sockets (32768). */
CONFIG_VALUE(__u16, snat_port_min, 1024, "first port of source NAT");
CONFIG_VALUE(__u16, snat_port_max, 29999, "last port of source NAT");

/* Where ClusterIPs are taken from. Base and mask, because programs compare them
 * where others pay for a look-up. */
#define SERVICE_RANGES 8
CONFIG_VALUE(__u32, service_range_count, 0, "how many there are");
volatile const struct ip_addr config_service_range_base[SERVICE_RANGES] = {};
volatile const struct ip_addr config_service_range_mask[SERVICE_RANGES] = {};

CONFIG_VALUE(__u32, icmp_rate, 1000,
	     "ICMP messages of our own, a second and CPU");
CONFIG_VALUE(__u32, icmp_burst, 50, "... and at once");

/* Secret, so that nobody can fill one line of the index at will. It belongs to
 * the content of the flow table: the agent keeps it as long as that. */
CONFIG_VALUE(__u64, flow_seed, 0x243f6a8885a308d3, "seed of the flow hash");
CONFIG_VALUE(__u32, flow_mask, 65536 - 1, "size of `flows` minus 1");

/* nf_conntrack's defaults (Documentation/networking/nf_conntrack-sysctl.rst),
 * and kube-proxy's where it sets others: established 24 h, close-wait 1 h. */
volatile const __u32 config_flow_timeout_secs[FLOW_TIMEOUTS] = {
	[FLOW_TIMEOUT_TCP_OPENING] = 120,
	[FLOW_TIMEOUT_TCP_ANSWERED] = 60,
	[FLOW_TIMEOUT_TCP_ESTABLISHED] = 86400,
	[FLOW_TIMEOUT_TCP_HALF_CLOSED] = 3600,
	[FLOW_TIMEOUT_TCP_CLOSED] = 120,
	[FLOW_TIMEOUT_TCP_RESET] = 10,
	[FLOW_TIMEOUT_UDP_UNANSWERED] = 30,
	[FLOW_TIMEOUT_UDP_ANSWERED] = 120,
	[FLOW_TIMEOUT_SCTP_OPENING] = 30,
	[FLOW_TIMEOUT_SCTP_ESTABLISHED] = 210,
	[FLOW_TIMEOUT_SCTP_CLOSED] = 10,
};

#endif
