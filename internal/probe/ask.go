// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/plan"
)

// Asker answers questions about one node.
type Asker struct {
	Pins    datapath.Pins
	Kernel  *Kernel
	Objects Objects
	// From is the client: node, pod/NAMESPACE/NAME, or an address with or
	// without a port.
	From string
	// Device, Netns and PacketsOnly as in Client.
	Device, Netns string
	PacketsOnly   bool
	// Front is what else on the node could decide first.
	Front []explain.Finding
}

// UsageError is about what was asked.
type UsageError struct{ error }

// NotFoundError says that what was asked about is not known.
type NotFoundError struct{ error }

func usage(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

func notFound(format string, args ...any) error { return NotFoundError{fmt.Errorf(format, args...)} }

// Answers explains a target: a protocol and ADDRESS:PORT, or
// svc/NAMESPACE/NAME[:PORT], of which every port of its ClusterIPs is meant if
// none is named.
func (x *Asker) Answers(ctx context.Context, args []string) ([]explain.Answer, error) {
	if len(args) == 2 {
		protocol, err := model.ParseProtocol(strings.ToUpper(args[0]))
		if err != nil {
			return nil, UsageError{err}
		}
		target, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return nil, usage("target %q: must be ADDRESS:PORT", args[1])
		}
		target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
		a, err := x.answer(ctx, explain.Question{Protocol: protocol, Target: target})
		return []explain.Answer{a}, err
	}
	name, port, err := parseService(args[0])
	if err != nil {
		return nil, err
	}
	return x.service(ctx, name, port)
}

// parseService reads svc/NAMESPACE/NAME[:PORT]; without a namespace it is in
// default.
func parseService(text string) (name model.Name, port string, err error) {
	text, port, _ = strings.Cut(strings.TrimPrefix(text, "svc/"), ":")
	namespace, service, ok := strings.Cut(text, "/")
	if !ok {
		namespace, service = "default", text
	}
	if service == "" || namespace == "" || strings.Contains(service, "/") {
		return name, "", usage("svc/%s: must be svc/NAMESPACE/NAME[:PORT]", text)
	}
	return model.Name{Namespace: namespace, Name: service}, port, nil
}

// service asks about every port of a Service, or about one.
func (x *Asker) service(ctx context.Context, name model.Name, port string) ([]explain.Answer, error) {
	facts, err := x.Objects.Facts(ctx, x.Pins, explain.Query{Service: name})
	if err != nil {
		return nil, err
	}
	targets := kernelTargets(x.Kernel.Services(), name)
	if facts != nil {
		for i := range facts.Stated {
			targets = append(targets, statedTargets(&facts.Stated[i])...)
		}
	}
	var answers []explain.Answer
	seen := map[explain.Question]bool{}
	for _, t := range targets {
		q := explain.Question{Protocol: t.protocol, Target: t.at, Service: name}
		if port != "" && port != t.name && port != strconv.Itoa(int(t.at.Port())) || seen[q] {
			continue
		}
		seen[q] = true
		a, err := x.answer(ctx, q)
		if err != nil {
			return nil, err
		}
		answers = append(answers, a)
	}
	if len(answers) > 0 {
		return answers, nil
	}
	if port != "" && len(targets) > 0 {
		return nil, notFound("Service %v has no port %q; it has: %s", name, port, portList(targets))
	}
	a := explain.Explain(explain.Input{Question: explain.Question{Service: name}, Facts: facts})
	if facts == nil || len(facts.Stated) == 0 {
		return nil, notFound("Service %v is neither in the kernel nor known to whoever was asked", name)
	}
	return []explain.Answer{a}, nil
}

// serviceTarget is a ClusterIP frontend of a Service.
type serviceTarget struct {
	name     string
	protocol model.Protocol
	at       netip.AddrPort
}

func kernelTargets(services []plan.Service, name model.Name) (all []serviceTarget) {
	for _, s := range services {
		if s.Name != name {
			continue
		}
		for _, p := range s.Ports {
			for _, f := range p.Frontends {
				if f.Kind == plan.ClusterIP {
					all = append(all, serviceTarget{p.ID.Port, p.ID.Protocol, netip.AddrPortFrom(f.Addr, f.Port)})
				}
			}
		}
	}
	return all
}

