/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every struct, enum and number that the kernel programs share with Go.
 *
 * bpf2go turns this file into internal/abi, so there is one definition. For
 * that to work it holds no unions, no bitfields and no implicit padding;
 * padding is named `pad` and always zero, because hash keys compare bytes.
 * Addresses and ports are in network byte order, everything else in host
 * order. Changing a layout means a new ABI_LAYOUT and a migration.
 */
#ifndef BEELINE_ABI_H
#define BEELINE_ABI_H

#include "compiler.h"

/* Version of every layout below; part of the pin path. */
#define ABI_LAYOUT 1

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d: one width for both. */
struct ip_addr {
	__be32 word[4];
};
_Static_assert(sizeof(struct ip_addr) == 16, "ip_addr");

/*
 * Where a Service port is reached. A key with port 0 and protocol 0 stands
 * for the address as such: it decides about ports that the Service does not
 * have. Written by the agent only.
 */
struct frontend_key {
	struct ip_addr addr;
	__be16 port;
	__u8 protocol; /* IPPROTO_* */
	__u8 pad;
};
_Static_assert(sizeof(struct frontend_key) == 20, "frontend_key");

enum frontend_flag {
	FRONTEND_CLUSTER_IP = 1 << 0,
	FRONTEND_NODE_PORT = 1 << 1,
	FRONTEND_LOAD_BALANCER = 1 << 2,
	FRONTEND_EXTERNAL_IP = 1 << 3,
	/* The key is an address without a port: refuse what reaches it. */
	FRONTEND_ADDRESS = 1 << 4,
	/* Clients inside (outside) the cluster may only reach local backends. */
	FRONTEND_INTERNAL_LOCAL = 1 << 5,
	FRONTEND_EXTERNAL_LOCAL = 1 << 6,
	/* Only some clients may pass; the socket layer does not know a client's
	 * address yet and leaves such frontends to the packet path. */
	FRONTEND_SOURCE_RANGES = 1 << 7,
};

struct frontend {
	__u32 service;	     /* index of the Service port; see SET_OF() */
	__u32 flags;	     /* enum frontend_flag */
	__u32 affinity_secs; /* session affinity: idle timeout; 0 = none */
	__u32 pad;
};
_Static_assert(sizeof(struct frontend) == 16, "frontend");

/*
 * A backend set is one word, so that one store publishes a new one:
 * bits 0..31 the first slot, bits 32..63 how many slots follow. A count of 0
 * means that nothing may be picked; the low half then says what a client gets.
 */
enum empty_set {
	EMPTY_SET_REJECT = 0, /* no endpoint anywhere: refused at once */
	EMPTY_SET_DROP = 1, /* traffic policy Local, endpoints only elsewhere */
};

enum set_kind {
	SET_CLUSTER = 0, /* what policy Cluster may pick from */
	SET_LOCAL = 1,	 /* what policy Local may pick from */
	SET_KINDS = 2,
};
#define SET_OF(service, kind) ((service) * SET_KINDS + (kind))

struct slot {
	__u32 backend; /* index into `backends` */
	__u32 pad;
};
_Static_assert(sizeof(struct slot) == 8, "slot");

enum backend_state {
	BACKEND_FREE = 0,
	BACKEND_ACTIVE = 1,
	BACKEND_TERMINATING = 2, /* serves until it is gone */
	BACKEND_DRAINING = 3,	 /* in no set: keeps its old flows only */
};

/*
 * An endpoint of one Service port. The index is reused, the generation is
 * not: who remembers (index, generation) notices that a backend is gone.
 * The agent writes generation 0 after a grace period (ADR 0008).
 */
struct backend {
	struct ip_addr addr;
	__be16 port;
	__u8 state; /* enum backend_state */
	__u8 sets;  /* 1 << enum set_kind: where a new flow may find it */
	__u32 service;
	__u32 generation;
	__u8 local; /* 1 if the endpoint runs on this node */
	__u8 pad;
	/* Changes whenever a frontend has left the Service port: its UDP flows
	 * ask then whose it is. 0: never happened. */
	__u16 lost;
};
_Static_assert(sizeof(struct backend) == 32, "backend");

