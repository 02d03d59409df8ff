// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

func (e *explainer) find(r Reason, mend, format string, args ...any) {
	e.Findings = append(e.Findings, Finding{r, fmt.Sprintf(format, args...), mend})
}

// why finds the reason of the verdict, then what else is worth knowing.
func (e *explainer) why() {
	e.notTheirs()
	switch {
	case e.unserved():
	case e.decided.Frontend == nil:
		e.absent()
	case e.verdict == oracle.Translate:
		e.works()
	case e.programOnly():
	case e.verdict == oracle.Pass:
		e.passed()
	case e.verdict == oracle.Drop && e.decided.Scope == oracle.External && e.decided.Frontend.Kind == plan.ClusterIP && e.Kernel.Packet.ClosedClusterIPs:
		e.find(ClusterIPOutside, "reach it from inside, or give the Service a NodePort or load balancer",
			"%v is a ClusterIP, and ClusterIPs are closed to clients outside the cluster", e.Question.Target)
	case e.outOfRange():
	default:
		e.noEndpoints()
	}
	if len(e.Findings) > 0 {
		e.Reason = e.Findings[0].Reason
	}
}

// notTheirs: a Service was asked for whose address another one has.
func (e *explainer) notTheirs() {
	asked, got := e.Question.Service, e.decided.Port.Service
	if asked.Name == "" || got.Name == "" || asked == got {
		return
	}
	e.find(AddressConflict, "give one of the two Services another address or port",
		"%v asks for %v, but it belongs to %v: a ClusterIP goes before other kinds, then the older Service", asked, e.Question.Target, got)
}

// unserved: the hook that should see the client is not there.
func (e *explainer) unserved() bool {
	if e.verdict != oracle.Pass {
		return false
	}
	sockets, packets := e.Kernel.Sockets.Broken, e.Kernel.Packet.Off
	mine := e.exists()
	switch {
	case !mine:
		return false
	case !e.Question.Client.ElsewhereSockets && sockets != "":
		e.find(SocketsNotServed, "run `beeline status`, and start the agent", "the socket hooks do not serve the client: %s", sockets)
	case !e.Question.Client.ElsewhereSockets && e.Kernel.Sockets.LeftAlone != "" && packets != "":
		e.find(NoPacketPath, packetPathMend(packets), "the client's sockets are left alone, so it needs the packet path: %s", packets)
	case e.Question.Client.ElsewhereSockets && packets != "":
		e.find(NoPacketPath, packetPathMend(packets),
			"clients whose sockets this kernel does not see need the packet path: %s", packets)
	case packets != "" && e.Question.Protocol == model.SCTP:
		e.find(NoPacketPath, packetPathMend(packets), "SCTP needs the packet path: %s", packets)
	default:
		return false
	}
	return true
}

// packetPathMend is what to do about a packet path that is off, or not where the
// packets are.
func packetPathMend(off string) string {
	if strings.Contains(off, "switched off") {
		return "start the agent with --packet-path, or reach the Service from a process on this node"
	}
	return "name the client's device with --device, if it is another; `beeline check -o json` lists where the programs are"
}

// exists reports whether the tables have the target at all.
func (e *explainer) exists() bool {
	a := e.oracle.Ask(oracle.Packet{
		Protocol: e.Question.Protocol, Source: e.Question.Client.Addr, Destination: e.Question.Target, Scope: e.Question.Client.Scope,
	})
	if a.Frontend == nil {
		return false
	}
	if e.decided.Frontend == nil {
		e.decided.Frontend, e.decided.Port, e.decided.Scope = a.Frontend, a.Port, a.Scope
		e.match()
		e.backends()
	}
	return true
}

// passed: a frontend that no hook translates for this client.
func (e *explainer) passed() {
	if packets := e.Kernel.Packet.Off; packets != "" {
		e.find(NoPacketPath, packetPathMend(packets), "the socket hooks leave this to the packet path, and %s", packets)
		return
	}
	e.find(NotAService, "", "the programs leave the packet alone")
}

// programOnly: the program has a reason that the tables do not show.
func (e *explainer) programOnly() bool {
	run := e.Kernel.Packet.Run
	if run == nil || run.Verdict != e.verdict || !ownReason(run.Reasons) {
		return false
	}
	e.find(ProgramDropped, "see the counters in docs/reference/metrics.md", "the program gives up the packet: %s", strings.Join(run.Reasons, ", "))
	return true
}

func (e *explainer) outOfRange() bool {
	f := e.decided.Frontend
	if e.verdict != oracle.Drop || len(f.SourceRanges) == 0 {
		return false
	}
	for _, r := range f.SourceRanges {
		if r.Contains(e.Question.Client.Addr) {
			return false
		}
	}
	var ranges []string
	for _, r := range f.SourceRanges {
		ranges = append(ranges, r.String())
	}
	e.find(SourceRange, "add the client's range to spec.loadBalancerSourceRanges",
		"%v is in none of the Service's source ranges: %s", e.Question.Client.Addr, strings.Join(ranges, ", "))
	return true
}

// works adds remarks to what is translated.
func (e *explainer) works() {
	if run := e.Kernel.Packet.Run; run != nil && run.Established && len(e.Paths) > 0 && e.Paths[len(e.Paths)-1].Run == run && e.Question.Client.ElsewhereSockets {
		e.find(EstablishedFlow, "", "a flow from this address and port exists, and goes on to %v", run.Backend)
	}
	var pods []string
	terminating, masked := len(e.Answer.Backends) > 0, false
	for _, b := range e.Answer.Backends {
		if b.Eligible {
			masked = masked || b.SourceNAT
			pods = append(pods, b.Address)
			terminating = terminating && strings.HasPrefix(b.Why, "terminating")
		}
	}
	e.find(Translated, "", "%d of %d endpoints may be chosen", len(pods), len(e.Answer.Backends))
	if terminating && len(pods) > 0 {
		e.find(TerminatingOnly, "wait for a pod to become ready", "only terminating endpoints are left; they serve until they are gone")
	}
	if why := e.Kernel.Sockets.LeftAlone; why != "" && !e.Question.Client.ElsewhereSockets {
		e.find(SocketsOptedOut, "", "the packet path serves this client, not the socket hooks: %s", why)
	}
	for _, step := range e.decided.Steps {
		switch {
		case strings.HasPrefix(step, "session affinity: back to"):
			e.find(AffinityPins, "", "session affinity pins the client to %v until it has been idle for %v",
				e.decided.Backends[0].Addr, e.decided.Frontend.AffinityTimeout)
		case strings.HasPrefix(step, "source NAT") && masked:
			e.find(SourceNAT, "", "the backend sees an address of this node: %s", strings.TrimPrefix(step, "source NAT: "))
		}
	}
	for _, b := range e.Answer.Backends {
		if strings.HasPrefix(b.Why, "topology hints") {
			e.find(HintsExclude, "", "topology hints keep some ready endpoints away from this node")
			break
		}
	}
}

// inFront adds what else could decide on this node.
func (e *explainer) inFront() { e.Findings = append(e.Findings, e.Front...) }

// noEndpoints says why nobody is left to answer.
func (e *explainer) noEndpoints() {
	id := e.decided.Port
	if e.verdict == oracle.Drop {
		if port := e.kernelPort(); port != nil && e.policyLocal() {
			kind, field := "internal", "internalTrafficPolicy"
			if e.decided.Scope == oracle.External && e.decided.Frontend.Kind != plan.ClusterIP {
				kind, field = "external", "externalTrafficPolicy"
			}
			e.find(NoLocalEndpoints, fmt.Sprintf("run a pod of it on this node, send to a node that has one, or set spec.%s: Cluster", field),
				"the %s traffic policy is Local, and no endpoint is on this node; others have some", kind)
			return
		}
	}
	s := e.stated(id.Service)
	if s == nil {
		e.find(NoEndpoints, "look at `kubectl get endpointslices -l kubernetes.io/service-name="+id.Service.Name+"`",
			"no endpoint of %v is usable anywhere", id)
		return
	}
	e.whyEmpty(s, id)
}