func statedTargets(s *model.Stated) (all []serviceTarget) {
	if s.OtherProxy != nil {
		return nil // its reason is not a matter of ports
	}
	for _, text := range s.ClusterIPs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		for _, p := range s.Ports {
			protocol, err := model.ParseProtocol(p.Protocol)
			if err == nil && p.Port > 0 && p.Port <= 65535 {
				all = append(all, serviceTarget{p.Name, protocol, netip.AddrPortFrom(addr.Unmap(), uint16(p.Port))})
			}
		}
	}
	return all
}

func portList(targets []serviceTarget) string {
	var names []string
	for _, t := range targets {
		names = append(names, fmt.Sprintf("%s (%d/%v)", named(t.name), t.at.Port(), t.protocol))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ", ")
}

// answer asks the kernel and whoever knows the objects.
func (x *Asker) answer(ctx context.Context, q explain.Question) (explain.Answer, error) {
	client, err := x.client(ctx, q.Target.Addr())
	if err != nil {
		return explain.Answer{}, err
	}
	in := explain.Input{Question: q, Front: x.Front}
	if in.Kernel, err = x.Kernel.Ask(q.Protocol, q.Target, client); err != nil {
		return explain.Answer{}, err
	}
	in.Question.Client = client.Client
	query := explain.Query{Service: q.Service, Address: q.Target.Addr()}
	if known := explain.Owner(in); known.Name != "" && q.Service.Name == "" {
		query.Service = known
	}
	if in.Facts, err = x.Objects.Facts(ctx, x.Pins, query); err != nil {
		return explain.Answer{}, err
	}
	return explain.Explain(in), nil
}

// client understands --from.
func (x *Asker) client(ctx context.Context, target netip.Addr) (*Client, error) {
	c := &Client{Device: x.Device, Netns: x.Netns, PacketsOnly: x.PacketsOnly}
	if x.From == "node" || x.From == "" {
		source, err := x.Kernel.Source(target)
		c.Addr, c.Scope, c.Text = source, oracle.Node, fmt.Sprintf("this node (%v)", source)
		return c, err
	}
	if pod, ok := strings.CutPrefix(x.From, "pod/"); ok {
		return c, x.pod(ctx, c, pod, target)
	}
	if ap, err := netip.ParseAddrPort(x.From); err == nil {
		c.Addr, c.Port, c.Text = ap.Addr().Unmap(), ap.Port(), x.From
	} else if addr, err := netip.ParseAddr(x.From); err == nil {
		c.Addr, c.Text = addr.Unmap(), x.From
	} else {
		return nil, usage("--from %q: must be node, pod/NAMESPACE/NAME, or an address with or without a port", x.From)
	}
	if model.FamilyOf(c.Addr) != model.FamilyOf(target) {
		return nil, usage("--from %s: is not %v, as %v is", x.From, model.FamilyOf(target), target)
	}
	return c, nil
}

// pod finds a pod's address of the target's family.
func (x *Asker) pod(ctx context.Context, c *Client, text string, target netip.Addr) error {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" {
		return usage("--from pod/%s: must be pod/NAMESPACE/NAME", text)
	}
	facts, err := x.Objects.Facts(ctx, x.Pins, explain.Query{Pod: model.Name{Namespace: namespace, Name: name}})
	if err != nil {
		return err
	}
	if facts != nil {
		addrs, node := facts.Pod(model.Name{Namespace: namespace, Name: name})
		for _, a := range addrs {
			if model.FamilyOf(a) != model.FamilyOf(target) {
				continue
			}
			c.Addr, c.Scope, c.Text = a, oracle.Pod, fmt.Sprintf("pod %s/%s (%v)", namespace, name, a)
			c.ElsewhereSockets = node != "" && facts.Node != "" && node != facts.Node
			return nil
		}
	}
	return notFound("pod %s/%s: nobody who was asked knows its %v address (it is no endpoint of a Service, and pods may not be listed): pass the address instead",
		namespace, name, model.FamilyOf(target))
}

func named(port string) string {
	if port == "" {
		return "-"
	}
	return port
}
