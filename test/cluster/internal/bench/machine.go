// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// LoadAverage is the machine's of the last minute.
func LoadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(text))[0]
}

// warnBusy is a sentence about a run on a machine that had other work; empty if
// it had none. The figures of such a run are to be read with care.
func warnBusy(load string, cpus int) string {
	n, err := strconv.ParseFloat(load, 64)
	if err == nil && n < float64(cpus)/2 {
		return ""
	}
	return fmt.Sprintf("**The machine was busy with other work when the run began: load average %s on %d CPUs. "+
		"Every figure is slower than on an idle machine, and differences of less than a factor of two mean nothing.**\n", load, cpus)
}
