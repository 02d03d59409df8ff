// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// Traffic is what programs count for each Service port.
type Traffic struct{ counts, refused *ebpf.Map }

func (o *opener) traffic() Traffic {
	if o.kernel[abi.MapServiceCounts] == nil || o.kernel[abi.MapServiceRefused] == nil {
		return Traffic{}
	}
	return Traffic{
		counts:  o.find(abi.MapServiceCounts, 4, unsafe.Sizeof(abi.ServiceCount{})),
		refused: o.find(abi.MapServiceRefused, unsafe.Sizeof(abi.ServiceRefusal{}), 8),
	}
}

// Capacity is how many Service ports are counted: those with an index below it.
func (t Traffic) Capacity() int {
	if t.counts == nil {
		return 0
	}
	return int(t.counts.MaxEntries())
}

// trafficBatch is how many entries are read at once; each has a value a CPU.
const trafficBatch = 512

// Counts returns what each Service port has had, by index, summed over the CPUs.
func (t Traffic) Counts() ([]abi.ServiceCount, error) {
	n := t.Capacity()
	sums := make([]abi.ServiceCount, n)
	if n == 0 {
		return sums, nil
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	size := min(trafficBatch, n)
	keys, values := make([]uint32, size), make([]abi.ServiceCount, size*cpus)
	var cursor ebpf.MapBatchCursor
	for {
		read, err := t.counts.BatchLookup(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return t.countsSingly(sums)
		}
		if err != nil && !last {
			return nil, fmt.Errorf("read %s: %w", abi.MapServiceCounts, err)
		}
		for i, service := range keys[:read] {
			sums[service] = sum(values[i*cpus : (i+1)*cpus])
		}
		if last {
			return sums, nil
		}
	}
}

// countsSingly is Counts where there are no batches.
func (t Traffic) countsSingly(sums []abi.ServiceCount) ([]abi.ServiceCount, error) {
	for i := range sums {
		var values []abi.ServiceCount
		if err := t.counts.Lookup(uint32(i), &values); err != nil {
			return nil, fmt.Errorf("read %s: %w", abi.MapServiceCounts, err)
		}
		sums[i] = sum(values)
	}
	return sums, nil
}

func sum(perCPU []abi.ServiceCount) (all abi.ServiceCount) {
	for _, n := range perCPU {
		all.Sockets += n.Sockets
		all.Flows += n.Flows
		for d := range n.Packets {
			all.Packets[d] += n.Packets[d]
			all.Bytes[d] += n.Bytes[d]
		}
	}
	return all
}

// Refusals returns how often Service ports have refused or dropped, for each
// reason. Those of abi.ServiceNone belong to no port.
func (t Traffic) Refusals() (map[abi.ServiceRefusal]uint64, error) {
	all := map[abi.ServiceRefusal]uint64{}
	if t.refused == nil {
		return all, nil
	}
	var key abi.ServiceRefusal
	var perCPU []uint64
	entries := t.refused.Iterate()
	for entries.Next(&key, &perCPU) {
		for _, n := range perCPU {
			all[key] += n
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("read %s: %w", abi.MapServiceRefused, err)
	}
	return all, nil
}

// Forget begins the counts of Service ports anew, because their indexes are to
// be others' from now on.
func (t Traffic) Forget(services map[uint32]bool) error {
	if t.counts == nil || len(services) == 0 {
		return nil
	}
	counts, err := t.Counts()
	if err != nil {
		return err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the CPUs: %w", err)
	}
	zero := make([]abi.ServiceCount, cpus)
	errs := []error{}
	for service := range services {
		if int(service) < len(counts) && counts[service] != (abi.ServiceCount{}) {
			errs = append(errs, t.counts.Put(service, zero))
		}
	}
	refusals, err := t.Refusals()
	errs = append(errs, err)
	for key := range refusals {
		if services[key.Service] {
			if err := t.refused.Delete(key); !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("begin counts anew: %w", err)
	}
	return nil
}
