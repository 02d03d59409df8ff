// SPDX-License-Identifier: Apache-2.0

package inspect

import (
	"fmt"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// Usage is how full a table is.
type Usage struct {
	Table    string `json:"table"`
	Used     int    `json:"used"`
	Capacity int    `json:"capacity"`
}

// Count is one counter of things that went another way than usual.
type Count struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}

// Tables reads how full every table is.
func Tables(t *maps.Tables) ([]Usage, error) {
	backends, slots := 0, 0
	for i := range t.Backends.Len() {
		if t.Backends.Load(i).Generation != 0 {
			backends++
		}
	}
	for service := range t.Sets.Services() {
		for _, kind := range []abi.SetKind{abi.SetCluster, abi.SetLocal} {
			_, members := abi.UnpackSet(t.Sets.Load(service, kind))
			slots += int(members)
		}
	}
	all := []Usage{
		{"backends", backends, int(t.Backends.Len())},
		{"slots", slots, int(t.Slots.Len())},
	}
	for _, h := range []struct {
		name     string
		length   func() (int, error)
		capacity int
	}{
		{"services", func() (int, error) { return maps.Len(t.Services) }, t.Services.Capacity()},
		{"frontends", func() (int, error) { return maps.Len(t.Frontends) }, t.Frontends.Capacity()},
		{"tcp peers", func() (int, error) { return maps.Len(t.Peers) }, t.Peers.Capacity()},
		{"affinities", func() (int, error) { return maps.Len(t.Affinities) }, t.Affinities.Capacity()},
	} {
		n, err := h.length()
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", h.name, err)
		}
		all = append(all, Usage{h.name, n, h.capacity})
	}
	return all, nil
}

// Counts reads the counters.
func Counts(t *maps.Tables) ([]Count, error) {
	values, err := t.Counters()
	if err != nil {
		return nil, err
	}
	all := make([]Count, len(values))
	for i, v := range values {
		all[i] = Count{Name: abi.Counter(i).String(), Value: v}
	}
	return all, nil
}
