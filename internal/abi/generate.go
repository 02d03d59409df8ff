// SPDX-License-Identifier: Apache-2.0

package abi

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package abi -type abi_const -type ip_addr -type frontend_flag -type empty_set -type set_kind -type backend_state -type counter -type frontend_key -type frontend -type slot -type backend -type service_name -type peer -type udp_flows -type stale_socket -type ending -type affinity_key -type affinity -type flow_direction -type flow_flag -type flow_tuple -type flow -type flow_line -type flow_timeout -type scope -type local_addr_flag -type pod_range_key -type source_range_key -type egress_key -type fragment_key -type fragment -type rate_bucket -type trace_stage -type trace -type event_kind -type event_hook -type event -type listener_places -type service_count -type service_refusal kernel ../../bpf/abi.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu
