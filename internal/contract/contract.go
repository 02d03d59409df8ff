// SPDX-License-Identifier: Apache-2.0

// Package contract is the table of what a Service means: one rule a row, each
// with a Service as its author writes it, its endpoints, clients, and what
// becomes of their packets. It is data: whatever handles packets can be held
// against it. The rules are kube-proxy's (k8s.io/kubernetes/pkg/proxy v1.37,
// mode nftables, unless a rule says otherwise), and a few of our own where
// kube-proxy leaves the outcome open.
//
// Only tests import it.
package contract

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
	"github.com/beeline-net/beeline/internal/source/object"
)

// Rule is one row of the table.
type Rule struct {
	// Name is the rule in words.
	Name string
	// Services are usually one, made of baseService.
	Services []Service
	// Configure changes the configuration and the node (Config, Node); nil
	// leaves them.
	Configure func(*plan.Config, *model.Node)
	Asks      []Ask
	// Problems are the reasons, sorted, for what is not planned.
	Problems []plan.Reason
}

// Service is a Service with its endpoints.
type Service struct {
	// YAML is laid over baseService.
	YAML string
	// Endpoints go into one slice: an address each, then words as in
	// parseEndpoint.
	Endpoints []string
	// Slices are further ones, in YAML, laid over baseSlice.
	Slices []string
}

// Ask is a packet and what becomes of it.
type Ask struct {
	// From is the client: Pod, Host, Outside, or any other address.
	From string
	// Device is where the packet comes in, for the modes that look at it.
	Device string
	// To is address:port, with "/UDP" or "/SCTP" if it is not TCP.
	To string
	// Flow and Pinned as in oracle.Packet; may be empty.
	Flow, Pinned string
	// Want is "pass", "reject", "drop", or the backends that may be chosen
	// separated by ", ", each with " snat" if it sees a node's address.
	Want string
}

// The addresses of the world in which every rule is asked.
const (
	// Pod, Host and Outside are clients in each scope; the pod and the host
	// are those of this node.
	Pod, Host, Outside    = "10.244.1.9", "172.18.0.2", "203.0.113.7"
	Pod6, Host6, Outside6 = "fd00:10:244:1::9", "fd00:172:18::2", "2001:db8:ffff::7"
	// Here and There are the nodes' names, the first this one.
	Here, There = "here", "there"

	clusterIP, loadBalancer, externalIP, nodePort = "10.96.0.10:80", "198.51.100.10:80", "192.0.2.80:80", "172.18.0.2:30080"
)

// baseService has a frontend of every kind.
const baseService = `
metadata: {namespace: shop, name: web, uid: 1b4e28ba}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10]
  ipFamilies: [IPv4]
  externalIPs: [192.0.2.80]
  ports: [{name: http, protocol: TCP, port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.10}]}}
`

// baseSlice is one of shop/web, without endpoints.
const baseSlice = `
metadata: {namespace: shop, name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
`

// Config is the configuration of the world.
func Config() plan.Config {
	return plan.Config{
		NodeName:           Here,
		AllowExternalIPs:   true,
		RefuseUnknownPorts: true,
		ServiceCIDRs:       prefixes("10.96.0.0/16", "fd00:10:96::/112"),
		DetectLocal: plan.DetectLocal{
			Mode:         plan.DetectClusterCIDR,
			ClusterCIDRs: prefixes("10.244.0.0/16", "fd00:10:244::/56"),
		},
	}
}

// Node is the node on which every rule is asked.
func Node() model.Node {
	return model.Node{
		Name:      Here,
		Zone:      "z1",
		Addresses: []netip.Addr{addr(Host), addr(Host6)},
		PodCIDRs:  prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
	}
}

// Oracle plans the rule's Services and returns who can be asked, and what was
// not planned.
func (r Rule) Oracle() (*oracle.Oracle, []plan.Problem, error) {
	config, node := Config(), Node()
	if r.Configure != nil {
		r.Configure(&config, &node)
	}
	planner := plan.New(config)
	planner.SetNode(node)
	for i, s := range r.Services {
		service, endpointSlices, err := s.Model()
		if err != nil {
			return nil, nil, fmt.Errorf("service %d: %w", i, err)
		}
		if service != nil {
			planner.Update(service.Name, service, endpointSlices)
		}
	}
	view := oracle.View{
		Config:   config,
		Node:     node,
		Local:    append([]netip.Addr{addr(Host), addr(Host6)}, node.Addresses...),
		Services: slices.Collect(planner.Services()),
	}
	return oracle.New(view), planner.Problems(), nil
}

