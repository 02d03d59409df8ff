// SPDX-License-Identifier: Apache-2.0

package agent

import "testing"

func TestOlderThan(t *testing.T) {
	for release, want := range map[string]bool{
		"6.1.0-57-cloud-amd64": true, "6.5.13": true, "5.15.0-1051-aws": true,
		"6.6.0": false, "6.18.44-fc-v657": false, "7.0-rc1": false, "odd": false,
	} {
		if got := olderThan(release, 6, 6); got != want {
			t.Errorf("%s older than 6.6: %v, want %v", release, got, want)
		}
	}
}
