// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/maps"
)

// What kube-proxy would do with the flow decides, whichever address of the
// Service the socket asked for.
func TestWhatIsKeptFollowsTheAddressAskedFor(t *testing.T) {
	tables := maps.NewMemory(maps.Sizes{Frontends: 8, Services: 8, Slots: 8, Backends: 8})
	const service, other = 1, 2
	for at, owner := range map[string]uint32{
		"10.96.0.1:53": service, "0.0.0.0:30053": service, "[::]:30053": service, "10.96.0.2:53": other,
	} {
		a := netip.MustParseAddrPort(at)
		if err := tables.Frontends.Put(abi.NewFrontendKey(a.Addr(), a.Port(), unix.IPPROTO_UDP), abi.Frontend{Service: owner}); err != nil {
			t.Fatal(err)
		}
	}
	there := netip.MustParseAddrPort("10.244.0.1:53")
	tables.Backends.Create(3, abi.Backend{
		Addr: abi.Addr(there.Addr()), Port: abi.Port(there.Port()), State: uint8(abi.BackendActive), Service: service,
	})
	for _, c := range []struct {
		name, vip, dst string
		end            bool
	}{
		{"the endpoint is gone", "10.96.0.1:53", "10.244.0.9:53", true},
		{"it is there, as another backend", "10.96.0.1:53", "10.244.0.1:53", false},
		{"it is another Service's", "10.96.0.2:53", "10.244.0.1:53", true},
		{"it has another port", "10.96.0.1:53", "10.244.0.1:54", true},
		{"nobody has the address", "10.96.0.3:53", "10.244.0.9:53", false},
		{"nobody has the port", "10.96.0.1:54", "10.244.0.9:53", false},
		{"NodePort, gone", "192.0.2.7:30053", "10.244.0.9:53", true},
		{"NodePort, there", "192.0.2.7:30053", "10.244.0.1:53", false},
		{"NodePort of IPv6, gone", "[2001:db8::7]:30053", "[fd00::9]:53", true},
		{"a NodePort that is nobody's", "192.0.2.7:30054", "10.244.0.9:53", false},
	} {
		vip, dst := netip.MustParseAddrPort(c.vip), netip.MustParseAddrPort(c.dst)
		found := []abi.StaleSocket{{
			Vip: abi.Addr(vip.Addr()), VipPort: abi.Port(vip.Port()), Dst: abi.Addr(dst.Addr()), Dport: abi.Port(dst.Port()),
		}}
		stale, err := (&Terminator{tables: tables}).decide(found)
		if err != nil || (len(stale) == 1) != c.end {
			t.Errorf("%s: ended %v, %v; want %v", c.name, len(stale) == 1, err, c.end)
		}
	}
}
