// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"net/url"

	"github.com/beeline-net/beeline/internal/model"
)

// Query selects the objects that a question needs.
type Query struct {
	// Service is a Service by name; Address are all that ask for an address.
	Service model.Name
	Address netip.Addr
	// Pod is an endpoint's pod, whose address is wanted.
	Pod model.Name
}

// Only is the one Service that is asked for; zero if others may be meant, too.
func (q Query) Only() model.Name {
	if q.Address.IsValid() || q.Pod.Name != "" {
		return model.Name{}
	}
	return q.Service
}

// Wants reports whether a Service is one of those.
func (q Query) Wants(s *model.Stated) bool {
	return q.Service.Name != "" && s.Name == q.Service ||
		q.Address.IsValid() && s.Mentions(q.Address.String()) ||
		q.Pod.Name != "" && s.Name.Namespace == q.Pod.Namespace
}

// Values is the query as part of a URL; ParseQuery is its inverse.
func (q Query) Values() url.Values {
	v := url.Values{}
	if q.Service.Name != "" {
		v.Set("namespace", q.Service.Namespace)
		v.Set("service", q.Service.Name)
	}
	if q.Address.IsValid() {
		v.Set("address", q.Address.String())
	}
	if q.Pod.Name != "" {
		v.Set("podNamespace", q.Pod.Namespace)
		v.Set("pod", q.Pod.Name)
	}
	return v
}

// ParseQuery reads what Values wrote; what it cannot read it leaves out.
func ParseQuery(v url.Values) Query {
	q := Query{
		Service: model.Name{Namespace: v.Get("namespace"), Name: v.Get("service")},
		Pod:     model.Name{Namespace: v.Get("podNamespace"), Name: v.Get("pod")},
	}
	q.Address, _ = netip.ParseAddr(v.Get("address"))
	return q
}

// Pod finds a pod among endpoints and selected pods.
func (f *Facts) Pod(name model.Name) (addrs []netip.Addr, node string) {
	add := func(text string) {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	for _, s := range f.Stated {
		if s.Name.Namespace != name.Namespace {
			continue
		}
		for _, slice := range s.Slices {
			for _, e := range slice.Endpoints {
				if e.Target == name.Name {
					add(e.Addr)
					node = e.Node
				}
			}
		}
		for _, p := range s.Pods {
			if p.Name == name.Name {
				for _, a := range p.Addresses {
					add(a)
				}
			}
		}
	}
	return addrs, node
}
