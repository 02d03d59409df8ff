// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// flowCounts are the numbers of flows that figures are taken for.
var flowCounts = []uint32{1, 1 << 14, 1 << 19}

func countName(n uint32) string {
	switch {
	case n >= 1<<10:
		return fmt.Sprintf("%dK flows", n>>10)
	case n == 1:
		return "1 flow"
	}
	return fmt.Sprintf("%d flows", n)
}

const tableSize = 1 << 20

// runTables compares the candidates one after the other, since together they
// would not fit into memory.
func runTables(rounds, packets int) error {
	var figures []figure
	for _, table := range []string{"lru", "preallocated", "on_demand", "array"} {
		for _, flows := range flowCounts {
			made, found, err := measureTable(table, flows, rounds, packets)
			if err != nil {
				return fmt.Errorf("table %s, %s: %w", table, countName(flows), err)
			}
			figures = append(figures, figure{table + ": find, " + countName(flows), found})
			if flows > 1 {
				figures = append(figures, figure{table + ": make, " + countName(flows), made})
			}
		}
	}
	return report("Flow tables of 1M entries: finding a flow by one of its tuples, making one with both", figures)
}

// measureTable makes that many flows in an empty table, and finds them.
func measureTable(table string, flows uint32, rounds, packets int) (made, found []float64, err error) {
	for range rounds {
		coll, err := loadTable(table, flows)
		if err != nil {
			return nil, nil, err
		}
		m, f, err := tableRound(coll, table, int(flows), packets)
		coll.Close()
		if err != nil {
			return nil, nil, err
		}
		made, found = append(made, m), append(found, f)
	}
	return made, found, nil
}

func loadTable(table string, flows uint32) (*ebpf.Collection, error) {
	spec, err := loadTables()
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{"find_" + table: true, "make_" + table: true, "nothing": true}
	for name := range spec.Programs {
		if !keep[name] {
			delete(spec.Programs, name)
		}
	}
	hashes := []string{"lru", "preallocated", "on_demand"}
	for _, name := range hashes {
		if name != table {
			delete(spec.Maps, name)
		}
	}
	if table == "array" {
		spec.Maps["flows"].MaxEntries = tableSize
		spec.Maps["flow_index"].MaxEntries = tableSize / 2
	}
	var v tablesVariableSpecs
	if err := spec.Assign(&v); err != nil {
		return nil, err
	}
	if err := v.ConfigFlowMask.Set(uint32(tableSize - 1)); err != nil {
		return nil, err
	}
	if err := v.FlowMaskTables.Set(flows - 1); err != nil {
		return nil, err
	}
	return ebpf.NewCollection(spec)
}

func tableRound(coll *ebpf.Collection, table string, flows, packets int) (made, found float64, err error) {
	packet := make([]byte, 64)
	nothing, _, err := cost(coll.Programs["nothing"], packet, nil, packets)
	if err != nil {
		return 0, 0, err
	}
	made, verdict, err := cost(coll.Programs["make_"+table], packet, nil, flows)
	if err != nil {
		return 0, 0, err
	}
	if verdict != 0 && !strings.HasPrefix(table, "lru") {
		return 0, 0, fmt.Errorf("the last flow was not made")
	}
	found, verdict, err = cost(coll.Programs["find_"+table], packet, nil, packets)
	if err == nil && int32(verdict) < 0 {
		err = fmt.Errorf("the last flow was not found")
	}
	return made - nothing, found - nothing, err
}