// whyEmpty says what of the objects leaves a port without usable endpoints.
func (e *explainer) whyEmpty(s *model.Stated, id plan.PortID) {
	var headless, family, total, unready, dying, named int
	for i := range s.Slices {
		slice := &s.Slices[i]
		_, why := slicePort(slice, id)
		for j := range slice.Endpoints {
			ep := &slice.Endpoints[j]
			total++
			switch {
			case slice.Headless:
				headless++
			case slice.AddressType != id.Family.String():
				family++
			case why != "":
				named++
			case ep.Terminating && !ep.Serving:
				dying++
			case !ep.Ready:
				unready++
			}
		}
	}
	switch {
	case total == 0:
		e.noneAtAll(s)
	case named > 0:
		e.find(WrongPortName, "make the names of the Service's port and of the EndpointSlice's (targetPort of a selector's Service) agree",
			"%d endpoints have no port named %q/%v: %s", named, id.Port, id.Protocol, portNames(s))
	case unready > 0:
		e.find(NotReady, "look at why the pods are not ready: `kubectl describe pod`",
			"%d of %d endpoints are not ready%s", unready, total, e.unreadyPods(s))
	case dying > 0:
		e.find(NotServing, "wait for new pods", "all %d endpoints are terminating and no longer serve", dying)
	case headless > 0:
		e.find(SlicesOfHeadless, "remove the label from the slices", "the EndpointSlices carry the label service.kubernetes.io/headless: no proxy looks at them")
	case family > 0:
		e.find(WrongFamily, "give the pods "+id.Family.String()+" addresses, or take the family out of spec.ipFamilies",
			"%d endpoints are of the other address family than this frontend (%v)", family, id.Family)
	default:
		why := "the kernel does not have them: the agent is behind, or a table is full"
		reason, mend := NotInKernel, "run `beeline status`"
		for _, b := range e.Answer.Backends {
			if b.Why != "" && !strings.HasPrefix(b.Why, "should be") {
				reason, why, mend = EndpointsRefused, b.Why, "give the endpoint an address of its own"
				break
			}
		}
		e.find(reason, mend, "%d endpoints are stated, and none is used: %s", total, why)
	}
}

func (e *explainer) noneAtAll(s *model.Stated) {
	name := s.Name.Name
	switch {
	case s.Selector == "":
		e.find(NoEndpoints, "make an EndpointSlice with the label kubernetes.io/service-name: "+name,
			"the Service has no selector, and nobody has made an EndpointSlice for it")
	case s.Pods != nil && len(s.Pods) == 0:
		e.find(SelectorMatches0, "compare the selector with `kubectl get pods -n "+s.Name.Namespace+" --show-labels`",
			"selector %s matches no pod in namespace %s", s.Selector, s.Name.Namespace)
	case len(s.Pods) > 0:
		e.find(NoEndpoints, "look at the endpointslice controller", "selector %s matches %d pods, but no EndpointSlice has them", s.Selector, len(s.Pods))
	default:
		e.find(NoEndpoints, "compare it with `kubectl get pods -n "+s.Name.Namespace+" -l "+s.Selector+"`",
			"there is no endpoint: most likely selector %s matches no pod in namespace %s", s.Selector, s.Name.Namespace)
	}
}

func (e *explainer) unreadyPods(s *model.Stated) string {
	var pods []string
	for _, p := range s.Pods {
		if !p.Ready {
			pods = append(pods, p.Name+" ("+orNone(p.Why)+")")
		}
	}
	if len(pods) == 0 {
		return ""
	}
	const shown = 3
	return ": " + strings.Join(pods[:min(len(pods), shown)], ", ")
}

func portNames(s *model.Stated) string {
	var names []string
	for _, slice := range s.Slices {
		for _, p := range slice.Ports {
			names = append(names, fmt.Sprintf("%s has %q/%s %d", slice.Name, p.Name, p.Protocol, p.Port))
		}
	}
	if len(names) == 0 {
		return "the slices have no ports"
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}
