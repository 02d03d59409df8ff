// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// read is a metric with one label that is read at every scrape.
type read struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func() (map[string]float64, error)
}

// Describe implements prometheus.Collector.
func (r read) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

// Collect implements prometheus.Collector.
func (r read) Collect(ch chan<- prometheus.Metric) {
	values, err := r.values()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(r.desc, err)
		return
	}
	for _, label := range slices.Sorted(maps.Keys(values)) {
		ch <- prometheus.MustNewConstMetric(r.desc, r.kind, values[label], label)
	}
}

func eventValues(reads Reads) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		if reads.Events == nil {
			return nil, nil
		}
		events, err := reads.Events()
		values := map[string]float64{}
		for name, n := range events {
			values[name] = float64(n)
		}
		return values, err
	}
}

func checkValues(reads Reads) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		values := map[string]float64{}
		if reads.Checks != nil {
			for name, passes := range reads.Checks() {
				values[name] = truth(passes)
			}
		}
		return values, nil
	}
}
