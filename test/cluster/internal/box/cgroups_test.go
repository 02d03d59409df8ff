// SPDX-License-Identifier: Apache-2.0

package box

import "testing"

func TestV1Options(t *testing.T) {
	for super, want := range map[string]string{
		"rw,cpu,cpuacct":        "cpu,cpuacct",
		"rw,memory":             "memory",
		"rw,name=systemd":       "none,name=systemd",
		"rw,xattr,name=elogind": "xattr,none,name=elogind",
	} {
		if got := v1Options(super); got != want {
			t.Errorf("v1Options(%q) = %q, want %q", super, got, want)
		}
	}
}
