/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The balancer: destination in, backend or verdict out. It knows tables, not
 * hooks; the socket hooks and the packet path ask it alike.
 */
#ifndef BEELINE_LB_H
#define BEELINE_LB_H

#include "affinity.h"
#include "config.h"
#include "count.h"
#include "node_port.h"
#include "vip_filter.h"

enum verdict {
	VERDICT_NOT_OURS, /* leave it as it is */
	VERDICT_BACKEND,  /* send it to lb_choice.backend */
	VERDICT_REJECT,	  /* refuse, so that the client notices at once */
	VERDICT_DROP,	  /* as if nobody had heard it */
};

struct lb_choice {
	struct ip_addr addr;
	__be16 port;
	__u32 service;
	__u32 backend;
	__u32 generation;
	__u32 reason; /* enum counter: why there is no backend */
	__u8 local;   /* 1 if the backend runs on this node */
	__u8 sticky;  /* 1 if the client is to be pinned to it */
};

static __always_inline enum verdict
lb_refuse(struct lb_choice *out, enum counter reason, enum verdict verdict)
{
	count(reason);
	out->reason = reason;
	return verdict;
}

/* NULL if no frontend claims the destination. A frontend of the address alone
 * (FRONTEND_ADDRESS) is found after all that name the port. */
static __always_inline struct frontend *
frontend_lookup(const struct ip_addr *addr, __be16 port, __u8 protocol)
{
	struct frontend_key key = {
		.addr = *addr,
		.port = port,
		.protocol = protocol,
	};
	struct frontend *f;

	if (!vip_filter_has(addr))
		return NULL;
	f = bpf_map_lookup_elem(&frontends, &key);
	if (!f && config_node_ports)
		f = node_port_frontend(&key);
	if (f || !config_refuse_unknown_ports)
		return f;
	key.port = 0;
	key.protocol = 0;
	return bpf_map_lookup_elem(&frontends, &key);
}

/* Takes backend `index` for the caller if it (still) is one of `service`. */
static __always_inline bool backend_take(__u32 index, __u32 service,
					 struct lb_choice *out)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &index);

	if (!b || b->service != service)
		return false;
	out->generation = READ_ONCE(b->generation);
	if (!out->generation)
		return false;
	out->addr = b->addr;
	out->port = b->port;
	out->local = b->local;
	out->backend = index;
	return true;
}

/* Whether a backend remembered from earlier may still be used: it has not
 * been removed from its Service since. */
static __always_inline bool backend_alive(__u32 index, __u32 generation)
{
	struct backend *b = bpf_map_lookup_elem(&backends, &index);

	return b && READ_ONCE(b->generation) == generation;
}

static __always_inline enum verdict set_pick(__u32 set, __u32 service,
					     struct lb_choice *out)
{
	__u64 *word = bpf_map_lookup_elem(&sets, &set);
	struct slot *slot;
	__u32 base, members;
	__u64 range;

	if (!word)
		goto stale;
	range = READ_ONCE(*word);
	base = range;
	members = range >> 32;
	if (!members) {
		if (base == EMPTY_SET_DROP)
			return lb_refuse(out, COUNTER_NO_LOCAL, VERDICT_DROP);
		return lb_refuse(out, COUNTER_NO_BACKEND, VERDICT_REJECT);
	}
	/* Scales a 32-bit random number to [0, members) without a division. */
	base += (__u64)bpf_get_prandom_u32() * members >> 32;
	slot = bpf_map_lookup_elem(&slots, &base);
	if (slot && backend_take(slot->backend, service, out))
		return VERDICT_BACKEND;
stale:
	return lb_refuse(out, COUNTER_STALE_TABLE, VERDICT_REJECT);
}

/* Chooses a backend of frontend `f` from the set of the given kind. `client`
 * is who asks, for session affinity; its service field is filled in here.
 * lb_pin() is for who is served. */
static __always_inline enum verdict lb_choose(const struct frontend *f,
					      enum set_kind kind,
					      struct affinity_key *client,
					      struct lb_choice *out)
{
	__u32 service = f->service;
	__s64 pinned;

	out->service = service;
	out->sticky = !!f->affinity_secs;
	if (likely(!f->affinity_secs))
		return set_pick(SET_OF(service, kind), service, out);

	client->service = service;
	pinned = affinity_lookup(client, kind, f->affinity_secs,
				 bpf_ktime_get_coarse_ns());
	if (pinned >= 0 && backend_take(pinned, service, out))
		return VERDICT_BACKEND;
	return set_pick(SET_OF(service, kind), service, out);
}

/* Pins a client to the backend that serves it, if its Service wants that. Not
 * one that is refused after all, or whose flow another CPU has made. */
static __always_inline void lb_pin(const struct affinity_key *client,
				   const struct lb_choice *choice)
{
	if (unlikely(choice->sticky))
		affinity_update(client, choice->backend, choice->generation,
				bpf_ktime_get_coarse_ns());
}

#endif
