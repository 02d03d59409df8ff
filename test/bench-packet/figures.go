// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// saved is where the committed figures are, from the repository's root.
const saved = "test/bench-packet/figures.json"

//go:embed figures.json
var committed []byte

// figures are those of one run, as they are committed.
type figures struct {
	Machine string `json:"machine"`
	// Nanoseconds of CPU time a packet, by scenario.
	Nanoseconds map[string]nanoseconds `json:"nanoseconds"`
	// Instructions of each program, as compiled.
	Instructions map[string]int `json:"instructions"`
}

type nanoseconds struct {
	Median int `json:"median"`
	Min    int `json:"min"`
}

func lastFigures() (f figures, err error) {
	if err := json.Unmarshal(committed, &f); err != nil {
		return f, fmt.Errorf("%s: %w", saved, err)
	}
	return f, nil
}

func (f figures) save() error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.FromSlash(saved), append(text, '\n'), 0o644)
}

// print shows the figures with the committed ones beside them.
func (f figures) print(order []string, last figures) error {
	fmt.Printf("Packet programs, TCP, a Service of 100 local backends, flow table of 1M; CPU time a packet\n"+
		"now:       %s\ncommitted: %s\n\n", f.Machine, last.Machine)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "median ns\tmin ns\tcommitted median\tmin\t")
	for _, name := range order {
		now, then := f.Nanoseconds[name], last.Nanoseconds[name]
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t  %s\n", now.Median, now.Min, then.Median, then.Min, name)
	}
	fmt.Fprintln(w, "\t\t\t\t")
	for _, name := range slices.Sorted(maps.Keys(f.Instructions)) {
		fmt.Fprintf(w, "%d\t\t%d\t\t  %s: instructions\n", f.Instructions[name], last.Instructions[name], name)
	}
	return w.Flush()
}

// machine says what the figures were taken on.
func machine() string {
	var name unix.Utsname
	_ = unix.Uname(&name)
	model := "unknown CPU"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for _, line := range strings.Split(string(text), "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%s, %d CPUs, Linux %s, load %s", model, runtime.NumCPU(), unix.ByteSliceToString(name.Release[:]), first)
}
