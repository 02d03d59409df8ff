/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a flow costs in different tables: finding one, and making one that both
 * directions find. For ADR 0010. */
#include "../../../bpf/lib/flow.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define TABLE 1048576

#define FLOW_HASH(name, kind, flags)                                           \
	struct {                                                               \
		__uint(type, kind);                                            \
		__uint(max_entries, TABLE);                                    \
		__uint(map_flags, flags);                                      \
		__type(key, struct flow_tuple);                                \
		__type(value, struct flow);                                    \
	} name SEC(".maps")

FLOW_HASH(lru, BPF_MAP_TYPE_LRU_HASH, 0);
FLOW_HASH(preallocated, BPF_MAP_TYPE_HASH, 0);
FLOW_HASH(on_demand, BPF_MAP_TYPE_HASH, BPF_F_NO_PREALLOC);

volatile const __u32 flow_mask_tables;
__u32 number;

/* Flows are made in one order and found in another, so that those made one
 * after the other, which lie side by side, are not found so. */
static __always_inline struct flow_tuple next_tuple(bool mixed)
{
	__u32 flow = (mixed ? number * 2654435761u >> 11 : number) &
		     flow_mask_tables;
	struct flow_tuple t = {
		.src.word = { 0, 0, bpf_htonl(0xffff),
			      bpf_htonl(0x0a000000 + (flow >> 6)) },
		.dst.word = { 0, 0, bpf_htonl(0xffff), bpf_htonl(0xc6336401) },
		.sport = bpf_htons(1024 + (flow & 63)),
		.dport = bpf_htons(80),
		.protocol = IPPROTO_TCP,
	};

	number = number * 1664525 + 1013904223;
	return t;
}

static __always_inline int use(const struct flow *flow)
{
	return flow ? (int)flow->flags + (int)flow->tuple[FLOW_REPLY].dport :
		      -1;
}

static __always_inline struct flow_tuple reply_of(const struct flow_tuple *t)
{
	struct flow_tuple reply = *t;

	flow_reverse(&reply);
	reply.sport = bpf_htons(8080);
	return reply;
}

/* Both halves carry the record; a real design would have to keep them equal. */
#define HASH_PROGRAMS(name)                                                    \
	SEC("tc") int find_##name(struct __sk_buff *ctx)                       \
	{                                                                      \
		struct flow_tuple t = next_tuple(true);                        \
		(void)ctx;                                                     \
		return use(bpf_map_lookup_elem(&name, &t));                    \
	}                                                                      \
	SEC("tc") int make_##name(struct __sk_buff *ctx)                       \
	{                                                                      \
		struct flow flow = { .flags = FLOW_USED };                     \
		struct flow_tuple t = next_tuple(false), reply = reply_of(&t); \
		(void)ctx;                                                     \
		if (bpf_map_lookup_elem(&name, &t))                            \
			return 0;                                              \
		flow.tuple[0] = t;                                             \
		flow.tuple[1] = reply;                                         \
		return bpf_map_update_elem(&name, &t, &flow, BPF_NOEXIST) ||   \
		       bpf_map_update_elem(&name, &reply, &flow, BPF_NOEXIST); \
	}

HASH_PROGRAMS(lru)
HASH_PROGRAMS(preallocated)
HASH_PROGRAMS(on_demand)

SEC("tc")
int find_array(struct __sk_buff *ctx)
{
	struct flow_tuple t = next_tuple(true);
	struct flow_place place;

	(void)ctx;
	return use(flow_find(&t, &place) ? place.flow : NULL);
}

SEC("tc")
int make_array(struct __sk_buff *ctx)
{
	struct flow_tuple t = next_tuple(false), reply;
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_place place;
	struct flow *flow;
	__u32 index;

	(void)ctx;
	if (flow_find(&t, &place))
		return 0;
	flow = flow_open(&t, now, &index);
	if (!flow)
		return -1;
	reply = reply_of(&t);
	if (!flow_reserve_reply(&reply, index, now)) {
		flow_abandon(flow, index);
		return -1;
	}
	flow->flags |= FLOW_ASSURED;
	flow_publish(flow);
	return 0;
}

SEC("tc")
int nothing(struct __sk_buff *ctx)
{
	struct flow_tuple t = next_tuple(true);

	(void)ctx;
	return t.sport;
}
