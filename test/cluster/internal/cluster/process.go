// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process of a node has used.
type Usage struct {
	Pid int
	// Age is how long ago it was started, to 10 ms.
	Age time.Duration
	// CPU is its time on CPUs, with that of children that have ended, to 10 ms.
	CPU time.Duration
	// Resident is its memory, and Peak the most it ever was, in bytes.
	Resident, Peak uint64
}

// ticks are how the kernel counts time for /proc: USER_HZ, on every machine.
const ticks = time.Second / 100

// Usage finds a process of a node, in whichever container, by its name. If
// several have the name, it is that of the oldest.
func (c *Cluster) Usage(node, name string) (Usage, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return Usage{}, err
	}
	var oldest Usage
	for _, path := range names {
		dir := filepath.Dir(path)
		comm, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(comm)) != name || !c.holds(node, dir) {
			continue // or has ended
		}
		usage, err := UsageOf(dir)
		if err == nil && (oldest.Pid == 0 || usage.Age > oldest.Age) {
			oldest = usage
		}
	}
	if oldest.Pid == 0 {
		return oldest, fmt.Errorf("no process %s runs on %s", name, node)
	}
	return oldest, nil
}

// holds tells whether a process is a node's, by its cgroup.
func (c *Cluster) holds(node, dir string) bool {
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	return err == nil && strings.Contains(string(groups), "/"+c.cgroup()+"/"+node+"/")
}

// UsageOf reads /proc/PID; see proc_pid_stat(5) and proc_pid_status(5).
func UsageOf(dir string) (u Usage, err error) {
	if u.Pid, err = strconv.Atoi(filepath.Base(dir)); err != nil {
		return u, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return u, err
	}
	cpu, started, err := parseStat(string(stat))
	if err != nil {
		return u, fmt.Errorf("%s/stat: %w", dir, err)
	}
	u.CPU, u.Age = cpu, time.Duration(boot.Nano())-started
	u.Resident, u.Peak = kilobytes(string(status), "VmRSS"), kilobytes(string(status), "VmHWM")
	return u, nil
}

// parseStat returns the CPU time of a process and of its ended children, and
// when it was started, since boot.
func parseStat(stat string) (cpu, started time.Duration, err error) {
	end := strings.LastIndexByte(stat, ')') // of the name, which may hold anything
	if end < 0 {
		return 0, 0, errors.New("no name")
	}
	fields := strings.Fields(stat[end+1:]) // from field 3, the state
	const utime, cstime, starttime = 14 - 3, 17 - 3, 22 - 3
	if len(fields) <= starttime {
		return 0, 0, fmt.Errorf("%d fields", len(fields)+2)
	}
	for i := utime; i <= cstime; i++ {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, 0, err
		}
		cpu += time.Duration(n) * ticks
	}
	n, err := strconv.ParseInt(fields[starttime], 10, 64)
	return cpu, time.Duration(n) * ticks, err
}

// kilobytes returns a line of /proc/PID/status in bytes; 0 if it is missing.
func kilobytes(status, key string) uint64 {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}
