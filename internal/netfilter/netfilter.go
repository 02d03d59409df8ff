// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads, and only reads, the rules that other proxies and
// administrators have on this node: nf_tables, whoever wrote into it (nft, and
// iptables in its nft mode), and the iptables of old. It works in the network
// namespace of the calling thread.
package netfilter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Rules is what there is.
type Rules struct {
	// KubeProxy are places where kube-proxy has rules, as "nftables ip
	// kube-proxy (12 chains)"; empty if it has none.
	KubeProxy []string
	// Dropping are base chains of others whose policy is to drop, as "ip
	// filter FORWARD".
	Dropping []string
	// Others are tables of others.
	Others []string
}

// kubeChain begins the name of every chain of kube-proxy's iptables mode;
// kubelet has a few of its own, which do not count.
const kubeChain = "KUBE-"

// serving are kube-proxy's chains as opposed to kubelet's.
var serving = []string{"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-SVC-", "KUBE-SEP-", "KUBE-PROXY-FIREWALL", "KUBE-LOAD-BALANCER"}

// Look reads the rules.
func Look() (Rules, error) {
	var r Rules
	errNFT := r.nfTables()
	errLegacy := r.legacy()
	slices.Sort(r.KubeProxy)
	slices.Sort(r.Dropping)
	slices.Sort(r.Others)
	return r, errors.Join(errNFT, errLegacy)
}

// nfTables reads tables and chains. A kernel without nf_tables has none.
func (r *Rules) nfTables() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	chains, err := c.ListChains()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list nf_tables chains: %w", err)
	}
	type table struct{ family, name string }
	all, ours := map[table]int{}, map[table]int{}
	for _, chain := range chains {
		t := table{familyName(chain.Table.Family), chain.Table.Name}
		all[t]++
		switch {
		case chain.Table.Name == "kube-proxy", isServing(chain.Name):
			ours[t]++
		case chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop:
			r.Dropping = append(r.Dropping, t.family+" "+t.name+" "+chain.Name)
		}
	}
	for t, n := range all {
		if ours[t] > 0 {
			r.KubeProxy = append(r.KubeProxy, fmt.Sprintf("nf_tables %s %s (%d chains)", t.family, t.name, ours[t]))
		}
		if n > ours[t] {
			r.Others = append(r.Others, fmt.Sprintf("nf_tables %s %s (%d chains)", t.family, t.name, n-ours[t]))
		}
	}
	return nil
}

func isServing(chain string) bool {
	return strings.HasPrefix(chain, kubeChain) &&
		slices.ContainsFunc(serving, func(p string) bool { return strings.HasPrefix(chain, p) })
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyARP:
		return "arp"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyNetdev:
		return "netdev"
	}
	return fmt.Sprintf("family %d", f)
}

// legacy looks for kube-proxy's chains in the iptables of old.
func (r *Rules) legacy() error {
	tables, err := LegacyTables()
	for _, t := range tables {
		where := t.Program + " (legacy) " + t.Name
		if slices.ContainsFunc(serving, t.Mentions) {
			r.KubeProxy = append(r.KubeProxy, where)
		} else {
			r.Others = append(r.Others, where)
		}
	}
	return err
}

// LegacyTable is a table of the iptables of old.
type LegacyTable struct {
	// Program is iptables or ip6tables.
	Program, Name string
	content       []byte
}

// Mentions reports whether the name of a chain in the table begins so, or
// something else in it reads so.
func (t LegacyTable) Mentions(text string) bool { return bytes.Contains(t.content, []byte(text)) }

// LegacyTables reads the iptables of old. Their tables are there only once
// somebody has used them, and asking for one makes it: so only those are asked
// for that the kernel names. What cannot be read is named in the error.
func LegacyTables() (all []LegacyTable, err error) {
	var errs []error
	for _, f := range []struct {
		name, names   string
		domain, level int
	}{
		{"iptables", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP},
		{"ip6tables", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6},
	} {
		text, err := os.ReadFile(f.names)
		if err != nil { // the module is not loaded: there are none
			continue
		}
		for _, table := range strings.Fields(string(text)) {
			content, err := legacyTable(f.domain, f.level, table)
			if err != nil {
				errs = append(errs, fmt.Errorf("read %s table %s: %w", f.name, table, err))
				continue
			}
			all = append(all, LegacyTable{f.name, table, content})
		}
	}
	return all, errors.Join(errs...)
}

// The kernel's interface of old: linux/netfilter_ipv4/ip_tables.h. IPv6 has the
// same numbers.
const (
	soGetInfo    = 64
	soGetEntries = 65
	tableName    = 32
	infoSize     = tableName + 4 + 5*4 + 5*4 + 4 + 4
	entriesHead  = tableName + 4 + 4 // name, size, padding to eight bytes
)

// legacyTable returns a table as the kernel holds it. The names of user chains
// stand in it as text.
func legacyTable(domain, level int, table string) ([]byte, error) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // a raw one would need CAP_NET_RAW
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	info := make([]byte, infoSize)
	copy(info[:tableName-1], table)
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		return nil, fmt.Errorf("size: %w", err)
	}
	size := *(*uint32)(unsafe.Pointer(&info[infoSize-4]))
	blob := make([]byte, entriesHead+int(size))
	copy(blob[:tableName-1], table)
	*(*uint32)(unsafe.Pointer(&blob[tableName])) = size
	if err := getsockopt(fd, level, soGetEntries, blob); err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	return blob[entriesHead:], nil
}

func getsockopt(fd, level, option int, into []byte) error {
	size := uint32(len(into))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&into[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
