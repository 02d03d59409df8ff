// SPDX-License-Identifier: Apache-2.0

// Package kubeproxy knows what kube-proxy puts into a node: which rules are its,
// what they decide, whether it runs, and how to take its rules away. It speaks
// netlink and starts no program (pains B17). Names are those of
// k8s.io/kubernetes/pkg/proxy, v1.37 and the releases before it that are
// supported.
package kubeproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/beeline-net/beeline/internal/netfilter"
)

// Mode is a way in which kube-proxy works.
type Mode string

// The modes.
const (
	NFTables Mode = "nftables"
	// IPTables is iptables mode with rules that the kernel keeps as nftables
	// (iptables-nft).
	IPTables Mode = "iptables"
	// Legacy is iptables mode with the kernel's older tables. They are found but
	// not taken away.
	Legacy Mode = "iptables-legacy"
	// IPVS is found but not taken away either.
	IPVS Mode = "ipvs"
)

// Presence is what kube-proxy has in this network namespace.
type Presence struct {
	// Modes are those of which there are traces; none: kube-proxy never ran here
	// or was cleaned up.
	Modes []Mode `json:"modes"`
	// Objects name what there is, for people.
	Objects []string `json:"objects"`

	// fingerprint changes when kube-proxy writes, as far as its rules are kept as
	// nftables; empty: there are none.
	fingerprint string
}

// Any reports whether there is anything.
func (p Presence) Any() bool { return len(p.Modes) > 0 }

// Removable says why Remove cannot take everything away; nil if it can.
func (p Presence) Removable() error {
	for _, m := range p.Modes {
		if m == Legacy || m == IPVS {
			return fmt.Errorf("Beeline does not remove kube-proxy's rules of mode %s; run `kube-proxy --cleanup` on the node, from kube-proxy's own image", m)
		}
	}
	return nil
}

func (p *Presence) add(m Mode, format string, args ...any) {
	if len(p.Modes) == 0 || p.Modes[len(p.Modes)-1] != m {
		p.Modes = append(p.Modes, m)
	}
	p.Objects = append(p.Objects, fmt.Sprintf(format, args...))
}

// Find looks for rules of kube-proxy. It changes nothing: not even a table of
// iptables that is not there yet comes into being.
func Find() (Presence, error) {
	var p Presence
	rules, err := read()
	if err != nil {
		return p, err
	}
	for _, t := range rules.own {
		p.add(NFTables, "table %s %s", familyName(t.Family), t.Name)
	}
	for _, t := range rules.shared {
		if n := len(t.ours); n > 0 && !t.onlyMasquerades() {
			p.add(IPTables, "table %s %s: %d chains", familyName(t.table.Family), t.table.Name, n)
		}
	}
	if p.Any() {
		if p.fingerprint, err = rules.fingerprint(); err != nil {
			return p, err
		}
	}
	if err := findLegacy(&p); err != nil {
		return p, err
	}
	return p, findIPVS(&p)
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

// findLegacy looks into the iptables of old.
func findLegacy(p *Presence) error {
	tables, err := netfilter.LegacyTables()
	for _, t := range tables {
		if slices.Contains(sharedTables[:], t.Name) && t.Mentions("KUBE-SERVICES\x00") {
			p.add(Legacy, "table %s of %s-legacy", t.Name, t.Program)
		}
	}
	return err
}

// findIPVS looks for virtual servers, which kube-proxy makes in mode ipvs only;
// others may have made them, too.
func findIPVS(p *Presence) error {
	if _, err := os.Stat("/sys/class/net/kube-ipvs0"); err == nil {
		p.add(IPVS, "device kube-ipvs0")
		return nil
	}
	text, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for ipvs: %w", err)
	}
	if n := bytes.Count(text, []byte("\nTCP ")) + bytes.Count(text, []byte("\nUDP ")); n > 0 {
		p.add(IPVS, "%d virtual servers", n)
	}
	return nil
}

// table is kube-proxy's own one in mode nftables.
const table = "kube-proxy"

// sharedTables are those of iptables that kube-proxy writes to in mode iptables.
var sharedTables = [...]string{"nat", "filter", "mangle"}

// ownChains are the chains of mode iptables with fixed names (iptablesJumpChains
// in pkg/proxy/iptables, and of older releases). KUBE-FIREWALL and the canaries
// of the kubelet are not among them: kube-proxy's own cleanup leaves them, too.
var ownChains = [...]string{
	"KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING",
	"KUBE-MARK-MASQ", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY",
}

// ownPrefixes begin the names of the chains that Services and endpoints have.
var ownPrefixes = [...]string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"}

// hashLen is how long the rest of these names is (servicePortChainName).
const hashLen = 16

// ownChain reports whether a chain of mode iptables is kube-proxy's.
func ownChain(name string) bool {
	for _, own := range ownChains {
		if name == own {
			return true
		}
	}
	for _, prefix := range ownPrefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok && len(rest) == hashLen {
			return true
		}
	}
	return false
}
