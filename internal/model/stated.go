// SPDX-License-Identifier: Apache-2.0

package model

import "strings"

// Stated is a Service as its author and the control plane put it, whether a
// proxy serves it or not, with everything that decides about that. It is for
// people: values are as written, usable or not.
type Stated struct {
	Name         Name
	Type         string
	ExternalName string `json:",omitempty"`
	// Headless is spec.clusterIP None.
	Headless bool `json:",omitempty"`
	// OtherProxy: it carries the label service.kubernetes.io/service-proxy-name,
	// with this value.
	OtherProxy *string `json:",omitempty"`
	// Selector is spec.selector as "key=value,..."; empty for none.
	Selector     string          `json:",omitempty"`
	ClusterIPs   []string        `json:",omitempty"`
	ExternalIPs  []string        `json:",omitempty"`
	Ingress      []StatedIngress `json:",omitempty"`
	SourceRanges []string        `json:",omitempty"`
	Ports        []StatedPort
	// InternalLocal and ExternalLocal are the traffic policies as written.
	InternalLocal, ExternalLocal bool
	Slices                       []StatedSlice `json:",omitempty"`
	// Pods are those that the selector matches; nil if nobody could tell.
	Pods []StatedPod
	// Problems are what a proxy cannot use of it, in words.
	Problems []string `json:",omitempty"`
}

// StatedIngress is one of status.loadBalancer.ingress.
type StatedIngress struct {
	IP, Hostname string `json:",omitempty"`
	// Mode is ipMode; empty is VIP.
	Mode string `json:",omitempty"`
}

// StatedPort is one of spec.ports. TargetPort is a number or a name.
type StatedPort struct {
	Name       string `json:",omitempty"`
	Protocol   string
	Port       int32
	NodePort   int32  `json:",omitempty"`
	TargetPort string `json:",omitempty"`
}

// StatedSlice is an EndpointSlice with the Service's label.
type StatedSlice struct {
	Name        string
	AddressType string
	// Headless: it carries the label service.kubernetes.io/headless, and
	// proxies do not look at it.
	Headless  bool `json:",omitempty"`
	Ports     []StatedPort
	Endpoints []StatedEndpoint
}

// StatedEndpoint is an endpoint with nil conditions resolved.
type StatedEndpoint struct {
	Addr                        string
	Ready, Serving, Terminating bool
	Node                        string   `json:",omitempty"`
	ForZones, ForNodes          []string `json:",omitempty"`
	// Target is the pod behind it; may be empty.
	Target string `json:",omitempty"`
}

// StatedPod is a pod that a selector matches.
type StatedPod struct {
	Name  string
	Ready bool
	// Why is the reason of its not being ready, if it says one.
	Why       string   `json:",omitempty"`
	Addresses []string `json:",omitempty"`
}

// Mentions reports whether the Service asks for that address in any way.
func (s *Stated) Mentions(addr string) bool {
	for _, list := range [][]string{s.ClusterIPs, s.ExternalIPs} {
		for _, a := range list {
			if strings.TrimSpace(a) == addr {
				return true
			}
		}
	}
	for _, i := range s.Ingress {
		if i.IP == addr {
			return true
		}
	}
	return false
}
