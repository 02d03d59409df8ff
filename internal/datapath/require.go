// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// requireKernel fails where there is no bpf(2), of which every step would
// complain in other words.
func requireKernel() error {
	const progGetNextID = unix.BPF_PROG_GET_NEXT_ID
	var attr [16]byte
	_, _, errno := unix.Syscall(unix.SYS_BPF, progGetNextID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errors.Is(errno, unix.ENOSYS) {
		return fmt.Errorf("this kernel has no bpf(2): Beeline needs Linux 6.1 or newer: %w", errno)
	}
	return nil
}

// requireCapabilities fails if this process lacks what loading and attaching
// takes: the kernel's own answers range from "not permitted" to "not supported".
func requireCapabilities() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return fmt.Errorf("read this process's capabilities: %w", err)
	}
	has := func(c int) bool { return data[c/32].Effective>>(c%32)&1 == 1 }
	var missing []string
	for _, c := range []struct {
		number int
		name   string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_PERFMON, "CAP_PERFMON"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		// CAP_SYS_ADMIN contains the first two (capabilities(7)).
		if !has(c.number) && (c.number == unix.CAP_NET_ADMIN || !has(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no permission to load and attach programs: %s missing; run as root, or give the container these capabilities: %w",
			strings.Join(missing, ", "), unix.EPERM)
	}
	return nil
}
