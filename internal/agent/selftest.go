// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/plan"
)

// selfTest is a Service of the agent's own whose only client is the agent: a
// connection to it arrives only if the hooks translate it (pains B10, B20).
// Its address is a loopback one, so that an attempt which is not translated
// never leaves the machine: it is refused.
type selfTest struct {
	// off: the node is another proxy's for now, and nothing would be translated.
	off      atomic.Bool
	listener net.Listener
	backend  netip.AddrPort
}

// selfTestAddr is where the agent connects to; nobody listens there.
var selfTestAddr = netip.MustParseAddrPort("127.66.69.69:1")

// selfTestName cannot be a Kubernetes object's: it has no namespace.
var selfTestName = model.Name{Name: "self-test"}

// newSelfTest opens the backend.
func newSelfTest() (*selfTest, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("self-test: %w", err)
	}
	return &selfTest{listener: l, backend: l.Addr().(*net.TCPAddr).AddrPort()}, nil
}

// plan is the Service. It goes to the kernel beside the planned ones: the plan
// itself refuses loopback addresses, whoever asks for them.
func (s *selfTest) plan() plan.Service {
	return plan.Service{
		Name: selfTestName,
		Ports: []plan.Port{{
			ID: plan.PortID{Service: selfTestName, Protocol: model.TCP, Family: model.IPv4},
			Frontends: []plan.Frontend{{
				FrontendKey: plan.FrontendKey{Addr: selfTestAddr.Addr(), Port: selfTestAddr.Port(), Protocol: model.TCP},
				Kind:        plan.ClusterIP,
			}},
			Backends: []plan.Backend{{Addr: s.backend, Local: true}},
			Cluster:  plan.Set{Members: []int{0}},
		}},
	}
}

// serve accepts until ctx ends; that a connection arrives is all there is to it.
func (s *selfTest) serve(ctx context.Context) error {
	context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	for {
		c, err := s.listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("self-test: accept: %w", err)
		}
		_ = c.Close()
	}
}

// Name implements health.Check.
func (s *selfTest) Name() string { return "self-test" }

// Run connects as an IPv4 client and as an IPv6 client with an IPv4-mapped
// address, which go through different hooks.
func (s *selfTest) Run(context.Context) error {
	if s.off.Load() {
		return nil
	}
	mapped := unix.SockaddrInet6{Addr: selfTestAddr.Addr().As16(), Port: int(selfTestAddr.Port())}
	for _, client := range []struct {
		hook   string
		domain int
		to     unix.Sockaddr
	}{
		{"connect4", unix.AF_INET, &unix.SockaddrInet4{Addr: selfTestAddr.Addr().As4(), Port: int(selfTestAddr.Port())}},
		{"connect6", unix.AF_INET6, &mapped},
	} {
		if err := connectOnce(client.domain, client.to); err != nil {
			return fmt.Errorf("%s: a connection to the agent's own Service %v was not translated: %w "+
				"(is the agent itself below --cgroup-root?)", client.hook, selfTestAddr, err)
		}
	}
	return nil
}

// connectOnce makes one connection over loopback, which never waits.
func connectOnce(domain int, to unix.Sockaddr) error {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Connect(fd, to)
}
