// SPDX-License-Identifier: Apache-2.0

// Package explain says why a packet to a Service goes where it goes, or does
// not. It puts together three accounts of the same thing: what the kernel's
// tables make of it, what the real program answered in a dry run, and what the
// objects say that both came from. It is pure: whoever asks brings all three,
// and what is missing is said to be unknown.
package explain

import (
	"fmt"
	"net/netip"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// Question is what somebody wants to know.
type Question struct {
	Protocol model.Protocol
	// Target is where the client connects to.
	Target netip.AddrPort
	// Service is the one asked for by name; zero if an address was asked for.
	Service model.Name
	Client  Client
}

// Client is who connects.
type Client struct {
	// Addr is where its packets come from; not valid for a Service's own view.
	Addr netip.Addr
	// Scope, if the asker knows; Unknown leaves it to the node's detection.
	Scope oracle.Scope
	// Text names it for people.
	Text string
	// ElsewhereSockets: its sockets are not this kernel's to see: outside, on
	// another node, or in a VM.
	ElsewhereSockets bool
}

// Kernel is what the kernel of this node has.
type Kernel struct {
	// View are the tables, read back.
	View oracle.View
	// Node is this node's name, empty if nobody knows.
	Sockets Sockets
	// Packet is what the packet path has to say.
	Packet Packet
}

// Sockets is the state of the socket hooks.
type Sockets struct {
	// Broken says what is wrong with the hooks; empty if they are in place.
	Broken string
	// LeftAlone says why the hooks leave this client alone on purpose, so that its
	// packets carry the Service's address; empty if they do not.
	LeftAlone string
	// Unsure says what could not be told about the hooks and this client; may be
	// empty.
	Unsure string
	// Pinned is the backend that session affinity holds for this client, not
	// valid for none. PinUnknown: nobody could look.
	Pinned     netip.AddrPort
	PinUnknown bool
}

// Packet is what the packet path says.
type Packet struct {
	// Off says why there is none, or none where the client's packets come in;
	// empty if there is.
	Off string
	// ClosedClusterIPs: clients outside may not use ClusterIPs.
	ClosedClusterIPs bool
	// MasqueradeLocal: backends of this node see the node, too, where an
	// external policy says so; else they see the client (ADR 0015).
	MasqueradeLocal bool
	// ServiceRanges are those of which ClusterIPs are taken: connections to what
	// no Service has there are dropped.
	ServiceRanges []netip.Prefix
	Pinned        netip.AddrPort
	// Scope is where the device takes its clients to be; Unknown: their
	// addresses tell.
	Scope oracle.Scope
	// Device and Direction are where the packet was asked about.
	Device, Direction string
	// Run is the program's answer; nil if it could not be asked, and NotRun
	// says why.
	Run    *Run
	NotRun string
}

// Run is what the real program did in a dry run.
type Run struct {
	Program string `json:"program"`
	Tag     string `json:"tag"`
	// OtherThanLive: the program on the device is not the one that was asked.
	OtherThanLive bool `json:"otherThanLive,omitempty"`
	// Established: the packet belongs to a flow that there is.
	Established bool           `json:"established,omitempty"`
	Verdict     oracle.Verdict `json:"-"`
	Scope       oracle.Scope   `json:"-"`
	// Backend is the one that it chose this time; Source what that would see.
	Backend netip.AddrPort `json:"backend,omitzero"`
	Source  netip.AddrPort `json:"source,omitzero"`
	// Reasons are the counters that it would have incremented.
	Reasons []string `json:"reasons,omitempty"`
	// Note is what else it tells.
	Note string `json:"note,omitempty"`
}

// Facts is what the objects say.
type Facts struct {
	// From names who told: the agent, a folder, an API server.
	From string
	// Node and Zone are this node's, as endpoints and hints name them.
	Node, Zone string
	// Stated are the Services that the question could be about.
	Stated []model.Stated
	// Problems are what the plan leaves out of them; PlanKnown: somebody
	// planned.
	Problems  []plan.Problem
	PlanKnown bool
}

// Input is everything that an explanation is made of.
type Input struct {
	Question Question
	Kernel   Kernel
	// Facts is nil if nobody could tell.
	Facts *Facts
	// Front are what else could stop the packet on this node.
	Front []Finding
}

// Answer is an explanation.
type Answer struct {
	Target   string `json:"target"`
	Protocol string `json:"protocol"`
	Client   string `json:"client,omitempty"`
	// Service, Port and Frontend are what the target is.
	Service  string `json:"service,omitempty"`
	Port     string `json:"port,omitempty"`
	Frontend string `json:"frontend,omitempty"`
	// Verdict is translate, reject, drop or pass; Reason is one of the Reason
	// constants.
	Verdict string `json:"verdict"`
	Reason  Reason `json:"reason"`
	// Becomes says what the client sees.
	Becomes string `json:"becomes"`
	// Paths are the ways that were asked, in order.
	Paths []Path `json:"paths"`
	// Backends are all endpoints of the port, eligible or not.
	Backends []Backend `json:"backends"`
	// Findings are the reasons in words, the first is the verdict's.
	Findings []Finding `json:"findings"`
	// Unknown is what could not be looked at.
	Unknown []string `json:"unknown,omitempty"`
	// Disagreements: two accounts of the same thing differ. Always a bug, or a
	// table that changed meanwhile.
	Disagreements []string `json:"disagreements,omitempty"`
}

// Works reports whether the client reaches a backend.
func (a Answer) Works() bool { return a.Verdict == oracle.Translate.String() }

// Path is what one hook makes of the packet.
type Path struct {
	// Name is sockets or packets.
	Name string `json:"name"`
	// AnsweredBy says who was asked.
	AnsweredBy string   `json:"answeredBy"`
	Verdict    string   `json:"verdict"`
	Steps      []string `json:"steps"`
	Run        *Run     `json:"run,omitempty"`

	answer oracle.Answer
}

// Backend is an endpoint of the port that was asked for.
type Backend struct {
	Address  string `json:"address"`
	Pod      string `json:"pod,omitempty"`
	Node     string `json:"node,omitempty"`
	Eligible bool   `json:"eligible"`
	// SourceNAT: it sees an address of this node instead of the client's.
	SourceNAT bool `json:"sourceNAT,omitempty"`
	// Why is the reason if it is not eligible, or a remark.
	Why string `json:"why,omitempty"`
}

// Explain puts the accounts together.
func Explain(in Input) Answer {
	e := explainer{Input: in, oracle: oracle.New(in.Kernel.View)}
	q := in.Question
	e.Target, e.Protocol, e.Client = q.Target.String(), q.Protocol.String(), q.Client.Text
	e.Answer.Backends, e.Findings, e.Paths = []Backend{}, []Finding{}, []Path{}
	if q.Target.IsValid() {
		e.ask()
	} else {
		e.Target, e.Verdict, e.Reason = q.Service.String(), oracle.Pass.String(), NotAService
		e.absent()
	}
	e.unknowns()
	e.inFront()
	e.outcome()
	return e.Answer
}

// Owner is the Service whose frontend the target is in the kernel; zero if it is
// nobody's.
func Owner(in Input) model.Name {
	q := in.Question
	return oracle.New(in.Kernel.View).Ask(oracle.Packet{
		Protocol: q.Protocol, Source: q.Client.Addr, Destination: q.Target, Scope: q.Client.Scope,
	}).Port.Service
}

// explainer makes one Answer.
type explainer struct {
	Input
	Answer
	oracle *oracle.Oracle
	// verdict is that of the path that decided.
	verdict oracle.Verdict
	decided oracle.Answer
}

// ask asks the hooks in the order in which a packet meets them.
func (e *explainer) ask() {
	sockets := e.askSockets()
	packets := e.askPackets()
	var asked []*Path
	if sockets != nil {
		asked = append(asked, sockets)
	}
	if packets != nil {
		asked = append(asked, packets)
	}
	for i, p := range asked {
		e.Paths = append(e.Paths, *p)
		if e.verdict == oracle.Pass && (p.answer.Verdict != oracle.Pass || i == 0) {
			e.verdict, e.decided = p.answer.Verdict, p.answer
		}
	}
	e.Verdict = e.verdict.String()
	e.match()
	e.backends()
	e.why()
}

// askSockets says what the socket hooks do; nil if they never see the client.
func (e *explainer) askSockets() *Path {
	if e.Question.Client.ElsewhereSockets {
		return nil
	}
	p := &Path{Name: "sockets", AnsweredBy: "the oracle, on tables read from the kernel (the kernel has no test run for these hooks)"}
	if broken := e.Kernel.Sockets.Broken; broken != "" {
		p.Verdict, p.Steps = oracle.Pass.String(), []string{"the hooks do not see the client: " + broken}
		return p
	}
	if why := e.Kernel.Sockets.LeftAlone; why != "" {
		p.Verdict, p.Steps = oracle.Pass.String(), []string{"the hooks leave the client alone, and its packets carry the Service's address: " + why}
		return p
	}
	p.answer = e.oracle.AskSocket(e.packet(e.Kernel.Sockets.Pinned, e.Question.Client.Scope))
	p.Verdict, p.Steps = p.answer.Verdict.String(), p.answer.Steps
	return p
}

// askPackets says what the packet path does; nil if there is none.
func (e *explainer) askPackets() *Path {
	k := e.Kernel.Packet
	if k.Off != "" {
		return nil
	}
	p := &Path{Name: "packets", AnsweredBy: "the oracle, on tables read from the kernel", Run: k.Run}
	p.answer = e.oracle.Ask(e.packet(k.Pinned, k.Scope))
	if f := p.answer.Frontend; k.ClosedClusterIPs && f != nil && f.Kind == plan.ClusterIP && p.answer.Scope == oracle.External {
		p.answer.Verdict, p.answer.Backends = oracle.Drop, nil
		p.answer.Steps = append(p.answer.Steps, "ClusterIPs are closed to clients outside")
	}
	e.keepClient(&p.answer)
	if k.Direction == "egress" {
		e.leave(p)
	}
	if k.Run != nil {
		p.AnsweredBy = "program " + k.Run.Program + " (tag " + k.Run.Tag + ") in a dry run on the live tables, as on " + k.Direction + " of " + k.Device + "; and the oracle"
		e.compare(p)
		p.answer.Verdict = k.Run.Verdict
	}
	if k.Direction != "egress" {
		e.leave(p)
	}
	p.Steps, p.Verdict = p.answer.Steps, p.answer.Verdict.String()
	return p
}

// leave drops what would leave the node for an address that only a Service could
// have. A run on the way in knows nothing of that yet.
func (e *explainer) leave(p *Path) {
	if r, ok := e.unassigned(); ok && p.answer.Frontend == nil && p.answer.Verdict == oracle.Pass {
		p.answer.Verdict = oracle.Drop
		p.answer.Steps = append(p.answer.Steps, fmt.Sprintf("the address is in the Service range %v, and no Service has it: dropped where it would leave the node", r))
	}
}

// unassigned returns the Service range that the target is in, if no Service has its
// address.
func (e *explainer) unassigned() (netip.Prefix, bool) {
	for _, s := range e.Kernel.View.Services {
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Addr == e.Question.Target.Addr() {
					return netip.Prefix{}, false
				}
			}
		}
	}
	for _, r := range e.Kernel.Packet.ServiceRanges {
		if r.Contains(e.Question.Target.Addr()) {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// keepClient shows backends of this node the client, where its packets come from
// outside to another frontend than a ClusterIP: the oracle's rules are kube-proxy's,
// and there Beeline differs (ADR 0015).
func (e *explainer) keepClient(a *oracle.Answer) {
	clusterIP := a.Frontend != nil && a.Frontend.Kind == plan.ClusterIP
	if e.Kernel.Packet.MasqueradeLocal || a.Scope != oracle.External || clusterIP {
		return
	}
	kept := false
	for i := range a.Backends {
		if b := &a.Backends[i]; b.SourceNAT && b.Local && b.Addr.Addr() != e.Question.Client.Addr {
			b.SourceNAT, kept = false, true
		}
	}
	if kept {
		a.Steps = append(a.Steps, "no source NAT to backends of this node: their answers come by here anyway")
	}
}

func (e *explainer) packet(pinned netip.AddrPort, scope oracle.Scope) oracle.Packet {
	q := e.Question
	return oracle.Packet{
		Protocol: q.Protocol, Source: q.Client.Addr, Destination: q.Target,
		Scope: scope, Device: e.Kernel.Packet.Device, Pinned: pinned,
	}
}

// unknowns says what nobody could look at.
func (e *explainer) unknowns() {
	if e.Facts == nil {
		e.Unknown = append(e.Unknown, "the objects: no agent answers, and neither --manifests nor --kubeconfig is given; what is not eligible is told from the kernel's tables alone")
	} else if !e.Facts.PlanKnown {
		e.Unknown = append(e.Unknown, "conflicts with other Services: "+e.Facts.From+" does not tell them")
	}
	if s := e.Kernel.Sockets; s.Unsure != "" && !e.Question.Client.ElsewhereSockets {
		e.Unknown = append(e.Unknown, "the socket hooks: "+s.Unsure)
	}
	if e.Kernel.Packet.Off == "" && e.Kernel.Packet.Run == nil {
		e.Unknown = append(e.Unknown, "the packet program's own answer: "+e.Kernel.Packet.NotRun)
	}
	if f := e.decided.Frontend; e.Kernel.Sockets.PinUnknown && f != nil && f.AffinityTimeout > 0 && !e.Question.Client.ElsewhereSockets {
		e.Unknown = append(e.Unknown, "session affinity of the client's sockets: its network namespace was not found on this node")
	}
}
