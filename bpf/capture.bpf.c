/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Packets as our own programs get them and as they leave them, for
 * `beeline capture`. One record tells of both ends of one run, so that neither
 * is lost without the other. There are two ways to be there when a program
 * runs, and none of them outlives who captures:
 *
 * - on the program itself (fentry, fexit), where the kernel lets one;
 * - else beside it on its device (tcx), with tracepoints for those packets that
 *   do not come out behind it, because it has dropped or redirected them.
 */
#include "lib/copied.h"

/* A function of its own object elsewhere, whose arguments are checked once and
 * may be NULL; here it is checked where it is called. */
struct packet;
static int parse(const ctx_t *ctx, struct packet *pkt);
#include "lib/parse.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* linux/pkt_cls.h has them for programs of tc. */
#define VERDICT_NONE (-1)
#define VERDICT_SHOT 2
#define VERDICT_REDIRECT 7

/* What is of interest. */
CONFIG(__u8, ends, "only packets that have an end in `ends`");
CONFIG(__u8, untouched, "also packets that are left as they are");
CONFIG(__u8, egress, "the program is one of what a device sends");
CONFIG(__u32, snap, "how many bytes are kept at most");
CONFIG(__u64, reasons, "1 << enum counter: only packets for one of these");
CONFIG(__u8, address, "only packets of `config_address_base`");
volatile const struct ip_addr config_address_base;
volatile const struct ip_addr config_address_mask;

/* Who a packet is from or for. Without ports, as a ping and a later fragment
 * are, the port is 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct frontend_key);
	__type(value, __u8);
} ends SEC(".maps");

/* The packet path's own: whoever loads this puts it here. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} captured SEC(".maps");

/* Packets that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} capture_lost SEC(".maps");

/* How one end of a run looks. */
struct capture_side {
	struct flow_tuple tuple;  /* 0 if it is nothing that Services know */
	struct flow_tuple quoted; /* of the packet that an ICMP error quotes */
	__u32 len;		  /* of the packet; 0: it was not seen */
	__u16 l3, l4;		  /* where the headers start */
	__u16 quoted_l4;	  /* 0: nothing is quoted */
	__u8 icmp_type;
	__u8 pad[5];
};
_Static_assert(sizeof(struct capture_side) == 96, "capture_side");

/* Followed by the first bytes of the packet as it is left. */
struct capture_record {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 reasons; /* 1 << enum counter: what was counted meanwhile */
	__u32 ifindex;
	__s32 verdict; /* what the program has returned */
	__u8 outgoing; /* 1: at the egress of the device */
	__u8 pad[7];
	struct capture_side before;
	struct capture_side after;
	struct copied head; /* as the program got it */
};
_Static_assert(sizeof(struct capture_record) == 496, "capture_record");

/* Work space, and what is remembered from the beginning of a run to its end;
 * nobody else runs on the CPU meanwhile. */
struct capture_work {
	struct capture_record record;
	struct copied after;
	struct packet packet;
	struct packet quoted;
	__u64 counters[COUNTER_COUNT];
	__u64 packet_id; /* address of the kernel's; 0: none is on its way */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct capture_work);
} capture_work SEC(".maps");

#pragma clang attribute push(__attribute__((preserve_access_index)),           \
			     apply_to = record)
struct net_device {
	int ifindex;
};

struct sk_buff {
	struct net_device *dev;
	unsigned int len, data_len;
	__be16 protocol;
	__u16 network_header;
	unsigned char *head, *data;
};
#pragma clang attribute pop

static __always_inline struct capture_work *work_space(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&capture_work, &zero);
}

/* Copies the first bytes that are not in fragments. Returns where the IP header
 * is, which does not depend on who looks: tc's link header comes and goes. */
static __always_inline __u32 copy(struct copied *to, const struct sk_buff *skb)
{
	__u32 linear = skb->len - skb->data_len;
	__u64 head = (__u64)skb->head, data = (__u64)skb->data;
	__u32 l3;

	/* Whole numbers: the verifier knows no 32-bit arithmetic of pointers. */
	asm volatile("" : "+r"(head), "+r"(data));
	l3 = head - data + skb->network_header;
	if (linear > COPIED_BYTES)
		linear = COPIED_BYTES;
	to->len = skb->len;
	to->protocol = skb->protocol;
	to->stored = linear;
	if (bpf_probe_read_kernel(to->bytes, linear, (void *)data))
		to->stored = 0;
	return l3;
}

