/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Runs another program on fresh packets: BPF_PROG_TEST_RUN keeps what a program
 * made of the packet, so its second run would see its own output. This one puts
 * the headers back, picks the next flow in a pseudo-random order, and jumps.
 * Its own cost is measured with a program that does nothing, and subtracted.
 */
#include <linux/pkt_cls.h>

#include "../../../bpf/lib/compiler.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define HEADERS_MAX 64

struct headers {
	__u8 bytes[HEADERS_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} target SEC(".maps");

/* Where the client's address (its low 16 bits) and port are, and in IPv4 the
 * field that is to keep the header's checksum right: it gets the complement. */
volatile const __u32 addr_offset;
volatile const __u32 port_offset;
volatile const __u32 id_offset;
volatile const __u32 flow_mask;

/* Flows are made in one order and measured in another: those made one after the
 * other lie side by side. */
volatile const __u8 mixed;

struct headers headers;
__u32 number;

SEC("tc")
int harness(struct __sk_buff *ctx)
{
	__u32 flow = (mixed ? number * 2654435761u >> 11 : number) & flow_mask;
	__be16 addr = bpf_htons(flow >> 6),
	       port = bpf_htons(1024 + (flow & 63)), id = ~addr;

	number = number * 1664525 + 1013904223; /* visits every flow of 2^n */
	bpf_skb_store_bytes(ctx, 0, headers.bytes, sizeof(headers.bytes), 0);
	bpf_skb_store_bytes(ctx, addr_offset, &addr, sizeof(addr), 0);
	bpf_skb_store_bytes(ctx, port_offset, &port, sizeof(port), 0);
	if (id_offset)
		bpf_skb_store_bytes(ctx, id_offset, &id, sizeof(id), 0);
	bpf_tail_call(ctx, &target, 0);
	return TC_ACT_SHOT;
}

SEC("tc")
int nothing(struct __sk_buff *ctx)
{
	return ctx->len ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