/* Who a service index belongs to. Programs never read it; the agent restores
 * its numbering from it and the command line prints it. Strings end in NUL. */
struct service_name {
	__u8 ns[64];
	__u8 name[64];
	__u8 port[64]; /* name of the port; empty for a nameless one */
	__u8 protocol;
	__u8 family; /* 4 or 6 */
	__u8 pad[6];
};
_Static_assert(sizeof(struct service_name) == 200, "service_name");

/* What a TCP socket asked for and what it got; key is the socket's cookie. */
struct peer {
	struct ip_addr vip;
	__be16 port;
	__u16 pad;
	__u32 service;
	__u32 backend;
	__u32 generation;
};
_Static_assert(sizeof(struct peer) == 32, "peer");

/*
 * The Services that one UDP socket talks to. It lives in the socket's own
 * storage: it dies with the socket, and no other socket can push it out.
 */
#define UDP_FLOWS 8
struct udp_flow {
	struct ip_addr vip;
	struct ip_addr addr; /* of the backend */
	__be16 vip_port;
	__be16 port;
	__u32 service;
	__u32 backend;
	__u32 generation; /* 0: unused */
	__u64 seen_ns;	  /* CLOCK_MONOTONIC, coarse; last datagram */
	__u32 replied;	  /* 1 once the backend has answered */
	__u32 pad;
};
_Static_assert(sizeof(struct udp_flow) == 64, "udp_flow");

struct udp_flows {
	struct udp_flow flow[UDP_FLOWS];
	__u32 next; /* slot that the next new Service takes */
	/* 1 + the flow that connect() made; 0: it went to no Service. The
	 * socket may have moved on since: its destination tells. */
	__u32 connected;
};

/*
 * A socket that is connected to a backend which is gone, as an iterator over
 * all network namespaces finds it.
 */
struct stale_socket {
	__u64 cookie;
	struct ip_addr src;
	struct ip_addr dst; /* of the backend */
	struct ip_addr vip;
	__be16 sport;
	__be16 dport;
	__be16 vip_port;
	__u16 family; /* AF_INET or AF_INET6, of the socket */
	__u32 netns;  /* inode number of the namespace's file */
	__u32 device; /* index of the one that the socket is bound to; or 0 */
	__u32 backend;
	__u32 generation;
};
_Static_assert(sizeof(struct stale_socket) == 80, "stale_socket");

/* A socket to be ended, if it still is what it was; key is its cookie. */
struct ending {
	struct ip_addr addr; /* what it is connected to */
	__be16 port;
	__u16 pad;
	__u32 backend;
	__u32 generation;
	__u32 pad2;
};
_Static_assert(sizeof(struct ending) == 32, "ending");

/*
 * Session affinity. A client is an address, or, at the socket layer where the
 * source address is not chosen yet, a network namespace (= a pod):
 * word[0] = CLIENT_NETNS, word[2..3] = the namespace's cookie.
 */
#define CLIENT_NETNS 0xffffffff
struct affinity_key {
	struct ip_addr client;
	__u32 service;
};
_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key");

struct affinity {
	__u64 seen_ns; /* CLOCK_MONOTONIC, coarse; last new connection */
	__u32 backend;
	__u32 generation;
};
_Static_assert(sizeof(struct affinity) == 16, "affinity");

