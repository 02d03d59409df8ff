// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Packet is the first packet of a flow, as it comes in.
type Packet struct {
	Protocol uint8 // IPPROTO_*
	Src, Dst netip.AddrPort
	// Device is where it came in; empty for what the node itself sends.
	Device string
	// SrcLocal and DstLocal: they are addresses of the node.
	SrcLocal, DstLocal bool
}

// Verdict is what becomes of a packet.
type Verdict uint8

// The verdicts.
const (
	Pass Verdict = iota
	Translate
	Reject
	Drop
)

func (v Verdict) String() string { return [...]string{"pass", "translate", "reject", "drop"}[v] }

// Decision is what rules decide about a packet.
type Decision struct {
	Verdict Verdict
	// Backends are where it may be sent, and whether its source is translated.
	Backends map[netip.AddrPort]bool
}

// Ask says what the rules decide. An error says what of them is not understood.
func (r *Ruleset) Ask(p Packet) (Decision, error) {
	d := Decision{Backends: map[netip.AddrPort]bool{}}
	for _, stage := range stages(p) {
		for _, t := range r.tables {
			if t.of(p) && t.mode == stage.mode && t.name == stage.table {
				m := machine{rules: t, packet: p, decision: &d}
				if err := m.chain(stage.chain, state{}, 0, func(state) error { return nil }); err != nil {
					return d, err
				}
			}
		}
		if d.Verdict != Pass {
			break
		}
	}
	return d, nil
}

func (r *rules) of(p Packet) bool {
	return p.Dst.Addr().Is4() == (r.family == nftables.TableFamilyIPv4)
}

// stage is a chain where the way of a packet leads through.
type stage struct {
	mode  Mode
	table string
	chain string
}

