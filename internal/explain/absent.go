// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// absent says why no frontend in the kernel is the target.
func (e *explainer) absent() {
	switch {
	case e.Question.Target.IsValid() && e.otherPorts():
	case e.nodePort():
	case e.statedButAbsent():
		e.dropped()
	case e.dropped():
	default:
		e.find(NotAService, "compare with `beeline service list`", "%s is no Service's on this node%s", e.Target, e.remote())
	}
	e.Reason = e.Findings[0].Reason
}

// dropped: nobody has the address, and it is one of those that only a Service could
// have.
func (e *explainer) dropped() bool {
	r, ok := e.unassigned()
	if !ok || e.verdict != oracle.Drop {
		return false
	}
	e.find(UnassignedAddress, "compare with `kubectl get services -A`: the Service may have been deleted, or the address mistyped",
		"%v is in the cluster's Service range %v, and this node serves no Service with it: new connections are dropped instead of sent to the default route, as kube-proxy's nftables mode does",
		e.Question.Target.Addr(), r)
	return true
}

// otherPorts: the address is a Service's, the port is not.
func (e *explainer) otherPorts() bool {
	target := e.Question.Target
	var have []string
	var service model.Name
	for _, s := range e.Kernel.View.Services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Addr == target.Addr() {
					service = s.Name
					have = append(have, portText(f.Port, p.ID))
				}
			}
		}
	}
	if len(have) == 0 {
		return false
	}
	slices.Sort(have)
	e.Service = service.String()
	left := "; the packet is left alone"
	if e.verdict == oracle.Reject {
		left = "; it is refused"
	}
	if s := e.stated(service); s != nil && e.missingPort(s) {
		return true
	}
	e.find(UnknownPort, "use one of its ports, or add this one to the Service",
		"%v is an address of %v, which has no port %d/%v%s. It has: %s", target.Addr(), service, target.Port(), e.Question.Protocol, left, strings.Join(have, ", "))
	return true
}

func portText(number uint16, id plan.PortID) string {
	if id.Port == "" {
		return fmt.Sprintf("%d/%v", number, id.Protocol)
	}
	return fmt.Sprintf("%d/%v (%s)", number, id.Protocol, id.Port)
}

// missingPort: the object has the port, the kernel has not.
func (e *explainer) missingPort(s *model.Stated) bool {
	for _, p := range s.Ports {
		if uint16(p.Port) == e.Question.Target.Port() && p.Protocol == e.Question.Protocol.String() {
			if !e.problem(s, e.Question.Target.Addr()) {
				e.find(NotInKernel, "run `beeline status`: the agent may be behind, or a table full", "%v has port %d/%s, but the kernel has not", s.Name, p.Port, p.Protocol)
			}
			return true
		}
	}
	return false
}

// nodePort: the port is a NodePort, but not on this address.
func (e *explainer) nodePort() bool {
	target := e.Question.Target
	if !target.IsValid() {
		return false
	}
	for _, s := range e.Kernel.View.Services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Kind != plan.NodePort || f.Port != target.Port() || f.Protocol != e.Question.Protocol || model.FamilyOf(f.Addr) != model.FamilyOf(target.Addr()) {
					continue
				}
				e.Service, e.Port, e.Frontend = s.Name.String(), p.ID.Port, f.Kind.String()
				e.nodePortAddress(f)
				return true
			}
		}
	}
	return false
}

func (e *explainer) nodePortAddress(f plan.Frontend) {
	addr := e.Question.Target.Addr()
	if !slices.Contains(e.Kernel.View.Local, addr) && !addr.IsLoopback() {
		e.find(NodePortAddress, "ask on the node that has the address", "%d is a NodePort of %s, but %v is no address of this node", f.Port, e.Service, addr)
		return
	}
	if off := e.Kernel.Packet.Off; off != "" {
		e.find(NoPacketPath, packetPathMend(off), "%d is a NodePort of %s, and NodePorts need the packet path: %s", f.Port, e.Service, off)
		return
	}
	var served []string
	matcher := e.Kernel.View.Config.NodePortMatcher(e.Kernel.View.Node)
	for _, a := range e.Kernel.View.Local {
		if model.FamilyOf(a) == model.FamilyOf(addr) && matcher.Match(a) {
			served = append(served, a.String())
		}
	}
	e.find(NodePortAddress, "use one of the others, or change nodePortAddresses",
		"%d is a NodePort of %s, but %v does not serve NodePorts (nodePortAddresses); these do: %s", f.Port, e.Service, addr, orNone(strings.Join(served, ", ")))
}

