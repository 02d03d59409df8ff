// SPDX-License-Identifier: Apache-2.0

// Command bench-packet measures what the packet programs cost, in nanoseconds of
// CPU time a packet, and what other flow tables would (ADR 0010). It needs root
// and attaches nothing.
//
// Packets are fresh and flows come in pseudo-random order (harness.bpf.c); what
// the harness itself costs is measured in the same round and subtracted. The
// figures are medians over rounds; the minimum stands beside, and so do the
// last committed figures. What does not flake is held by test/packet
// (TestInstructions, TestLookupsPerPacket).
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 7, "rounds; every scenario once a round")
	packets := flag.Int("packets", 1<<19, "packets of one scenario in one round")
	save := flag.Bool("save", false, "make the figures those to compare with: writes "+saved+", to be committed")
	tables := flag.Bool("tables", false, "compare flow tables instead of measuring the programs")
	flag.Parse()
	runtime.LockOSThread()
	run := func(rounds, packets int) error { return runPackets(rounds, packets, *save) }
	if *tables {
		run = runTables
	}
	if err := errors.Join(pin(), run(*rounds, *packets)); err != nil {
		log.Fatal("bench-packet: ", err)
	}
}

// pin keeps this thread on the last CPU and in front of others.
func pin() error {
	var set unix.CPUSet
	set.Set(runtime.NumCPU() - 1)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to a CPU: %w", err)
	}
	return unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
}

// cost runs a program and returns its CPU time a packet in nanoseconds.
func cost(prog *ebpf.Program, packet []byte, ctx any, packets int) (float64, uint32, error) {
	before, err := cpuTime()
	if err != nil {
		return 0, 0, err
	}
	verdict, err := prog.Run(&ebpf.RunOptions{Data: packet, Context: ctx, Repeat: uint32(packets)})
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuTime()
	return float64(after-before) / float64(packets), verdict, err
}

func cpuTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}

// figure collects one scenario's rounds.
type figure struct {
	name string
	ns   []float64
}

func (f figure) median() float64 {
	v := slices.Sorted(slices.Values(f.ns))
	return v[len(v)/2]
}

func report(title string, figures []figure) error {
	fmt.Printf("%s\n\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "median ns\tmin ns\t")
	for _, f := range figures {
		fmt.Fprintf(w, "%.0f\t%.0f\t  %s\n", f.median(), slices.Min(f.ns), f.name)
	}
	return w.Flush()
}