static __always_inline bool quotes(const struct packet *pkt)
{
	__u8 type = pkt->icmp_type;

	if (pkt->tuple.protocol == IPPROTO_ICMPV6)
		return type >= 1 && type <= 4;
	return type == 3 || type == 11 || type == 12;
}

/* Reads addresses and ports of one end. False if Services know nothing of it. */
static __noinline bool look(const ctx_t *bytes, struct capture_side *side,
			    struct capture_work *work, __u32 l3)
{
	struct packet *pkt, *quoted;
	int parsed;

	if (!bytes || !side || !work)
		return false;
	pkt = &work->packet;
	quoted = &work->quoted;
	__builtin_memset(side, 0, sizeof(*side));
	__builtin_memset(pkt, 0, sizeof(*pkt));
	side->len = bytes->len;
	/* config_no_link_header is set: parse() starts where it is told to. */
	pkt->l3 = l3;
	if (l3 > COPIED_BYTES)
		return false;
	parsed = parse(bytes, pkt);
	if (parsed == PARSED_OTHER || parsed == PARSED_DEEP)
		return false;
	side->tuple = pkt->tuple;
	side->l3 = pkt->l3;
	side->l4 = pkt->l4;
	if (parsed != PARSED_ICMP)
		return true;
	side->icmp_type = pkt->icmp_type;
	if (!quotes(pkt))
		return true;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	quoted->l3 = pkt->l4 + 8;
	if (parse_quoted(bytes, pkt->family, quoted) != PARSED_PORTS)
		return true;
	side->quoted = quoted->tuple;
	side->quoted_l4 = quoted->l4;
	return true;
}

static __always_inline void read_counters(__u64 *to)
{
	__u64 *n;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < COUNTER_COUNT; i++) {
		__u32 key = i;

		n = bpf_map_lookup_elem(&counters, &key);
		if (n)
			to[i] = *n;
	}
}

/* Finds out which counters are not what they were. Bit by bit in memory, where
 * the verifier does not follow what may become of all of them. */
static __always_inline void read_reasons(struct capture_work *work)
{
	struct capture_record *r = &work->record;
	__u64 *n;

	WRITE_ONCE(r->reasons, 0);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < COUNTER_COUNT; i++) {
		__u32 key = i;

		n = bpf_map_lookup_elem(&counters, &key);
		if (n && work->counters[i] != *n)
			WRITE_ONCE(r->reasons,
				   READ_ONCE(r->reasons) | 1ULL << i);
	}
}
_Static_assert(COUNTER_COUNT <= 64, "counters have a bit each");

static __always_inline bool is_end(const struct ip_addr *addr, __be16 port,
				   __u8 protocol)
{
	struct frontend_key key = {
		.addr = *addr,
		.port = port,
		.protocol = protocol,
	};

	return bpf_map_lookup_elem(&ends, &key);
}

static __always_inline bool asks_for_end(const struct flow_tuple *t)
{
	return is_end(&t->dst, t->dport, t->protocol);
}

static __always_inline bool has_end(const struct flow_tuple *t)
{
	return asks_for_end(t) || is_end(&t->src, t->sport, t->protocol);
}

static __always_inline bool in_range(const struct ip_addr *a)
{
	for (int i = 0; i < 4; i++)
		if ((a->word[i] & config_address_mask.word[i]) !=
		    config_address_base.word[i])
			return false;
	return true;
}

static __always_inline bool has_address(const struct flow_tuple *t)
{
	return t->protocol && (in_range(&t->src) || in_range(&t->dst));
}

static __noinline bool side_wanted(const struct capture_side *side)
{
	if (!side)
		return false;
	if (config_ends && !has_end(&side->tuple) && !has_end(&side->quoted))
		return false;
	return !config_address || has_address(&side->tuple) ||
	       has_address(&side->quoted);
}

static __always_inline bool changed(const struct capture_record *r)
{
	const __u64 *a = (const void *)&r->before;
	const __u64 *b = (const void *)&r->after;

	/* The tuples, which come first. */
	for (__u32 i = 0; i < 2 * sizeof(struct flow_tuple) / sizeof(*a); i++)
		if (a[i] != b[i])
			return true;
	return false;
}

static __always_inline bool wanted(const struct capture_record *r)
{
	if (config_reasons && !(r->reasons & config_reasons))
		return false;
	if (!side_wanted(&r->before) && !side_wanted(&r->after))
		return false;
	if (config_untouched || r->verdict != VERDICT_NONE || changed(r))
		return true;
	/* It asks for one of the ends, and not of us. */
	return config_ends && !r->outgoing && asks_for_end(&r->before.tuple);
}

