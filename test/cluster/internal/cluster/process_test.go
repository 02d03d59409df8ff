// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const stat = "4711 (a) S (b)) S 1 2 3 0 -1 4194560 10 20 0 0 150 25 7 3 20 0 12 0 98765 1000 200 18446744073709551615"
	cpu, started, err := parseStat(stat)
	if err != nil || cpu != 1850*time.Millisecond || started != 987650*time.Millisecond {
		t.Errorf("%v, %v, %v, want 1.85 s of CPU, started after 987.65 s", cpu, started, err)
	}
	for _, bad := range []string{"", "1 (a) S 1"} {
		if _, _, err := parseStat(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestKilobytes(t *testing.T) {
	const status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n"
	if rss, peak := kilobytes(status, "VmRSS"), kilobytes(status, "VmHWM"); rss != 1<<20 || peak != 2<<20 {
		t.Errorf("%d, %d, want 1 and 2 MiB", rss, peak)
	}
	if got := kilobytes("", "VmRSS"); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := UsageOf(fmt.Sprintf("/proc/%d", os.Getpid()))
	if err != nil || u.Pid != os.Getpid() || u.Resident == 0 || u.Peak < u.Resident || u.Age < 0 || u.Age > time.Hour {
		t.Errorf("%+v, %v", u, err)
	}
}
