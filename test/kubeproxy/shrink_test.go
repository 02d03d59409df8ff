// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// shrink leaves out of a failing sequence what it fails without: steps, changes
// within a step, and parts of the objects. What stays fails, though maybe in
// another way.
func shrink(steps []step, fails func([]step) string) []step {
	failing := func(s []step) bool { return fails(s) != "" }
	for size := -1; size != weight(steps); {
		size = weight(steps)
		steps = shrinkList(steps, failing)
		for i := range steps {
			steps = shrinkStep(steps, i, failing)
		}
	}
	return steps
}

// weight grows with everything that can be left out.
func weight(steps []step) int {
	sum := len(steps)
	for _, s := range steps {
		sum += len(s)
		for _, c := range s {
			switch o := c.now.(type) {
			case *v1.Service:
				sum += len(o.Spec.Ports) + len(o.Spec.ExternalIPs) + len(o.Status.LoadBalancer.Ingress) + len(o.Spec.LoadBalancerSourceRanges) +
					len(o.Labels) + len(o.Annotations)
			case *discovery.EndpointSlice:
				sum += len(o.Ports) + len(o.Endpoints) + len(o.Annotations)
			}
		}
	}
	return sum
}

// shrinkList drops runs of elements, long ones first, as long as what is left
// fails.
func shrinkList[T any](list []T, failing func([]T) bool) []T {
	for run := max(1, len(list)/2); run > 0; run /= 2 {
		for at := len(list) - run; at >= 0; at -= run {
			if at+run > len(list) {
				continue
			}
			if less := slices.Concat(list[:at], list[at+run:]); failing(less) {
				list = less
			}
		}
	}
	return list
}

func shrinkStep(steps []step, i int, failing func([]step) bool) []step {
	with := func(s step) []step {
		next := slices.Clone(steps)
		next[i] = s
		return next
	}
	steps = with(shrinkList(steps[i], func(s []change) bool { return len(s) > 0 && failing(with(s)) }))
	for j := range steps[i] {
		for again := true; again; {
			again = slices.ContainsFunc(simpler(steps[i][j]), func(less change) bool {
				s := slices.Clone(steps[i])
				s[j] = less
				next := with(s)
				if weight(next) == weight(steps) || !failing(next) {
					return false
				}
				steps = next
				return true
			})
		}
	}
	return steps
}

// simpler lists a change with one thing less in its object.
func simpler(c change) []change {
	var all []change
	switch o := c.now.(type) {
	case *v1.Service:
		less := func(edit func(*v1.Service)) {
			next := o.DeepCopy()
			edit(next)
			all = append(all, put(next))
		}
		for i := range o.Spec.Ports {
			less(func(s *v1.Service) { s.Spec.Ports = slices.Delete(s.Spec.Ports, i, i+1) })
		}
		less(func(s *v1.Service) { s.Spec.ExternalIPs = nil })
		less(func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = nil })
		less(func(s *v1.Service) { s.Status.LoadBalancer.Ingress = nil })
		less(func(s *v1.Service) { s.Annotations, s.Labels = nil, nil })
	case *discovery.EndpointSlice:
		less := func(edit func(*discovery.EndpointSlice)) {
			next := o.DeepCopy()
			edit(next)
			all = append(all, put(next))
		}
		for i := range o.Ports {
			less(func(s *discovery.EndpointSlice) { s.Ports = slices.Delete(s.Ports, i, i+1) })
		}
		for i := range o.Endpoints {
			less(func(s *discovery.EndpointSlice) { s.Endpoints = slices.Delete(s.Endpoints, i, i+1) })
		}
		less(func(s *discovery.EndpointSlice) { s.Annotations = nil })
	}
	return all
}