// Model returns the Service as sources make it; nil if it is not to be proxied.
// Problems that a source reports are no errors.
func (s Service) Model() (*model.Service, []model.EndpointSlice, error) {
	var in corev1.Service
	if err := overlay(&in, baseService, s.YAML); err != nil {
		return nil, nil, err
	}
	service, _ := object.Service(&in)
	if service == nil {
		return nil, nil, nil
	}
	endpointSlices, err := s.endpointSlices(service)
	if err != nil {
		return nil, nil, err
	}
	for _, text := range s.Slices {
		var in discoveryv1.EndpointSlice
		if err := overlay(&in, baseSlice, text); err != nil {
			return nil, nil, err
		}
		if slice, _ := object.Slice(&in); slice != nil && slice.Service == service.Name {
			endpointSlices = append(endpointSlices, *slice)
		}
	}
	return service, endpointSlices, nil
}

// overlay decodes texts laid over each other: maps are merged, anything else is
// replaced, and null removes.
func overlay(into any, texts ...string) error {
	merged := map[string]any{}
	for _, text := range texts {
		var layer map[string]any
		if err := yaml.Unmarshal([]byte(text), &layer); err != nil {
			return fmt.Errorf("yaml %q: %w", text, err)
		}
		merge(merged, layer)
	}
	text, err := yaml.Marshal(merged)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

func merge(into, layer map[string]any) {
	for key, value := range layer {
		below, isMap := into[key].(map[string]any)
		above, bothMaps := value.(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && bothMaps:
			merge(below, above)
		default:
			into[key] = value
		}
	}
}

// endpointSlices puts the one-line endpoints into a slice for each family. The
// target of a port is its number plus 8000.
func (s Service) endpointSlices(service *model.Service) ([]model.EndpointSlice, error) {
	var all []model.EndpointSlice
	for _, family := range model.Families {
		slice := model.EndpointSlice{
			Name:    model.Name{Namespace: service.Name.Namespace, Name: service.Name.Name + "-" + strings.ToLower(family.String())},
			Service: service.Name,
			Family:  family,
		}
		for _, p := range service.Ports {
			slice.Ports = append(slice.Ports, model.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: 8000 + p.Port})
		}
		for _, line := range s.Endpoints {
			e, err := parseEndpoint(line)
			if err != nil {
				return nil, err
			}
			if model.FamilyOf(e.Addr) == family {
				slice.Endpoints = append(slice.Endpoints, e)
			}
		}
		if len(slice.Endpoints) > 0 {
			all = append(all, slice)
		}
	}
	return all, nil
}

// parseEndpoint reads an address and words: here, there (its node; without one,
// it has none), unready (neither ready nor serving), terminating (serving still),
// dying (terminating and not serving), zone=z1, node=here (hints).
func parseEndpoint(line string) (model.Endpoint, error) {
	words := strings.Fields(line)
	addr, err := netip.ParseAddr(words[0])
	if err != nil {
		return model.Endpoint{}, fmt.Errorf("endpoint %q: %w", line, err)
	}
	e := model.Endpoint{Addr: addr, Ready: true, Serving: true}
	for _, word := range words[1:] {
		hint, value, _ := strings.Cut(word, "=")
		switch {
		case word == Here, word == There:
			e.Node = word
		case word == "unready":
			e.Ready, e.Serving = false, false
		case word == "terminating":
			e.Ready, e.Terminating = false, true
		case word == "dying":
			e.Ready, e.Serving, e.Terminating = false, false, true
		case hint == "zone":
			e.ForZones = append(e.ForZones, value)
		case hint == "node":
			e.ForNodes = append(e.ForNodes, value)
		default:
			return model.Endpoint{}, fmt.Errorf("endpoint %q: word %q", line, word)
		}
	}
	return e, nil
}

// Packet is the ask as a packet.
func (a Ask) Packet() (oracle.Packet, error) {
	to, protocolName, _ := strings.Cut(a.To, "/")
	p := oracle.Packet{Device: a.Device}
	var err error
	parse := func(text string) netip.AddrPort {
		if text == "" || err != nil {
			return netip.AddrPort{}
		}
		var ap netip.AddrPort
		ap, err = netip.ParseAddrPort(text)
		return ap
	}
	p.Destination, p.Flow, p.Pinned = parse(to), parse(a.Flow), parse(a.Pinned)
	if err != nil {
		return p, err
	}
	if p.Source, err = netip.ParseAddr(a.From); err != nil {
		return p, err
	}
	p.Protocol, err = model.ParseProtocol(protocolName)
	return p, err
}

// Outcome writes an answer as Ask.Want does.
func Outcome(a oracle.Answer) string {
	if a.Verdict != oracle.Translate {
		return a.Verdict.String()
	}
	var backends []string
	for _, b := range a.Backends {
		text := b.Addr.String()
		if b.SourceNAT {
			text += " snat"
		}
		backends = append(backends, text)
	}
	return strings.Join(backends, ", ")
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }
