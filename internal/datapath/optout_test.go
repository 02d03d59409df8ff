// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPodCgroupsAreFoundWhoeverMadeThem(t *testing.T) {
	const uid, other = "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "1b4e28ba-2fa1-11d2-883f-0016d3cca428"
	for name, path := range map[string]string{
		"cgroupfs, guaranteed":  "kubepods/pod" + uid,
		"cgroupfs, burstable":   "kubepods/burstable/pod" + uid,
		"systemd, guaranteed":   "kubepods.slice/kubepods-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice",
		"systemd, best effort":  "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice",
		"systemd, node in kind": "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice",
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for _, dir := range []string{path, path + "/cri-containerd-aa.scope", "kubepods/burstable/pod" + other, "system.slice/podman.service"} {
				if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			want, err := cgroupIDOf(filepath.Join(root, path))
			if err != nil {
				t.Fatal(err)
			}
			found, err := podCgroups(root, []string{uid, "absent"})
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || len(found[uid]) != 1 || found[uid][0] != want {
				t.Errorf("found %v, want only cgroup %d of %s", found, want, uid)
			}
		})
	}
}
