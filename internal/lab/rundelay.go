// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RunDelay is for how long the threads that a process has now have waited for a
// CPU that somebody else had, all together, since they began (Documentation/scheduler/
// sched-stats.rst). A bound on what a program does itself leaves this out: it is
// the machine's, which may be busy with something else. What threads sleep for
// is not in it.
func RunDelay(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var all time.Duration
	for _, task := range tasks {
		d, err := runDelay(task)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, err
		}
		all += d
	}
	return all, nil
}

// ThreadRunDelay is RunDelay of the calling thread alone; the caller has locked
// its goroutine to it.
func ThreadRunDelay() (time.Duration, error) { return runDelay("/proc/thread-self/schedstat") }

func runDelay(file string) (time.Duration, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text)) // time on a CPU, time of waiting for one, slices
	if len(fields) != 3 {
		return 0, fmt.Errorf("%s: %q", file, text)
	}
	ns, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return time.Duration(ns), nil
}
