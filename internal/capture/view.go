// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/model"
)

// View is a packet with names.
type View struct {
	Time   time.Time `json:"time"`
	Device string    `json:"device"`
	// Direction is "in" or "out", as the device sees it.
	Direction string  `json:"direction"`
	Protocol  string  `json:"protocol"`
	Outcome   Outcome `json:"outcome"`
	// Service is whose frontend one of the ends is, before or after.
	Service *inspect.ServicePort `json:"service,omitempty"`
	// Reason is why it is dropped or answered; Meaning says it in words.
	Reason  string `json:"reason,omitempty"`
	Meaning string `json:"meaning,omitempty"`
	// Length of the packet as it came, with its link header.
	Length int  `json:"length"`
	Before *Way `json:"before"`
	After  *Way `json:"after,omitempty"`
}

// Way is from whom a packet is, and for whom.
type Way struct {
	Source      inspect.Party `json:"source"`
	Destination inspect.Party `json:"destination"`
	// ICMPType is that of ICMP or ICMPv6.
	ICMPType *uint8 `json:"icmpType,omitempty"`
	// Quoted is the packet that an ICMP error is about.
	Quoted *Way `json:"quoted,omitempty"`
}

func (w *Way) String() string {
	if w == nil {
		return "?"
	}
	s := fmt.Sprintf("%v → %v", w.Source, w.Destination)
	if w.Quoted != nil {
		s += fmt.Sprintf(" about (%v)", w.Quoted)
	}
	return s
}

// Line is the view as one line of text, without its time.
func (v View) Line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %-3s  %-6s  %v", v.Device, v.Direction, v.Protocol, v.Before)
	switch v.Outcome {
	case Left:
		b.WriteString("  left as it is")
	case Dropped:
		b.WriteString("  dropped")
	case Answered:
		fmt.Fprintf(&b, "  answered: %v", v.After)
	default:
		fmt.Fprintf(&b, "  becomes  %v", v.After)
	}
	if v.Service != nil {
		fmt.Fprintf(&b, "  %v", v.Service)
	}
	if v.Reason != "" {
		fmt.Fprintf(&b, "  %s", v.Reason)
	}
	if v.Meaning != "" {
		fmt.Fprintf(&b, ": %s", v.Meaning)
	}
	return b.String()
}

// Comment is what stands with the packet in a file.
func (v View) Comment() string {
	words := []string{string(v.Outcome)}
	if v.Service != nil {
		words = append(words, v.Service.String())
	}
	if v.Reason != "" {
		words = append(words, v.Reason)
	}
	if v.Meaning != "" {
		words = append(words, v.Meaning)
	}
	return strings.Join(words, "; ")
}

// namer gives names to packets. It belongs to one goroutine.
type namer struct {
	names  *inspect.Names
	ends   *inspect.Ends
	device func(ifindex uint32) string
	offset time.Duration // of the time of day to the kernel's clock
}

func (n *namer) view(p *Packet) View {
	v := View{
		Time:      time.Unix(0, int64(p.Nanoseconds)+int64(n.offset)),
		Device:    n.device(p.Ifindex),
		Direction: "in",
		Protocol:  protocolName(p.Before.Protocol),
		Outcome:   p.Outcome,
		Service:   n.service(p),
		Length:    p.Before.Length,
		Before:    n.way(&p.Before),
	}
	if p.Outgoing {
		v.Direction = "out"
	}
	if len(p.After.Bytes) > 0 {
		v.After = n.way(&p.After)
	}
	if p.Outcome == Dropped || p.Outcome == Answered {
		for _, c := range p.Counted {
			if v.Meaning = inspect.Meaning(c.String()); v.Meaning != "" {
				v.Reason = c.String()
				break
			}
		}
	}
	return v
}

// service finds whose packet it is: before, a request is for a frontend; after,
// a reply is from one.
func (n *namer) service(p *Packet) *inspect.ServicePort {
	for _, e := range []*Ends{&p.Before.Ends, p.Before.Quoted, &p.After.Ends, p.After.Quoted} {
		if e == nil {
			continue
		}
		if index, ok := n.ends.Service(e.Dst, e.Protocol); ok {
			return n.names.Service(index)
		}
		if index, ok := n.ends.Service(e.Src, e.Protocol); ok {
			return n.names.Service(index)
		}
	}
	return nil
}

func (n *namer) way(s *Side) *Way {
	w := &Way{Source: n.names.Party(s.Src), Destination: n.names.Party(s.Dst)}
	if !isICMP(s.Protocol) {
		return w
	}
	// There are no ports.
	w.Source.Address, w.Destination.Address = s.Src.Addr().String(), s.Dst.Addr().String()
	w.ICMPType = &s.ICMPType
	if q := s.Quoted; q != nil {
		w.Quoted = &Way{Source: n.names.Party(q.Src), Destination: n.names.Party(q.Dst)}
	}
	return w
}

func protocolName(p uint8) string {
	switch p {
	case protocolICMP:
		return "ICMP"
	case protocolICMPv6:
		return "ICMPv6"
	}
	return model.Protocol(p).String()
}
