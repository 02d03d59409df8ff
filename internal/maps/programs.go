// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"bytes"
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// holdTime is how long WaitForPrograms waits where the kernel cannot tell. A
// program runs for microseconds; the rest is for one that was preempted.
const holdTime = 5 * time.Second

// membarrierGlobal is MEMBARRIER_CMD_GLOBAL of linux/membarrier.h.
const membarrierGlobal = 1

// WaitForPrograms returns once every program has ended that was running when
// it was called, so that nobody still uses what was read from a table before:
// an RCU grace period, typically 10 to 50 ms. It returns an error only if ctx
// ends first. It may be called from any goroutine.
func WaitForPrograms(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if synchronizeRCU() {
		return nil
	}
	hold := time.NewTimer(holdTime)
	defer hold.Stop()
	select {
	case <-hold.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// synchronizeRCU waits for a grace period and reports whether it could.
// membarrier(MEMBARRIER_CMD_GLOBAL) is synchronize_rcu() (kernel/sched/
// membarrier.c), but refused with nohz_full=, and a no-operation with one CPU
// online, where a preempted program would be overlooked.
func synchronizeRCU() bool {
	if online, err := os.ReadFile("/sys/devices/system/cpu/online"); err != nil || !bytes.ContainsAny(online, ",-") {
		return false
	}
	_, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0)
	return errno == 0
}
