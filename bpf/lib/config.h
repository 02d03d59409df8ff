/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings. The agent writes them into .rodata before it loads a program, so
 * the verifier removes what is switched off.
 */
#ifndef BEELINE_CONFIG_H
#define BEELINE_CONFIG_H

#include "compiler.h"

#define CONFIG(type, name, doc) volatile const type config_##name

CONFIG(__u8, refuse_unknown_ports,
       "a VIP's unknown port is refused, not passed");
CONFIG(__u8, dry_run,
       "say what would become of a packet, and write no table (trace.h)");
CONFIG(__u8, node_ports, "`local_addrs` is kept: sockets reach NodePorts");
CONFIG(__u64, node_netns, "cookie of the node's own network namespace");
CONFIG(__u8, tcp_peer_names, "getpeername() on TCP tells the VIP (ADR 0003)");
CONFIG(__u8, keep_flows, "flows that netfilter translates stay with it");
CONFIG(__u8, refuse_new, "new flows are somebody else's: a rollback");
CONFIG(__u8, service_counts, "what each Service has had is counted");
CONFIG(__u8, leave_kernel_sockets,
       "the kernel's own TCP sockets are left alone (pains A18)");
CONFIG(__u8, opt_out, "cgroups in opt_outs are left alone");
CONFIG(__u8, node_only, "only the node's own namespace is balanced");

/* How long a silent UDP socket keeps its backend, before and after that has
 * answered: as kube-proxy's choice lasts, which is as long as nf_conntrack
 * remembers (Documentation/networking/nf_conntrack-sysctl.rst). */
volatile const __u32 config_udp_timeout_secs = 30;
volatile const __u32 config_udp_stream_timeout_secs = 120;

#endif
