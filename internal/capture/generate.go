// SPDX-License-Identifier: Apache-2.0

package capture

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package capture -no-global-types -type ip_addr -type flow_tuple -type capture_side -type copied -type capture_record capture ../../bpf/capture.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu
