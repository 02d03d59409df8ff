/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * No program: this object exists so that bpf2go finds every shared type and
 * number once and writes internal/abi.
 */
#include "lib/abi.h"
#include "lib/maps.h"
#include "lib/packet_maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Macros leave no trace in BTF; constants that Go needs do as an enum. */
enum abi_const {
	ABI_CONST_LAYOUT = ABI_LAYOUT,
	ABI_CONST_VIP_FILTER_BITS = VIP_FILTER_BITS,
	ABI_CONST_UDP_FLOWS = UDP_FLOWS,
	ABI_CONST_FLOW_HINTS = FLOW_HINTS,
	ABI_CONST_LISTENERS = LISTENERS,
};

/* Types that no map mentions are kept by a mention here. */
struct {
	enum abi_const consts;
	enum frontend_flag frontend_flag;
	enum empty_set empty_set;
	enum set_kind set_kind;
	enum backend_state backend_state;
	enum counter counter;
	enum flow_direction flow_direction;
	enum flow_flag flow_flag;
	enum flow_timeout flow_timeout;
	enum scope scope;
	enum local_addr_flag local_addr_flag;
	enum trace_stage trace_stage;
	struct trace trace;
	struct stale_socket stale_socket;
	struct ending ending;
	enum event_kind event_kind;
	enum event_hook event_hook;
	struct event event;
} abi_enums SEC(".bss.abi");