/* Things that happened instead of a translation, per CPU. Append only. */
enum counter {
	COUNTER_NO_BACKEND,	/* refused: no endpoint anywhere */
	COUNTER_NO_LOCAL,	/* dropped: policy Local, none local */
	COUNTER_UNKNOWN_PORT,	/* refused: the Service has no such port */
	COUNTER_STALE_TABLE,	/* a table pointed nowhere; a bug if it grows */
	COUNTER_PEER_FULL,	/* TCP peer not recorded: map full */
	COUNTER_UDP_NO_STORAGE, /* UDP peer not recorded: no memory */
	COUNTER_UDP_FLOW_EVICTED,   /* a socket talks to > UDP_FLOWS Services */
	COUNTER_SOURCE_RANGE,	    /* dropped: no source range lets it pass */
	COUNTER_CLUSTER_IP_OUTSIDE, /* dropped: ClusterIP closed to outsiders */
	COUNTER_FLOW_FULL,	    /* dropped: no room for a new flow */
	COUNTER_FLOW_EVICTED, /* an unanswered flow made room for a new one */
	COUNTER_FLOW_STRAY,   /* dropped: ends a connection nobody knows */
	COUNTER_SNAT_NO_PORT, /* dropped: no free source port was found */
	COUNTER_SNAT_NO_ADDRESS, /* dropped: the way out has no address */
	COUNTER_NO_ROUTE,	 /* dropped: no way to the backend or client */
	COUNTER_TOO_BIG, /* dropped: exceeds the way's MTU; told if it asked */
	COUNTER_TTL_EXPIRED,	/* dropped: time to live used up; told */
	COUNTER_FRAGMENT_EARLY, /* dropped: came before its first fragment */
	COUNTER_MALFORMED,	/* dropped: cannot be translated as it is */
	COUNTER_REWRITE_FAILED, /* dropped: the kernel refused a change */
	COUNTER_ICMP_LIMITED,	/* an ICMP answer was not sent: rate limit */
	COUNTER_ICMP_SENT,	/* an ICMP answer of our own was sent */
	COUNTER_HANDED_BACK,	/* rollback: a datagram of an older UDP flow */
	COUNTER_MARTIAN,    /* dropped: names loopback, and came from outside */
	COUNTER_UNASSIGNED, /* dropped: in a Service range, and nobody's */
	COUNTER_FLOW_BUSY,  /* dropped: another CPU held the table too long */
	COUNTER_EXTENSIONS, /* passed on: more IPv6 headers than are walked */
	COUNTER_COUNT,
};

/*
 * One bit an address hash: unset means that no frontend has this address, so
 * traffic that is none of our business costs no hash lookup.
 */
#define VIP_FILTER_BITS (1 << 19)

/* --- the packet path --- */

/*
 * One direction of a flow, as its packets show it. Aligned, because it is
 * hashed and compared eight bytes at a time.
 */
struct flow_tuple {
	struct ip_addr src;
	struct ip_addr dst;
	__be16 sport;
	__be16 dport;
	__u8 protocol; /* IPPROTO_* */
	__u8 pad[3];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct flow_tuple) == 40, "flow_tuple");

enum flow_direction {
	FLOW_REQUEST = 0, /* client to Service */
	FLOW_REPLY = 1,	  /* backend to whom it takes for the client */
	FLOW_DIRECTIONS = 2,
};

enum flow_flag {
	FLOW_USED = 1 << 0,    /* unset: the record is free */
	FLOW_SNAT = 1 << 1,    /* the backend sees another source */
	FLOW_LOCAL = 1 << 2,   /* the backend runs on this node */
	FLOW_REPLIED = 1 << 3, /* the backend has answered */
	FLOW_ASSURED = 1 << 4, /* ... and the client has gone on */
	FLOW_FIN_REQUEST = 1 << 5,
	FLOW_FIN_REPLY = 1 << 6,
	FLOW_RST = 1 << 7, /* a reset was seen last; perhaps a stray one */
	/* Both ends are processes of this node. Each sees the Service's address
	 * in place of the other, so that its packets leave by a device, where
	 * they are turned around. */
	FLOW_TURNED = 1 << 8,
};

/*
 * One flow: both directions in one record, so there is no half to lose. A
 * packet that matches tuple[d] leaves as the reverse of tuple[!d]. `seq` is
 * odd while somebody writes the record, and changes with every new owner.
 */
struct flow {
	struct flow_tuple tuple[FLOW_DIRECTIONS];
	__u64 seen_ns;	  /* CLOCK_MONOTONIC, coarse; last packet +- 1 s */
	__u64 created_ns; /* CLOCK_MONOTONIC, coarse */
	__u32 seq;
	__u32 flags; /* enum flow_flag */
	__u32 service;
	__u32 backend;
	__u32 generation;
	__u16 lost; /* the backend's, when it last asked for its frontend */
	__u8 pad[10];
} __attribute__((aligned(8)));
_Static_assert(sizeof(struct flow) == 128, "flow");

