/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the socket hooks decide, for counters and listeners. */
#ifndef BEELINE_SOCK_TOLD_H
#define BEELINE_SOCK_TOLD_H

#include "event.h"
#include "lb.h"
#include "service_count.h"

/* Tells listeners of a verdict. */
static __noinline void sock_event(struct bpf_sock_addr *ctx,
				  const struct ip_addr *vip, __be16 port,
				  const struct lb_choice *choice, __u32 what)
{
	bool found = (what & 0xff) == EVENT_SOCKET;
	struct event *e;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < LISTENERS; i++) {
		e = event_room(i, choice, what);
		if (!e)
			continue;
		e->asked.dst = *vip;
		e->asked.dport = port;
		e->asked.protocol = ctx->protocol;
		if (found) {
			e->to.dst = choice->addr;
			e->to.dport = choice->port;
			e->to.protocol = ctx->protocol;
			e->backend = choice->backend;
			e->generation = choice->generation;
		} else {
			e->reason = choice->reason;
		}
		e->netns = bpf_get_netns_cookie(ctx);
		e->cgroup = bpf_get_current_cgroup_id();
		e->pid = bpf_get_current_pid_tgid() >> 32;
		bpf_get_current_comm(e->comm, sizeof(e->comm));
		event_send(e);
	}
}

static __always_inline enum event_kind sock_event_kind(enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_BACKEND:
		return EVENT_SOCKET;
	case VERDICT_DROP:
		return EVENT_DROPPED;
	default:
		return EVENT_REFUSED;
	}
}

/* Called once for each destination that a backend was looked for. */
static __always_inline void sock_told(struct bpf_sock_addr *ctx,
				      const struct ip_addr *vip, __be16 port,
				      enum verdict verdict,
				      const struct lb_choice *choice,
				      enum event_hook hook)
{
	struct service_count *n;

	if (verdict != VERDICT_BACKEND)
		service_refuse(choice->service, choice->reason);
	else if ((n = service_count(choice->service)))
		n->sockets++;
	if (unlikely(event_listeners()))
		sock_event(ctx, vip, port, choice,
			   EVENT_WHAT(sock_event_kind(verdict), hook));
}

#endif
