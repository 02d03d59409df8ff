// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// scenario is one way to do an operation; base is the direct way.
type scenario struct {
	operation, name string
	base            *scenario
	// gated: report fails the run if the ratio is over the limit.
	gated bool
	// enter is called once before a batch; op returns how long it took.
	enter func() error
	op    func() (time.Duration, error)
	// One figure a round, nanoseconds.
	mins, p50s []float64
}

// measure runs every scenario once a round, in an order of its own.
func measure(scenarios []*scenario, rounds, batch int) error {
	for round := range rounds + 1 {
		order := rand.Perm(len(scenarios))
		for _, i := range order {
			s := scenarios[i]
			if err := s.batch(batch, round == 0); err != nil {
				return fmt.Errorf("%s, %s: %w", s.operation, s.name, err)
			}
		}
	}
	return nil
}

// batch runs one batch; a warm-up is not recorded.
func (s *scenario) batch(n int, warmUp bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	took := make([]time.Duration, n)
	for i := range took {
		d, err := s.op()
		if err != nil {
			return err
		}
		took[i] = d
	}
	if warmUp {
		return nil
	}
	slices.Sort(took)
	s.mins = append(s.mins, float64(took[0]))
	s.p50s = append(s.p50s, float64(took[n/2]))
	return nil
}

// ratio is the median over rounds of own to base in the same round.
func (s *scenario) ratio(own, base []float64) float64 {
	r := make([]float64, len(own))
	for i := range own {
		r[i] = own[i] / base[i]
	}
	return median(r)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}
