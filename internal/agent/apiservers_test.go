// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// book is a serverBook in memory.
type book struct{ all []netip.AddrPort }

func (b *book) Learn(all []netip.AddrPort) { b.all = all }
func (b *book) Learned() []netip.AddrPort  { return b.all }

// kubernetes is the API servers' Service and a slice of it.
func kubernetes(endpoints ...string) (model.Service, model.EndpointSlice) {
	service, s := service("kubernetes", "10.96.0.1"), slice("kubernetes", endpoints...)
	service.Name, s.Service = kubernetesService, kubernetesService
	s.Name.Namespace = "default"
	return service, s
}

// backends are those that a new connection may find.
func (w *world) backends(prefix string) (found []string) {
	for _, line := range w.content() {
		if strings.HasPrefix(line, prefix) && strings.Contains(line, " backend ") && !strings.HasSuffix(line, "[]") {
			found = append(found, strings.Fields(line)[2])
		}
	}
	return found
}

// Whatever the slices say, there are API servers (pains A11).
func TestTheAPIServersServiceIsNeverEmpty(t *testing.T) {
	w := newWorld(t, plan.Config{NodeName: "here", RefuseUnknownPorts: true})
	known := &book{}
	w.loop.apiServers.book = known
	expect := func(when string, want ...string) {
		t.Helper()
		if got := w.backends("default/kubernetes"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	service, full := kubernetes("192.0.2.1", "192.0.2.2")
	w.store.SetService(service)
	w.store.SetSlice(full)
	w.store.SetService(serviceOther())
	w.store.SetSlice(slice("other", "10.1.0.1"))
	w.synced()
	expect("at first", "192.0.2.1:8080", "192.0.2.2:8080")
	_, empty := kubernetes()
	w.store.SetSlice(empty)
	w.store.SetSlice(slice("other"))
	w.pass()
	expect("empty", "192.0.2.1:8080", "192.0.2.2:8080")
	if got := w.backends("ns/other"); len(got) > 0 {
		t.Errorf("another Service that is empty has %v", got)
	}
	w.store.DeleteSlice(full.Name)
	w.pass()
	expect("no slice at all", "192.0.2.1:8080", "192.0.2.2:8080")
	_, moved := kubernetes("192.0.2.3")
	w.store.SetSlice(moved)
	w.pass()
	expect("a new one", "192.0.2.3:8080")
	if want := netip.MustParseAddrPort("192.0.2.3:8080"); !slices.Equal(known.all, []netip.AddrPort{want}) {
		t.Errorf("learned %v", known.all)
	}
	w.store.DeleteSlice(full.Name)
	w.store.DeleteService(kubernetesService)
	w.pass()
	check(t, w.loop.reconcile.Drain(t.Context()))
	expect("the Service is gone")
}

func serviceOther() model.Service { return service("other", "10.96.0.2") }

// Without a list on disk there are still the tables of the agent before.
func TestTheAPIServersAreKnownFromTheKernel(t *testing.T) {
	before := newWorld(t, plan.Config{NodeName: "here", RefuseUnknownPorts: true})
	service, full := kubernetes("192.0.2.1", "192.0.2.2")
	before.store.SetService(service)
	before.store.SetSlice(full)
	before.synced()
	w := newWorld(t, plan.Config{NodeName: "here", RefuseUnknownPorts: true})
	w.adopt(before.tables)
	known := &book{}
	w.loop.apiServers = newAPIServers(known, w.loop.reconcile, slog.New(slog.DiscardHandler))
	if want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:8080"), netip.MustParseAddrPort("192.0.2.2:8080")}; !slices.Equal(known.all, want) {
		t.Errorf("learned %v, want %v", known.all, want)
	}
	_, empty := kubernetes()
	w.store.SetService(service)
	w.store.SetSlice(empty)
	w.synced()
	if got, want := w.backends("default/kubernetes"), []string{"192.0.2.1:8080", "192.0.2.2:8080"}; !slices.Equal(got, want) {
		t.Errorf("an agent that starts while the API servers' Service is empty: %v, want %v", got, want)
	}
	newAPIServers(known, newWorld(t, plan.Config{}).loop.reconcile, slog.New(slog.DiscardHandler))
	if len(known.all) != 2 {
		t.Errorf("an empty kernel is no news: %v", known.all)
	}
}

// An agent that starts while there are none goes by what an earlier one knew.
func TestTheAPIServersAreKnownFromTheLastTime(t *testing.T) {
	a := &apiServers{log: slog.New(slog.DiscardHandler), book: &book{all: []netip.AddrPort{
		netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("[fd00::1]:6443"),
	}}}
	service, empty := kubernetes()
	got := a.endpoints(&service, []model.EndpointSlice{empty})
	if len(got) != 2 || got[0].Ports[0] != (model.EndpointPort{Name: "http", Protocol: model.TCP, Port: 6443}) ||
		got[1].Family != model.IPv6 || !usable(got[1]) {
		t.Errorf("%+v", got)
	}
}
