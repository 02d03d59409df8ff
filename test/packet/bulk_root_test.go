// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/lab"
)

// bulk is how much goes through each path and back; `make test-bulk` sends a
// gigabyte.
var bulk = flag.Int64("bulk", 16, "MiB to send through each path")

// A lot through each path, byte for byte the same: by TCP, with what the devices
// leave to one another of checksums and segments.
func TestBulkTransfer(t *testing.T) {
	for _, p := range []struct {
		name   string
		narrow bool // the way to the client takes less than the pods' devices
		from   func(*wired) *lab.Namespace
		to     func(w *wired, s side, node2 netip.Addr) netip.AddrPort
	}{
		{"a client to this node's pod", false, outsider, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.nodePortService(s, TCP, 0, &endpoint{at: port(s.localPod, podPort), local: true})
		}},
		{"a client to another node's pod", false, outsider, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.nodePortService(s, TCP, 0, &endpoint{at: port(s.remotePod, podPort)})
		}},
		{"a client to another node's pod, over a narrow way", true, outsider, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.nodePortService(s, TCP, 0, &endpoint{at: port(s.remotePod, podPort)})
		}},
		{"a client to a process of this node", false, outsider, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.nodePortService(s, TCP, 0, &endpoint{at: port(s.node, podPort), local: true})
		}},
		{"a client to a process of another node", false, outsider, func(w *wired, s side, node2 netip.Addr) netip.AddrPort {
			return w.nodePortService(s, TCP, 0, &endpoint{at: port(node2, podPort)})
		}},
		{"a pod to another node's pod", false, podOfNode1, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.clusterIPService(s, &endpoint{at: port(s.remotePod, podPort)})
		}},
		{"a pod to itself", false, podOfNode1, func(w *wired, s side, _ netip.Addr) netip.AddrPort {
			return w.clusterIPService(s, &endpoint{at: port(s.localPod, podPort), local: true})
		}},
	} {
		t.Run(p.name, func(t *testing.T) {
			w := newWired(t, datapath.PacketOptions{})
			for _, s := range wires {
				if p.narrow {
					check(t, w.router.Do(func() error { return narrowRoute(s.client, "client", netip.Addr{}) }))
				}
				w.put(abi.MapEgressAddrs, abi.NewEgressKey(w.index("pod"), s.family == 6), abi.Addr(s.podGateway))
				w.localAddr(s.podGateway, abi.LocalAddrHere)
				w.serve(w.node1, s.node)
				w.serve(w.node2, s.node2)
				start := time.Now()
				if err := stream(p.from(w), p.to(w, s.side, s.node2), *bulk<<20); err != nil {
					t.Errorf("IPv%d: %v; counters %v", s.family, err, w.counters())
				}
				took := time.Since(start)
				t.Logf("IPv%d: %d MiB there and back in %v, %.0f MiB/s each way", s.family, *bulk,
					took.Round(time.Millisecond), float64(*bulk)/took.Seconds())
			}
		})
	}
}

// A gigabyte through the longest path, each time that tests run.
func TestGigabyteTransfer(t *testing.T) {
	w, s := newWired(t, datapath.PacketOptions{}), sides[0]
	at, start := w.nodePortService(s, TCP, 0, &endpoint{at: port(s.remotePod, podPort)}), time.Now()
	if err := stream(w.client, at, 1<<30); err != nil {
		t.Errorf("%v; counters %v", err, w.counters())
	}
	t.Logf("there and back in %v", time.Since(start).Round(time.Millisecond))
}

func outsider(w *wired) *lab.Namespace { return w.client }

func podOfNode1(w *wired) *lab.Namespace { return w.pod1 }

// clusterIPService makes a Service with one TCP port and returns where it is.
func (w *wired) clusterIPService(s side, to *endpoint) netip.AddrPort {
	w.nodePort++
	at := port(s.vip, w.nodePort)
	w.addService(&svc{proto: TCP, frontends: []netip.AddrPort{at}, flags: abi.FlagClusterIP, endpoints: []*endpoint{to}})
	return at
}

// stream sends many bytes, each eight of them other than all before, and wants
// them back as they are.
func stream(from *lab.Namespace, to netip.AddrPort, size int64) error {
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.String(), 2*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20*time.Second + time.Duration(size)*50)) // 20 MB/s at least
	sent := make(chan error, 1)
	go func() {
		block := make([]byte, 1<<16)
		for at := int64(0); at < size; at += int64(len(block)) {
			fill(block, at)
			if _, err := c.Write(block); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	r := bufio.NewReaderSize(c, 1<<18)
	if _, err := r.ReadString('\n'); err != nil { // who answers
		return errors.Join(err, <-sent)
	}
	got, want := make([]byte, 1<<16), make([]byte, 1<<16)
	for at := int64(0); at < size; at += int64(len(got)) {
		fill(want, at)
		if _, err := io.ReadFull(r, got); err != nil {
			return errors.Join(fmt.Errorf("after %d bytes: %w", at, err), <-sent)
		}
		if !bytes.Equal(got, want) {
			_ = c.Close()
			return errors.Join(fmt.Errorf("what came back from byte %d on is not what was sent", at), <-sent)
		}
	}
	return <-sent
}

// fill makes the bytes from an offset on.
func fill(block []byte, at int64) {
	for i := 0; i+8 <= len(block); i += 8 {
		binary.BigEndian.PutUint64(block[i:], uint64(at)+uint64(i))
	}
}