// statedButAbsent: an object asks for the address, and does not get it.
func (e *explainer) statedButAbsent() bool {
	if e.Facts == nil {
		return false
	}
	for i := range e.Facts.Stated {
		s := &e.Facts.Stated[i]
		byName := e.Question.Service.Name != "" && s.Name == e.Question.Service
		if !byName && !(e.Question.Target.IsValid() && s.Mentions(e.Question.Target.Addr().String())) {
			continue
		}
		e.Service = s.Name.String()
		e.notServed(s)
		return true
	}
	return false
}

// notServed says why a Service, or this address of it, is not in the kernel.
func (e *explainer) notServed(s *model.Stated) {
	addr := e.Question.Target.Addr()
	switch {
	case s.OtherProxy != nil:
		e.find(OtherProxy, "remove the label service.kubernetes.io/service-proxy-name, or ask that proxy",
			"%v carries the label service.kubernetes.io/service-proxy-name=%s: another proxy serves it", s.Name, *s.OtherProxy)
	case s.Headless:
		e.find(Headless, "connect to the pods, whose addresses its DNS name has", "%v is headless (clusterIP None): it has no address of its own, and no proxy serves it", s.Name)
	case s.ExternalName != "" || s.Type == "ExternalName":
		e.find(ExternalName, "resolve "+s.ExternalName, "%v is of type ExternalName: it is a DNS name (%s) and no proxy serves it", s.Name, s.ExternalName)
	case len(s.ClusterIPs) == 0:
		e.find(NoClusterIP, "create it through the API server, or give it a clusterIP", "%v has no ClusterIP: nobody has allocated one", s.Name)
	case addr.IsValid() && e.ingress(s, addr.String()):
	case e.problem(s, addr):
	default:
		e.find(NotInKernel, "run `beeline status`: the agent may be down or behind, or a table full", "%v asks for it, but the kernel does not have it", s.Name)
	}
}

// ingress: a load balancer's address that its Service leaves to the load
// balancer.
func (e *explainer) ingress(s *model.Stated, addr string) bool {
	for _, i := range s.Ingress {
		if i.IP != addr || i.Mode == "" || i.Mode == "VIP" {
			continue
		}
		e.find(IPModeProxy, "nothing, if the load balancer answers; else have its controller set ipMode: VIP",
			"%s is a load balancer address of %v with ipMode %s: traffic must go through the load balancer itself, so no node translates it", addr, s.Name, i.Mode)
		return true
	}
	return false
}

// problem: what the plan or the source says about the Service. One that names
// the address goes before those that do not.
func (e *explainer) problem(s *model.Stated, addr netip.Addr) bool {
	reasons := map[plan.Reason]Reason{
		plan.FrontendConflict: AddressConflict, plan.FrontendIsBackend: AddressIsEndpoint,
		plan.AddressRefused: AddressRefused, plan.AddressNotAllowed: AddressRefused, plan.AddressProtected: AddressRefused,
	}
	mends := map[Reason]string{
		AddressConflict:   "give one of the two Services another address or port",
		AddressIsEndpoint: "give the Service another address: traffic to an endpoint goes to it directly",
		AddressRefused:    "choose another address, or allow it in the agent's configuration",
	}
	for _, p := range e.Facts.Problems {
		reason, known := reasons[p.Reason]
		if p.Service == s.Name && known && (!addr.IsValid() || strings.Contains(p.Message, addr.String())) {
			e.find(reason, mends[reason], "%v does not get it: %s", s.Name, p.Message)
			return true
		}
	}
	for _, text := range s.Problems {
		if strings.Contains(text, "withheld") && (!addr.IsValid() || strings.Contains(text, addr.String())) {
			e.find(UnreadableRanges, "mend spec.loadBalancerSourceRanges", "%v does not get it: %s (%s)", s.Name, text, strings.Join(s.Problems, "; "))
			return true
		}
	}
	if len(s.Problems) > 0 {
		e.find(NotInKernel, "mend the object", "%v cannot be used as it is: %s", s.Name, strings.Join(s.Problems, "; "))
		return true
	}
	return false
}

// remote says what else an address may be that nobody here knows.
func (e *explainer) remote() string {
	if e.Facts == nil || !e.Question.Target.IsValid() {
		return ""
	}
	return ": no frontend in the kernel, and no Service that " + e.Facts.From + " knows asks for it"
}
