// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/beeline-net/beeline/internal/lab"
)

// inNamespace runs f in a namespace of its own.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	lab.RequireRoot(t)
	l, err := lab.New(fmt.Sprintf("nf%d", os.Getpid()))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	ns, err := l.Namespace("node")
	check(t, err)
	check(t, ns.Do(f))
}

func TestProxysRulesAreFound(t *testing.T) {
	inNamespace(t, func() error {
		empty, err := Look()
		if err != nil || len(empty.KubeProxy)+len(empty.Dropping)+len(empty.Others) > 0 {
			t.Errorf("a new namespace has %+v, %v", empty, err)
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		proxy := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "kube-proxy"})
		c.AddChain(&nftables.Chain{Table: proxy, Name: "services"})
		nat := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "nat"}) // what iptables-nft makes
		c.AddChain(&nftables.Chain{Table: nat, Name: "KUBE-SERVICES"})
		c.AddChain(&nftables.Chain{Table: nat, Name: "PREROUTING"})
		mangle := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mangle"})
		c.AddChain(&nftables.Chain{Table: mangle, Name: "KUBE-KUBELET-CANARY"}) // the kubelet's
		drop := nftables.ChainPolicyDrop
		fw := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fw"})
		c.AddChain(&nftables.Chain{
			Table: fw, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
			Priority: nftables.ChainPriorityFilter, Policy: &drop,
		})
		if err := c.Flush(); err != nil {
			return err
		}
		r, err := Look()
		if err != nil {
			return err
		}
		if want := []string{"nf_tables ip kube-proxy (1 chains)", "nf_tables ip6 nat (1 chains)"}; !slices.Equal(r.KubeProxy, want) {
			t.Errorf("kube-proxy's: %q, want %q", r.KubeProxy, want)
		}
		if want := []string{"inet fw forward"}; !slices.Equal(r.Dropping, want) {
			t.Errorf("dropping: %q, want %q", r.Dropping, want)
		}
		if want := []string{"nf_tables inet fw (1 chains)", "nf_tables ip mangle (1 chains)", "nf_tables ip6 nat (1 chains)"}; !slices.Equal(r.Others, want) {
			t.Errorf("others: %q, want %q", r.Others, want)
		}
		return nil
	})
}

func TestRulesOfOld(t *testing.T) {
	inNamespace(t, func() error {
		out, err := exec.Command("iptables-legacy", "-t", "nat", "-N", "KUBE-SERVICES").CombinedOutput()
		if err != nil {
			t.Skipf("this kernel has no iptables of old, or Debian's tool is missing: %v: %s", err, out)
		}
		r, err := Look()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(r.KubeProxy, func(s string) bool { return strings.HasPrefix(s, "iptables (legacy) nat") }) {
			t.Errorf("found %+v", r)
		}
		return nil
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