// stages are kube-proxy's chains in the order in which a packet meets them; of
// iptables' tables only what is kube-proxy's. After a translation no filter
// concerns it any more.
func stages(p Packet) []stage {
	filter, hook := []string{"KUBE-PROXY-FIREWALL", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES"}, "filter-forward"
	if p.DstLocal {
		filter, hook = []string{"KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"}, "filter-input"
	}
	pre, nat := "filter-prerouting-pre-dnat", "nat-prerouting"
	if p.Device == "" {
		pre, nat, hook = "filter-output-pre-dnat", "nat-output", "filter-output"
		filter = []string{"KUBE-SERVICES", "KUBE-PROXY-FIREWALL"}
	}
	all := []stage{{NFTables, table, pre}, {NFTables, table, nat}, {NFTables, table, hook}, {IPTables, "nat", "KUBE-SERVICES"}}
	for _, chain := range filter {
		all = append(all, stage{IPTables, "filter", chain})
	}
	return all
}

// deepest is how far chains may lead to one another; the kernel's own limit
// (NFT_JUMP_STACK_SIZE) is lower.
const deepest = 32

// state is what rules hand on: registers, and the packet's mark.
type state struct {
	regs [80]byte // struct nft_regs: five of 16 bytes, the first is the verdict's
	mark uint32
}

// register returns where a register is (nft_parse_register).
func (s *state) register(n, size uint32) ([]byte, error) {
	at := n * 16
	if n >= unix.NFT_REG32_00 {
		at = (n - unix.NFT_REG32_00 + 4) * 4
	}
	if int(at+size) > len(s.regs) {
		return nil, fmt.Errorf("register %d of %d bytes", n, size)
	}
	return s.regs[at : at+size], nil
}

// machine runs rules on a packet. Where they throw dice it goes every way.
type machine struct {
	*rules
	packet   Packet
	decision *Decision
}

// then goes on after rules that have not decided.
type then func(state) error

// chain runs a chain; a packet that it does not decide about goes on with next.
func (m *machine) chain(name string, s state, depth int, next then) error {
	if depth > deepest {
		return fmt.Errorf("chain %s: %d deep", name, depth)
	}
	return m.rule(name, m.chains[name], s, depth, next)
}

func (m *machine) rule(chain string, rest []*nftables.Rule, s state, depth int, next then) error {
	if len(rest) == 0 {
		return next(s)
	}
	rule, rest := rest[0], rest[1:]
	onward := func(s state) error { return m.rule(chain, rest, s, depth, next) }
	if err := m.exprs(rule.Exprs, s, depth, onward, next); err != nil {
		return fmt.Errorf("chain %s, rule %d: %w", chain, rule.Handle, err)
	}
	return nil
}

// exprs runs what is left of a rule. onward goes on with the next rule, leave
// with what follows the chain.
func (m *machine) exprs(rest []expr.Any, s state, depth int, onward, leave then) error {
	for i, e := range rest {
		switch e := e.(type) {
		case *expr.Numgen: // every number is possible
			for n := range e.Modulus {
				branch := s
				reg, err := branch.register(e.Register, 4)
				if err != nil {
					return err
				}
				binary.NativeEndian.PutUint32(reg, n+e.Offset)
				if err := m.exprs(rest[i+1:], branch, depth, onward, leave); err != nil {
					return err
				}
			}
			return nil
		case *expr.Verdict:
			return m.verdict(e, s, depth, onward, leave)
		case *expr.Lookup:
			found, err := m.lookup(e, &s)
			if err != nil {
				return err
			}
			if (found != nil) == e.Invert {
				return onward(s)
			}
			if found != nil && e.IsDestRegSet && e.DestRegister != unix.NFT_REG_VERDICT {
				to, err := s.register(e.DestRegister, uint32(len(found.Val)))
				if err != nil {
					return err
				}
				copy(to, found.Val)
			} else if found != nil && e.IsDestRegSet {
				v, err := verdictOf(found)
				if err != nil {
					return err
				}
				return m.verdict(v, s, depth, onward, leave)
			}
		case *expr.Match:
			matches, perhaps, err := m.match(e)
			if err != nil {
				return err
			}
			if perhaps {
				if err := onward(s); err != nil {
					return err
				}
			} else if !matches {
				return onward(s)
			}
		default:
			goesOn, decided, err := m.simple(e, &s)
			switch {
			case err != nil || decided:
				return err
			case !goesOn:
				return onward(s)
			}
		}
	}
	return onward(s)
}

func (m *machine) verdict(v *expr.Verdict, s state, depth int, onward, leave then) error {
	switch v.Kind {
	case expr.VerdictJump:
		return m.chain(v.Chain, s, depth+1, onward)
	case expr.VerdictGoto:
		return m.chain(v.Chain, s, depth+1, leave)
	case expr.VerdictReturn:
		return leave(s)
	case expr.VerdictDrop:
		m.decide(Drop)
	case expr.VerdictAccept:
	default:
		return fmt.Errorf("verdict %d", v.Kind)
	}
	return nil
}

func (m *machine) decide(v Verdict) { m.decision.Verdict = v }

func (m *machine) translate(to netip.AddrPort, s state) {
	m.decide(Translate)
	m.decision.Backends[to] = s.mark != 0 || m.decision.Backends[to]
}

func (m *machine) lookup(e *expr.Lookup, s *state) (*nftables.SetElement, error) {
	in := m.sets[e.SetName]
	if in == nil {
		return nil, fmt.Errorf("set %s is not there", e.SetName)
	}
	if len(in.elements) == 0 {
		return nil, nil //nolint:nilnil // nothing is found, which is no error
	}
	key, err := s.register(e.SourceRegister, uint32(len(in.elements[0].Key)))
	if err != nil {
		return nil, err
	}
	found, ok := in.find(key)
	if !ok {
		return nil, nil //nolint:nilnil // as above
	}
	return found, nil
}

// simple runs an expression that goes one way. goesOn: the rule's next one
// follows; decided: the packet's way ends here.
func (m *machine) simple(e expr.Any, s *state) (goesOn, decided bool, err error) {
	switch e := e.(type) {
	case *expr.Meta:
		return true, false, m.meta(e, s)
	case *expr.Payload:
		return true, false, m.payload(e, s)
	case *expr.Fib:
		return true, false, m.fib(e, s)
	case *expr.Ct:
		return true, false, m.ct(e, s)
	case *expr.Bitwise:
		return true, false, bitwise(e, s)
	case *expr.Immediate:
		reg, err := s.register(e.Register, uint32(len(e.Data)))
		copy(reg, e.Data)
		return true, false, err
	case *expr.Cmp:
		goesOn, err = compare(e, s)
		return goesOn, false, err
	case *expr.Counter, *expr.Dynset, *expr.Objref, *expr.Log, *expr.Masq:
		return true, false, nil
	case *expr.Reject:
		m.decide(Reject)
		return false, true, nil
	case *expr.NAT:
		return false, true, m.nat(e, s)
	case *expr.Target:
		return m.target(e, s)
	}
	return false, false, fmt.Errorf("expression %T", e)
}

func (m *machine) nat(e *expr.NAT, s *state) error {
	addr, err := s.register(e.RegAddrMin, uint32(addrLen(m.family)))
	if err != nil {
		return err
	}
	port := m.packet.Dst.Port()
	if e.RegProtoMin != 0 {
		reg, err := s.register(e.RegProtoMin, 2)
		if err != nil {
			return err
		}
		port = binary.BigEndian.Uint16(reg)
	}
	to, _ := netip.AddrFromSlice(addr)
	m.translate(netip.AddrPortFrom(to, port), *s)
	return nil
}

func (m *machine) meta(e *expr.Meta, s *state) error {
	size := uint32(4)
	if e.Key == expr.MetaKeyIIFNAME || e.Key == expr.MetaKeyOIFNAME {
		size = unix.IFNAMSIZ
	}
	reg, err := s.register(e.Register, size)
	if err != nil {
		return err
	}
	if e.SourceRegister {
		if e.Key == expr.MetaKeyMARK {
			s.mark = binary.NativeEndian.Uint32(reg)
		}
		return nil
	}
	clear(reg)
	switch e.Key {
	case expr.MetaKeyL4PROTO:
		reg[0] = m.packet.Protocol
	case expr.MetaKeyNFPROTO:
		reg[0] = byte(m.family)
	case expr.MetaKeyMARK:
		binary.NativeEndian.PutUint32(reg, s.mark)
	case expr.MetaKeyIIFNAME:
		copy(reg, m.packet.Device)
	case expr.MetaKeyOIFNAME:
	default:
		return fmt.Errorf("meta key %d", e.Key)
	}
	return nil
}

func (m *machine) payload(e *expr.Payload, s *state) error {
	reg, err := s.register(e.DestRegister, (e.Len+3)/4*4)
	if err != nil {
		return err
	}
	clear(reg)
	header := m.header(e.Base)
	if int(e.Offset+e.Len) > len(header) {
		return fmt.Errorf("payload base %d, offset %d, length %d", e.Base, e.Offset, e.Len)
	}
	copy(reg, header[e.Offset:e.Offset+e.Len])
	return nil
}

// header is as much of the packet's headers as rules may look at.
func (m *machine) header(base expr.PayloadBase) []byte {
	if base == expr.PayloadBaseTransportHeader {
		h := make([]byte, 4)
		binary.BigEndian.PutUint16(h, m.packet.Src.Port())
		binary.BigEndian.PutUint16(h[2:], m.packet.Dst.Port())
		return h
	}
	src, dst := m.packet.Src.Addr().AsSlice(), m.packet.Dst.Addr().AsSlice()
	if m.family == nftables.TableFamilyIPv4 {
		h := make([]byte, 12, 20)
		h[0], h[9] = 0x45, m.packet.Protocol
		return append(append(h, src...), dst...)
	}
	h := make([]byte, 8, 40)
	h[0], h[6] = 0x60, m.packet.Protocol
	return append(append(h, src...), dst...)
}

func (m *machine) fib(e *expr.Fib, s *state) error {
	reg, err := s.register(e.Register, 4)
	if err != nil {
		return err
	}
	if !e.ResultADDRTYPE {
		return fmt.Errorf("fib that is not about the type of an address")
	}
	local := e.FlagSADDR && m.packet.SrcLocal || e.FlagDADDR && m.packet.DstLocal
	kind := uint32(unix.RTN_UNICAST)
	if local {
		kind = unix.RTN_LOCAL
	}
	binary.NativeEndian.PutUint32(reg, kind)
	return nil
}

// ct: the packet is the first of its flow.
func (m *machine) ct(e *expr.Ct, s *state) error {
	reg, err := s.register(e.Register, 4)
	if err != nil {
		return err
	}
	switch {
	case e.Key == expr.CtKeySTATE && !e.SourceRegister:
		binary.NativeEndian.PutUint32(reg, expr.CtStateBitNEW)
	case e.Key == expr.CtKeySTATUS && !e.SourceRegister:
		clear(reg)
	default:
		return fmt.Errorf("ct key %d", e.Key)
	}
	return nil
}

func bitwise(e *expr.Bitwise, s *state) error {
	from, err := s.register(e.SourceRegister, e.Len)
	if err != nil {
		return err
	}
	to, err := s.register(e.DestRegister, e.Len)
	if err != nil || len(e.Mask) < int(e.Len) || len(e.Xor) < int(e.Len) {
		return fmt.Errorf("bitwise operation of %d bytes: %w", e.Len, err)
	}
	for i := range to {
		to[i] = from[i]&e.Mask[i] ^ e.Xor[i]
	}
	return nil
}

func compare(e *expr.Cmp, s *state) (bool, error) {
	reg, err := s.register(e.Register, uint32(len(e.Data)))
	if err != nil {
		return false, err
	}
	order := bytes.Compare(reg, e.Data)
	switch e.Op {
	case expr.CmpOpEq:
		return order == 0, nil
	case expr.CmpOpNeq:
		return order != 0, nil
	case expr.CmpOpLt:
		return order < 0, nil
	case expr.CmpOpLte:
		return order <= 0, nil
	case expr.CmpOpGt:
		return order > 0, nil
	case expr.CmpOpGte:
		return order >= 0, nil
	}
	return false, fmt.Errorf("comparison %d", e.Op)
}
