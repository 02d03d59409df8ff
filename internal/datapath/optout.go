// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// SetOptOuts leaves alone the sockets of the pods with the given UIDs, in all
// their containers, and of no others. It returns the UIDs for which kubelet has
// made no cgroup yet; try these again soon. What a socket has begun goes on.
func (d *Datapath) SetOptOuts(pods []string) (missing []string, err error) {
	found, err := podCgroups(d.opts.CgroupRoot, pods)
	if err != nil {
		return pods, err
	}
	wanted := map[uint64]bool{}
	for _, pod := range pods {
		if len(found[pod]) == 0 {
			missing = append(missing, pod)
		}
		for _, id := range found[pod] {
			wanted[id] = true
		}
	}
	return missing, d.writeOptOuts(wanted)
}

// writeOptOuts makes the kernel's table hold just these cgroups. Programs look
// at it while its count is not 0.
func (d *Datapath) writeOptOuts(wanted map[uint64]bool) error {
	table := d.maps[abi.MapOptOuts]
	var errs []error
	var gone []uint64
	var id uint64
	var value uint32
	entries := table.Iterate()
	for entries.Next(&id, &value) {
		if !wanted[id] {
			gone = append(gone, id)
		}
	}
	errs = append(errs, entries.Err())
	for id := range wanted {
		errs = append(errs, table.Put(id, uint32(1)))
	}
	errs = append(errs, d.maps[abi.MapOptOutSize].Put(uint32(0), uint32(len(wanted))))
	for _, id := range gone {
		if err := table.Delete(id); !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cgroups that opt out: %w", err)
	}
	return nil
}

// podCgroups returns the ids of the cgroups of some pods. A pod has one, with
// its containers' below; two only while it moves.
func podCgroups(root string, pods []string) (map[string][]uint64, error) {
	found := map[string][]uint64{}
	if len(pods) == 0 {
		return found, nil
	}
	names := map[string]string{}
	for _, uid := range pods {
		names[cgroupName(uid)] = uid
	}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone while we look
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		}
		uid, pod := podOf(entry.Name())
		if !pod {
			return nil
		}
		if wanted, ok := names[uid]; ok {
			id, err := cgroupIDOf(path)
			if err != nil {
				return nil // the same
			}
			found[wanted] = append(found[wanted], id)
		}
		return fs.SkipDir // nothing but its containers is below
	})
	if err != nil {
		return nil, fmt.Errorf("look for cgroups of pods: %w", err)
	}
	return found, nil
}

// cgroupName is how a pod's UID stands in names of cgroups, whichever driver
// made them: systemd takes dashes for levels.
func cgroupName(uid string) string { return strings.ReplaceAll(uid, "-", "_") }

// podOf tells whether a folder is the cgroup that kubelet makes for a pod, and
// of which: "pod<uid>" (driver cgroupfs) or "kubepods-burstable-pod<uid>.slice"
// (driver systemd; pkg/kubelet/cm/pod_container_manager_linux.go).
func podOf(folder string) (uid string, ok bool) {
	if slice, systemd := strings.CutSuffix(folder, ".slice"); systemd {
		at := strings.LastIndex(slice, "-pod")
		if at < 0 || !strings.Contains(slice[:at], "kubepods") {
			return "", false
		}
		return slice[at+len("-pod"):], true
	}
	uid, ok = strings.CutPrefix(folder, "pod")
	return cgroupName(uid), ok && uid != ""
}

func cgroupIDOf(path string) (uint64, error) {
	dir, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	return cgroupID(dir)
}
