// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/config"
)

// hasIPv6 tells whether this kernel has IPv6, and was not started without it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return !errors.Is(err, fs.ErrNotExist)
}

// leaveKernelSockets tells whether the kernel's own TCP sockets are left to the
// packet path. Before Linux 6.6 a hook overwrote what an NFS or SMB mount would
// connect to the next time (commit 0bdf399342c5), so a mount stayed with its
// first backend for ever (pains A18). Stable kernels have the fix since 2023
// (6.1.53), but do not all say which they are.
func leaveKernelSockets(c config.Config, log *slog.Logger) bool {
	release, err := kernelRelease()
	if err != nil || !olderThan(release, 6, 6) {
		return false
	}
	if !c.Datapath.PacketPath {
		log.Info("in-kernel clients of Services (NFS, SMB) find a new backend only if this kernel has the fix of Linux 6.6 (in 6.1 since 6.1.53)", "kernel", release)
	}
	return c.Datapath.PacketPath
}

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

// olderThan compares a kernel's release, such as 6.1.0-57-cloud-amd64. One that
// cannot be read is not older.
func olderThan(release string, major, minor int) bool {
	var x, y int
	if n, _ := fmt.Sscanf(release, "%d.%d", &x, &y); n != 2 {
		return false
	}
	return x < major || x == major && y < minor
}
