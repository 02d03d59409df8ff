// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a Service costs a client beside what the pod
// itself costs: connect(), unconnected UDP, and traffic to no Service.
//
// Client and server are one thread on one CPU, in two namespaces joined by
// veth through a third, so no wake-up and no second CPU is in the figures.
// Every round runs every scenario in random order; a ratio is the median over
// rounds of one round's figure to the same round's direct figure.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 31, "rounds; every scenario once a round")
	batch := flag.Int("batch", 2000, "operations of one scenario in one round")
	limit := flag.Float64("limit", 1.03, "fail if connect() through a ClusterIP costs more than this times direct, at the minimum; 0 = never fail")
	flag.Parse()
	if err := run(*rounds, *batch, *limit); err != nil {
		log.Fatal("bench: ", err)
	}
}

func run(rounds, batch int, limit float64) (err error) {
	runtime.LockOSThread()
	if err := pin(); err != nil {
		return err
	}
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	scenarios, err := w.scenarios()
	if err != nil {
		return err
	}
	if err := measure(scenarios, rounds, batch); err != nil {
		return err
	}
	fmt.Println(machine())
	fmt.Printf("%d rounds of %d operations each; ratios are medians over rounds\n\n", rounds, batch)
	return report(scenarios, limit)
}

// pin keeps this thread on the last CPU and in front of others.
func pin() error {
	var set unix.CPUSet
	set.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to a CPU: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20); err != nil {
		return fmt.Errorf("raise priority: %w", err)
	}
	return nil
}

func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	load, _ := os.ReadFile("/proc/loadavg")
	model := "unknown CPU"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
				model = strings.TrimSpace(name)
				break
			}
		}
	}
	return fmt.Sprintf("Linux %s, %d x %s, load %s", unix.ByteSliceToString(u.Release[:]),
		runtime.NumCPU(), model, strings.TrimSpace(string(load)))
}

func report(scenarios []*scenario, limit float64) error {
	tw := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "operation\tscenario\tmin µs\tp50 µs\tratio of min\tratio of p50\t")
	var failed []string
	for _, s := range scenarios {
		fmt.Fprintf(tw, "%s\t%s\t%.2f\t%.2f\t%.3f\t%.3f\t\n", s.operation, s.name,
			median(s.mins)/1e3, median(s.p50s)/1e3, s.ratio(s.mins, s.base.mins), s.ratio(s.p50s, s.base.p50s))
		if r := s.ratio(s.mins, s.base.mins); s.gated && limit > 0 && r > limit {
			failed = append(failed, fmt.Sprintf("%s %s: %.3f > %.3f", s.operation, s.name, r, limit))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("over the limit: %s", strings.Join(failed, "; "))
	}
	return nil
}
