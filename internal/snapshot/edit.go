// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"slices"

	"github.com/beeline-net/beeline/internal/model"
)

// Change is a set of edits which the reader sees all at once or not at all.
// Deletions are applied first: an object that is deleted and set is set.
type Change struct {
	DeleteServices     []model.Name
	DeleteSlices       []model.Name
	DeleteServiceCIDRs []model.Name
	SetServices        []model.Service
	SetSlices          []model.EndpointSlice
	SetServiceCIDRs    []model.ServiceCIDR
	// SetNode is nil if the node stays as it is.
	SetNode *model.Node
}

// SetService adds or replaces a Service.
func (s *Store) SetService(svc model.Service) {
	s.Apply(Change{SetServices: []model.Service{svc}})
}

// DeleteService removes a Service; its slices stay until they are deleted too.
func (s *Store) DeleteService(name model.Name) {
	s.Apply(Change{DeleteServices: []model.Name{name}})
}

// SetSlice adds or replaces a slice. If it changes its Service, both Services
// have changed.
func (s *Store) SetSlice(slice model.EndpointSlice) {
	s.Apply(Change{SetSlices: []model.EndpointSlice{slice}})
}

// DeleteSlice removes a slice.
func (s *Store) DeleteSlice(name model.Name) {
	s.Apply(Change{DeleteSlices: []model.Name{name}})
}

// SetNode replaces this node's values.
func (s *Store) SetNode(node model.Node) { s.Apply(Change{SetNode: &node}) }

// SetNetwork replaces this node's own network.
func (s *Store) SetNetwork(network model.Network) {
	s.edit(func() { s.setNetwork(network) })
}

// SetServiceCIDR adds or replaces a ServiceCIDR.
func (s *Store) SetServiceCIDR(cidr model.ServiceCIDR) {
	s.Apply(Change{SetServiceCIDRs: []model.ServiceCIDR{cidr}})
}

// DeleteServiceCIDR removes a ServiceCIDR.
func (s *Store) DeleteServiceCIDR(name model.Name) {
	s.Apply(Change{DeleteServiceCIDRs: []model.Name{name}})
}

// ReplaceServices states that these are all Services: any other is deleted.
func (s *Store) ReplaceServices(all []model.Service) {
	keep := serviceNames(all)
	s.edit(func() {
		for name, e := range s.services {
			if _, ok := keep[name]; !ok && e.service != nil {
				s.deleteService(name)
			}
		}
		for i := range all {
			s.setService(all[i])
		}
	})
}

// ReplaceSlices states that these are all slices: any other is deleted.
func (s *Store) ReplaceSlices(all []model.EndpointSlice) {
	keep := sliceNames(all)
	s.edit(func() {
		for name := range s.owners {
			if _, ok := keep[name]; !ok {
				s.deleteSlice(name)
			}
		}
		for i := range all {
			s.setSlice(all[i])
		}
	})
}

// ReplaceServiceCIDRs states that these are all ServiceCIDRs: any other is
// deleted.
func (s *Store) ReplaceServiceCIDRs(all []model.ServiceCIDR) {
	s.edit(func() {
		for name := range s.cidrs {
			if !slices.ContainsFunc(all, func(c model.ServiceCIDR) bool { return c.Name == name }) {
				s.deleteServiceCIDR(name)
			}
		}
		for _, c := range all {
			s.setServiceCIDR(c)
		}
		s.knowRanges()
	})
}

// Apply makes all edits of a Change visible at once.
func (s *Store) Apply(c Change) {
	keepServices, keepSlices := serviceNames(c.SetServices), sliceNames(c.SetSlices)
	s.edit(func() {
		for _, name := range c.DeleteServices {
			if _, ok := keepServices[name]; !ok {
				s.deleteService(name)
			}
		}
		for _, name := range c.DeleteSlices {
			if _, ok := keepSlices[name]; !ok {
				s.deleteSlice(name)
			}
		}
		for i := range c.SetServices {
			s.setService(c.SetServices[i])
		}
		for i := range c.SetSlices {
			s.setSlice(c.SetSlices[i])
		}
		for _, name := range c.DeleteServiceCIDRs {
			s.deleteServiceCIDR(name)
		}
		for _, cidr := range c.SetServiceCIDRs {
			s.setServiceCIDR(cidr)
		}
		if c.SetNode != nil {
			s.setNode(*c.SetNode)
		}
	})
}

