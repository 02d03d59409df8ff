// SPDX-License-Identifier: Apache-2.0

package terminate

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package terminate -no-global-types terminate ../../bpf/terminate.bpf.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu
