// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/source/link"
)

// optedOut tells whether the sockets of the pod in a network namespace are left
// alone: whether one of its processes is in a cgroup that has opted out (ADR
// 0023).
func (k *Kernel) optedOut(s *explain.Sockets, ns link.Namespace) {
	var cgroups uint32
	table, size := k.maps[abi.MapOptOuts], k.maps[abi.MapOptOutSize]
	if table == nil || size == nil || size.Lookup(uint32(0), &cgroups) == nil && cgroups == 0 {
		return
	}
	ids, found := cgroupsOf(ns.Inode)
	if !found {
		s.Unsure = fmt.Sprintf("%d cgroups of pods have their sockets left alone (opt-out), and no process of the client's was found to tell whether it is in one", cgroups)
		return
	}
	for _, id := range ids {
		var there uint32
		if table.Lookup(id, &there) == nil {
			s.LeftAlone = "the client's pod has opted out (annotation beeline.dev/socket-balancing on it or its Namespace)"
			return
		}
	}
}

// cgroupsOf returns the ids of the cgroups that a process of a network namespace is
// in, from the innermost outwards; false if none can be looked at, as from a
// container with process ids of its own. All processes of a pod but its sandbox's
// have the pod's cgroup in common.
func cgroupsOf(netns uint64) (ids []uint64, found bool) {
	mount := cgroupMount()
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range all {
		var st unix.Stat_t
		if unix.Stat(path, &st) != nil || st.Ino != netns {
			continue
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(path)), "cgroup"))
		if err != nil || mount == "" {
			continue
		}
		for line := range strings.Lines(string(text)) {
			below, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
			if !ok {
				continue
			}
			found = true
			for dir := filepath.Join(mount, below); strings.HasPrefix(dir, mount); dir = filepath.Dir(dir) {
				if unix.Stat(dir, &st) == nil {
					ids = append(ids, st.Ino) // which is a cgroup's id
				}
			}
		}
	}
	return ids, found
}

// cgroupMount is where cgroup v2 is mounted; empty if it is not.
func cgroupMount() string {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}