func serviceNames(all []model.Service) map[model.Name]struct{} {
	names := make(map[model.Name]struct{}, len(all))
	for i := range all {
		names[all[i].Name] = struct{}{}
	}
	return names
}

func sliceNames(all []model.EndpointSlice) map[model.Name]struct{} {
	names := make(map[model.Name]struct{}, len(all))
	for i := range all {
		names[all[i].Name] = struct{}{}
	}
	return names
}

// edit runs f under the lock and wakes the reader if f changed anything.
func (s *Store) edit(f func()) {
	s.mu.Lock()
	s.edited = false
	f()
	news := s.edited
	s.mu.Unlock()
	if news {
		s.signal()
	}
}

func (s *Store) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // the reader has not taken the last one yet
	}
}

// touch marks that something changed. The lock is held, here and below.
func (s *Store) touch() {
	s.edited = true
	if s.since.IsZero() {
		s.since = s.now()
	}
}

func (s *Store) touchService(name model.Name, what Part) {
	s.touch()
	s.changes[what]++
	s.dirty[name] = struct{}{}
}

func (s *Store) setService(svc model.Service) {
	e := s.entry(svc.Name)
	if e.service != nil && equalService(e.service, &svc) {
		return
	}
	e.service = &svc // a reader may still hold the old one
	s.touchService(svc.Name, Services)
}

func (s *Store) deleteService(name model.Name) {
	e := s.services[name]
	if e == nil || e.service == nil {
		return
	}
	e.service = nil
	s.touchService(name, Services)
	s.dropIfEmpty(name)
}

func (s *Store) setSlice(slice model.EndpointSlice) {
	if owner, ok := s.owners[slice.Name]; ok && owner != slice.Service {
		s.deleteSlice(slice.Name)
	}
	s.owners[slice.Name] = slice.Service
	e := s.entry(slice.Service)
	i, found := e.find(slice.Name)
	var old model.EndpointSlice
	if found {
		old = e.slices[i]
		e.slices[i] = slice
		if equalSlice(&old, &slice) {
			return
		}
	} else {
		e.slices = slices.Insert(e.slices, i, slice)
	}
	if slice.Trigger.After(s.start) && !slice.Trigger.Equal(old.Trigger) {
		s.triggers = append(s.triggers, Trigger{slice.Family, slice.Trigger})
	}
	s.touchService(slice.Service, Slices)
}

func (s *Store) deleteSlice(name model.Name) {
	owner, ok := s.owners[name]
	if !ok {
		return
	}
	delete(s.owners, name)
	e := s.services[owner]
	if i, found := e.find(name); found {
		e.slices = slices.Delete(e.slices, i, i+1)
	}
	s.touchService(owner, Slices)
	s.dropIfEmpty(owner)
}

func (s *Store) setNode(node model.Node) {
	if equalNode(&s.node, &node) {
		return
	}
	s.node = node
	s.dirtyNode = true
	s.touch()
}

func (s *Store) setNetwork(network model.Network) {
	if s.network != nil && equalNetwork(s.network, &network) {
		return
	}
	s.network = &network
	s.dirtyNetwork = true
	s.touch()
}

func (s *Store) setServiceCIDR(c model.ServiceCIDR) {
	if old, known := s.cidrs[c.Name]; known && slices.Equal(old, c.CIDRs) {
		return
	}
	s.cidrs[c.Name] = c.CIDRs
	s.dirtyCIDR = true
	s.touch()
}

func (s *Store) deleteServiceCIDR(name model.Name) {
	if _, known := s.cidrs[name]; !known {
		return
	}
	delete(s.cidrs, name)
	s.dirtyCIDR = true
	s.touch()
}

func (s *Store) entry(name model.Name) *entry {
	e := s.services[name]
	if e == nil {
		e = &entry{}
		s.services[name] = e
	}
	return e
}

func (s *Store) dropIfEmpty(name model.Name) {
	if e := s.services[name]; e.service == nil && len(e.slices) == 0 {
		delete(s.services, name)
	}
}

func (e *entry) find(slice model.Name) (int, bool) {
	return slices.BinarySearchFunc(e.slices, slice, func(s model.EndpointSlice, name model.Name) int {
		return s.Name.Compare(name)
	})
}