/*
 * Where to find flows: a cache line of hints, each a tag of the tuple's hash
 * (high half, never 0) and FLOW_HINT(record, direction) (low half). A hint
 * proves nothing; the record does. ADR 0010.
 */
#define FLOW_HINTS 7
#define FLOW_HINT(index, direction) ((index) << 1 | (direction))
struct flow_line {
	__u64 hint[FLOW_HINTS];
	/* How many hints belong here and are in their second line; and
	 * FLOW_LINE_HELD while somebody begins a flow here. */
	__u64 away;
};
#define FLOW_LINE_HELD (1ULL << 63)
_Static_assert(sizeof(struct flow_line) == 64, "flow_line");

/* How long a silent flow is kept: an index into config_flow_timeout_secs. */
enum flow_timeout {
	FLOW_TIMEOUT_TCP_OPENING,  /* not answered */
	FLOW_TIMEOUT_TCP_ANSWERED, /* answered, not yet acknowledged */
	FLOW_TIMEOUT_TCP_ESTABLISHED,
	FLOW_TIMEOUT_TCP_HALF_CLOSED, /* one side has said goodbye */
	FLOW_TIMEOUT_TCP_CLOSED,      /* both have */
	FLOW_TIMEOUT_TCP_RESET,
	FLOW_TIMEOUT_UDP_UNANSWERED,
	FLOW_TIMEOUT_UDP_ANSWERED,
	FLOW_TIMEOUT_SCTP_OPENING,
	FLOW_TIMEOUT_SCTP_ESTABLISHED,
	FLOW_TIMEOUT_SCTP_CLOSED,
	FLOW_TIMEOUTS,
};

/* Where a client is. */
enum scope {
	SCOPE_EXTERNAL,
	SCOPE_POD,
	SCOPE_NODE,
};

/* Key of `local_addrs` is the address; its value these flags. Every one of
 * them is in the VIP filter, too: replies to source NAT come in there. */
enum local_addr_flag {
	LOCAL_ADDR_HERE = 1 << 0,      /* an address of the node */
	LOCAL_ADDR_NODE_PORT = 1 << 1, /* NodePorts are served on it */
};

/* Prefixes count from the first bit after `prefixlen`: 96 more for IPv4, and
 * 32 for the service where there is one. */
struct pod_range_key {
	__u32 prefixlen;
	struct ip_addr addr;
};
_Static_assert(sizeof(struct pod_range_key) == 20, "pod_range_key");

struct source_range_key {
	__u32 prefixlen;
	__u32 service; /* compared as bytes: always a whole match */
	struct ip_addr addr;
};
_Static_assert(sizeof(struct source_range_key) == 24, "source_range_key");

/* Which address a device's packets leave with. ifindex 0 is for those that
 * have none of their own. */
struct egress_key {
	__u32 ifindex;
	__u32 family; /* 4 or 6 */
};
_Static_assert(sizeof(struct egress_key) == 8, "egress_key");