static __always_inline void lose(void)
{
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&capture_lost, &zero);

	if (lost)
		__sync_fetch_and_add(lost, 1);
}

static __always_inline void begin(struct capture_work *work,
				  struct sk_buff *skb)
{
	struct capture_record *r = &work->record;
	__u32 l3;

	work->packet_id = 0;
	l3 = copy(&r->head, skb);
	if (!look(&r->head, &r->before, work, l3))
		return;
	r->ifindex = skb->dev->ifindex;
	r->outgoing = config_egress;
	read_counters(work->counters);
	work->packet_id = (__u64)skb;
	r->time_ns = bpf_ktime_get_ns();
}

/* Returns how many bytes of the packet belong to the record that is now ready,
 * or -1 if nobody wants it. */
static __always_inline int end(struct capture_work *work,
			       const struct sk_buff *skb, int verdict)
{
	struct capture_record *r = &work->record;
	__u32 l3, keep;

	work->packet_id = 0;
	r->verdict = verdict;
	l3 = copy(&work->after, skb);
	look(&work->after, &r->after, work, l3);
	read_reasons(work);
	if (!wanted(r))
		return -1;
	keep = skb->len;
	return keep > config_snap ? config_snap : keep;
}

#define KEEP(bytes) ((__u64)(bytes) << 32 | BPF_F_CURRENT_CPU)

/* Where the kernel knows the packet by its own type. */
static __always_inline int end_kernel(struct capture_work *work,
				      struct sk_buff *skb, int verdict)
{
	int keep = end(work, skb, verdict);

	if (keep >= 0 && bpf_skb_output(skb, &captured, KEEP(keep),
					&work->record, sizeof(work->record)))
		lose();
	return 0;
}

SEC("fentry")
int capture_before(__u64 *ctx)
{
	struct capture_work *work = work_space();

	if (work)
		begin(work, (void *)ctx[0]);
	return 0;
}

SEC("fexit")
int capture_after(__u64 *ctx)
{
	struct capture_work *work = work_space();

	if (!work || !ctx[0] || work->packet_id != ctx[0])
		return 0;
	return end_kernel(work, (void *)ctx[0], ctx[1]);
}

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

static __always_inline int end_beside(struct capture_work *work,
				      struct __sk_buff *ctx,
				      const struct sk_buff *skb, int verdict)
{
	int keep = end(work, skb, verdict);

	if (keep >= 0 &&
	    bpf_perf_event_output(ctx, &captured, KEEP(keep), &work->record,
				  sizeof(work->record)))
		lose();
	return VERDICT_NONE;
}

/* Of a packet that waits for a neighbour's address, or went where nobody looks,
 * only the beginning is known. */
static __always_inline void unseen(struct capture_work *work,
				   struct __sk_buff *ctx)
{
	struct capture_record *r = &work->record;

	r->verdict = VERDICT_REDIRECT;
	read_reasons(work);
	__builtin_memset(&r->after, 0, sizeof(r->after));
	if (wanted(r) &&
	    bpf_perf_event_output(ctx, &captured, KEEP(0), r, sizeof(*r)))
		lose();
}

SEC("tc")
int capture_in_front(struct __sk_buff *ctx)
{
	struct capture_work *work = work_space();
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	if (!work)
		return VERDICT_NONE;
	/* What has come in by one device may leave by another that we look at. */
	if (work->packet_id == (__u64)skb)
		end_beside(work, ctx, skb, VERDICT_REDIRECT);
	else if (work->packet_id)
		unseen(work, ctx);
	begin(work, skb);
	return VERDICT_NONE;
}

SEC("tc")
int capture_behind(struct __sk_buff *ctx)
{
	struct capture_work *work = work_space();
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	if (!work || work->packet_id != (__u64)skb)
		return VERDICT_NONE;
	return end_beside(work, ctx, skb, VERDICT_NONE);
}

static __always_inline int end_elsewhere(__u64 *ctx, int verdict)
{
	struct capture_work *work = work_space();

	if (!work || !ctx[0] || work->packet_id != ctx[0])
		return 0;
	return end_kernel(work, (void *)ctx[0], verdict);
}

SEC("tp_btf/kfree_skb")
int capture_freed(__u64 *ctx)
{
	return end_elsewhere(ctx, VERDICT_SHOT);
}

SEC("tp_btf/net_dev_queue")
int capture_sent(__u64 *ctx)
{
	return end_elsewhere(ctx, VERDICT_REDIRECT);
}

SEC("tp_btf/netif_rx")
int capture_turned(__u64 *ctx)
{
	return end_elsewhere(ctx, VERDICT_REDIRECT);
}
