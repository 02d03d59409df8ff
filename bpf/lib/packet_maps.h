/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The maps of the packet path, beside those of maps.h. Who writes: the agent
 * the first group, programs the second.
 */
#ifndef BEELINE_PACKET_MAPS_H
#define BEELINE_PACKET_MAPS_H

#include "maps.h"

/* --- written by the agent --- */

/* Where pods are, if addresses tell (detect-local by CIDR). */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct pod_range_key);
	__type(value, __u32);
} pod_ranges SEC(".maps");

/* loadBalancerSourceRanges, of all frontends with FRONTEND_SOURCE_RANGES. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct source_range_key);
	__type(value, __u32);
} source_ranges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egress_key);
	__type(value, struct ip_addr);
} egress_addrs SEC(".maps");

/* One bit a port: set where source NAT must keep off (hostPorts, the system's
 * ip_local_reserved_ports, ...). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} reserved_ports SEC(".maps");

/* --- written by programs --- */

/* Sizes are powers of two, and there is half a line for each flow. Mapped, so
 * that records and lines start at cache lines and the agent reads without
 * system calls. */
#define FLOWS 65536

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FLOWS / 2);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow_line);
} flow_index SEC(".maps");

/* A lost entry costs one packet, which its sender must be ready for. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rate_bucket);
} icmp_tokens SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rate_bucket);
} fragment_tokens SEC(".maps");

#endif