/* The ports of a fragmented packet, which only its first fragment shows. */
struct fragment_key {
	struct ip_addr src;
	struct ip_addr dst;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

enum fragment_state {
	FRAGMENT_OURS = 0,    /* the first has come; these are its ports */
	FRAGMENT_OTHERS = 1,  /* the first has come, and is none of ours */
	FRAGMENT_AWAITED = 2, /* a later one came first, at seen_ns */
};

struct fragment {
	__u64 seen_ns; /* CLOCK_MONOTONIC */
	__be16 sport;
	__be16 dport;
	__u32 state; /* enum fragment_state */
};
_Static_assert(sizeof(struct fragment) == 16, "fragment");

/* How far a dry run came with a packet that begins a flow. */
enum trace_stage {
	TRACE_NOTHING,	   /* it did not ask for a Service */
	TRACE_NO_FRONTEND, /* nobody has the destination */
	TRACE_ODD_SOURCE,  /* its source names no one sender */
	TRACE_MID_FLOW,	   /* opens no connection, and there is no flow */
	TRACE_REFUSED,	   /* refused or dropped: a counter says why */
	TRACE_CHOSEN,	   /* a backend was chosen, and then no way found */
	TRACE_TRANSLATED,  /* ... and the packet is translated */
	TRACE_HANDED_OVER, /* netfilter's, while the node is handed over */
};

/* The steps of a dry run (config_dry_run), for `beeline explain`. */
struct trace {
	__u32 stage; /* enum trace_stage */
	__u32 service;
	__u32 frontend_flags; /* enum frontend_flag */
	__u32 scope;	      /* enum scope */
	__u32 set;	      /* enum set_kind that the client picks from */
	__u32 backend;	      /* index of the one that was chosen this time */
	__u32 source_nat;     /* 1: it would see an address of the node */
	__u32 pad;
};
_Static_assert(sizeof(struct trace) == 32, "trace");

/* Tokens for ICMP messages of our own, one bucket a CPU. */
struct rate_bucket {
	__u64 filled_ns; /* CLOCK_MONOTONIC, coarse */
	__u32 tokens;
	__u32 pad;
};
_Static_assert(sizeof(struct rate_bucket) == 16, "rate_bucket");

/* --- what people watch --- */

#define SERVICE_NONE 0xffffffff

/*
 * Something that went on, as programs tell it to who listens. Where there is
 * no Service, backend, reason or translation, the field is SERVICE_NONE or 0.
 */
enum event_kind {
	EVENT_SOCKET,  /* a socket got a backend; no packet exists yet */
	EVENT_FLOW,    /* a packet began a flow */
	EVENT_REFUSED, /* the client is told at once */
	EVENT_DROPPED, /* the client is told nothing, or to send it otherwise */
	EVENT_KINDS,
};

enum event_hook {
	EVENT_AT_CONNECT,
	EVENT_AT_SENDMSG,
	EVENT_AT_INGRESS,
	EVENT_AT_EGRESS,
};

struct event {
	struct flow_tuple asked; /* a socket's source is not chosen yet: 0 */
	struct flow_tuple to;	 /* what it becomes; 0 if nothing */
	__u64 time_ns;		 /* CLOCK_MONOTONIC */
	__u64 netns;		 /* cookie of the socket's; 0 for a packet */
	__u64 cgroup;		 /* of who called; 0 for a packet */
	__u32 service;
	__u32 backend;
	__u32 generation;
	__u32 reason; /* enum counter; of those refused or dropped */
	__u32 pid;    /* of who called; 0 for a packet */
	__u32 ifindex;
	__u8 kind; /* enum event_kind */
	__u8 hook; /* enum event_hook */
	__u8 pad[6];
	__u8 comm[16]; /* of who called */
};
_Static_assert(sizeof(struct event) == 152, "event");

/*
 * Who listens, each with a ring buffer of its own in `event_rings`. A listener
 * renews its lease; one that dies is forgotten when that ends. The first words
 * are all that a program reads while nobody listens.
 */
#define LISTENERS 4
struct listener {
	__u64 until_ns; /* CLOCK_MONOTONIC; 0: nobody */
	__u32 kinds;	/* 1 << enum event_kind */
	__u32 service;	/* or SERVICE_NONE for all */
};
_Static_assert(sizeof(struct listener) == 16, "listener");

struct listener_places {
	struct listener listener[LISTENERS];
	__u64 lost[LISTENERS];	/* events that found the ring full */
	__u64 owner[LISTENERS]; /* lease of the place; programs do not look */
};
_Static_assert(sizeof(struct listener_places) == 128, "listener_places");

/* What a Service port has had, per CPU. A packet is what the device hands
 * over, which may be many that the kernel has joined; bytes are from the IP
 * header on. */
struct service_count {
	__u64 sockets; /* sockets that got a backend; UDP: also each new one */
	__u64 flows;   /* new flows of the packet path */
	__u64 packets[FLOW_DIRECTIONS];
	__u64 bytes[FLOW_DIRECTIONS];
};
_Static_assert(sizeof(struct service_count) == 48, "service_count");

/* Key of how often a Service refused or dropped, for each reason. */
struct service_refusal {
	__u32 service;
	__u32 reason; /* enum counter */
};
_Static_assert(sizeof(struct service_refusal) == 8, "service_refusal");

#endif
