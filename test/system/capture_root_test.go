// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"github.com/beeline-net/beeline/internal/capture"
	"github.com/beeline-net/beeline/internal/lab"
)

// taking is a `beeline capture` that runs.
type taking struct {
	t         *testing.T
	cmd       *exec.Cmd
	out, errs logBuffer
}

// capture starts one on the node and waits until it is at work.
func (n *node) capture(t *testing.T, args ...string) *taking {
	t.Helper()
	c := &taking{t: t, cmd: exec.Command(binary, append([]string{"capture", "--bpffs", n.BPFFS}, args...)...)}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.errs
	check(t, lab.Start(c.cmd, n.NS, nil))
	t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	eventually(t, 20*time.Second, func() error {
		if !strings.Contains(c.errs.String(), "capturing") {
			return fmt.Errorf("it is not at work: %s", &c.errs)
		}
		return nil
	})
	return c
}

// wait waits until it ends and returns its exit status.
func (c *taking) wait() int {
	c.t.Helper()
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}

// beside counts the programs at the ingress of the node's uplink that are not the
// agent's: those of a capture where the kernel lets it be on no program.
func (n *node) beside(t *testing.T) (count int) {
	t.Helper()
	check(t, n.NS.Do(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		all, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return err
		}
		count = len(all.Programs) - 1
		return nil
	}))
	return count
}

// seen is a packet of a file.
type seen struct {
	stage, comment string
	src, dst       netip.AddrPort
	quoted         netip.AddrPort // destination of the packet that ICMP quotes
	payload        []byte
}

// readFile decodes a pcapng file.
func readFile(t *testing.T, b []byte) (all []seen) {
	t.Helper()
	r, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.NgReaderOptions{ErrorOnMismatchingLinkType: true})
	check(t, err)
	for {
		data, info, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return all
		}
		check(t, err)
		iface, err := r.Interface(info.InterfaceIndex)
		check(t, err)
		s := decode(t, gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default))
		_, s.stage, _ = strings.Cut(iface.Name, " ")
		s.comment = strings.Join(options.Comments, "")
		all = append(all, s)
	}
}

func decode(t *testing.T, p gopacket.Packet) (s seen) {
	t.Helper()
	var src, dst netip.Addr
	if ip, ok := p.NetworkLayer().(*layers.IPv4); ok {
		src, _ = netip.AddrFromSlice(ip.SrcIP)
		dst, _ = netip.AddrFromSlice(ip.DstIP)
	}
	if ip, ok := p.NetworkLayer().(*layers.IPv6); ok {
		src, _ = netip.AddrFromSlice(ip.SrcIP)
		dst, _ = netip.AddrFromSlice(ip.DstIP)
	}
	var sport, dport uint16
	switch l4 := p.TransportLayer().(type) {
	case *layers.TCP:
		sport, dport, s.payload = uint16(l4.SrcPort), uint16(l4.DstPort), l4.Payload
	case *layers.UDP:
		sport, dport, s.payload = uint16(l4.SrcPort), uint16(l4.DstPort), l4.Payload
	}
	if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
		about := decode(t, gopacket.NewPacket(icmp.Payload, layers.LayerTypeIPv4, gopacket.Default))
		s.quoted = about.dst
	}
	s.src, s.dst = netip.AddrPortFrom(src.Unmap(), sport), netip.AddrPortFrom(dst.Unmap(), dport)
	return s
}

// datagram asks from a node without an agent, in that node's cgroup: no hook of
// ours sees its socket.
func datagram(n *node, addr string) (name string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/udp/%s/%s && printf who >&3 && timeout 1 dd bs=64 count=1 status=none <&3", host, port))
	cmd.Stdout = &out
	if err := lab.Start(cmd, n.NS, n.Cgroup); err != nil {
		return "", err
	}
	err = cmd.Wait()
	return out.String(), err
}

// A NodePort's request and reply, and the pod's error about a closed port, before
// and after, in a file that a library reads; while no agent runs.
func TestCaptureIntoAFile(t *testing.T) {
	s := newStage(t, 2)
	n, outside := s.nodes[0], s.nodes[1]
	pod := s.server(n, "web")
	n.write("web.yaml", nodePortService("web", v4VIP, pod))
	n.write("closed.yaml", strings.NewReplacer("30080", "30081", "30053", "30054", "port: 8080", "port: 9").
		Replace(nodePortService("closed", []string{"10.96.0.81"}, pod)))
	n.start()
	check(t, n.stop())
	frontend, closed := netip.AddrPortFrom(n.V4, 30053), netip.AddrPortFrom(n.V4, 30054)
	backend := netip.AddrPortFrom(pod.V4, 8080)
	_, err := datagram(outside, frontend.String()) // neighbours are known then
	check(t, err)

	path := filepath.Join(t.TempDir(), "web.pcap")
	c := n.capture(t, "svc/default/web", "-w", path, "-c", "2", "--for", "5s")
	_, err = strange(outside, closed.String()) // another Service's
	if err == nil {
		t.Error("something listens on port 9")
	}
	name, err := datagram(outside, frontend.String())
	if name != "web" || err != nil {
		t.Fatalf("answered by %q, %v", name, err)
	}
	if status := c.wait(); status != 0 || !strings.Contains(c.errs.String(), "2 packets captured") {
		t.Errorf("status %d: %s", status, &c.errs)
	}
	b, err := os.ReadFile(path)
	check(t, err)
	all := readFile(t, b)
	if len(all) != 4 {
		t.Fatalf("%d packets in the file, want request and reply, before and after: %+v", len(all), all)
	}
	client := all[0].src
	for i, want := range []seen{
		{stage: "before", src: client, dst: frontend, payload: []byte("who")},
		{stage: "after", src: client, dst: backend, payload: []byte("who")},
		{stage: "before", src: backend, dst: client, payload: []byte("web")},
		{stage: "after", src: frontend, dst: client, payload: []byte("web")},
	} {
		got := all[i]
		if got.stage != want.stage || got.src != want.src || got.dst != want.dst || !bytes.Equal(got.payload, want.payload) {
			t.Errorf("packet %d: %+v, want %+v", i, got, want)
		}
		if !strings.Contains(got.comment, "translated; default/web:udp") {
			t.Errorf("packet %d: comment %q", i, got.comment)
		}
	}

	c = n.capture(t, "svc/default/closed:udp", "-w", "-", "-c", "2", "--for", "5s")
	if _, err := datagram(outside, closed.String()); err == nil {
		t.Error("something listens on port 9")
	}
	c.wait()
	if all = readFile(t, []byte(c.out.String())); len(all) != 4 {
		t.Fatalf("%d packets, want a request and an error, before and after: %+v", len(all), all)
	}
	if before, after := all[2], all[3]; before.quoted != netip.AddrPortFrom(pod.V4, 9) || after.quoted != closed || after.src.Addr() != n.V4 {
		t.Errorf("the error: %+v, then %+v", before, after)
	}
}

// Lines and objects instead of a file; drops with their reason, by reason.
func TestCaptureShowsReasons(t *testing.T) {
	s := newStage(t, 2)
	n, outside := s.nodes[0], s.nodes[1]
	n.write("empty.yaml", nodePortService("empty", v4VIP))
	n.start()
	at := fmt.Sprintf("%s:30053", n.V4)
	for format, want := range map[string]string{"table": "default/empty:udp  no_backend", "json": `"reason":"no_backend"`, "yaml": "reason: no_backend"} {
		c := n.capture(t, "--reason", "no_backend", "-c", "1", "--for", "5s", "-o", format)
		if _, err := datagram(outside, at); err == nil {
			t.Error("an answer of nobody")
		}
		if status := c.wait(); status != 0 || !strings.Contains(c.out.String(), want) {
			t.Errorf("-o %s: status %d, no %q: %s%s", format, status, want, &c.out, &c.errs)
		}
		if format != "json" {
			continue
		}
		var v capture.View
		check(t, json.Unmarshal([]byte(c.out.String()), &v))
		if v.Outcome != capture.Answered || v.Before.Destination.Address != at || v.After == nil || v.After.Quoted.Destination.Address != at {
			t.Errorf("%+v, before %v, after %v", v, v.Before, v.After)
		}
	}
}

// A capture that is killed leaves nothing, and an agent that starts meanwhile is
// not disturbed.
func TestKilledCaptureLeavesNothing(t *testing.T) {
	s := newStage(t, 2)
	n, outside := s.nodes[0], s.nodes[1]
	n.write("web.yaml", nodePortService("web", v4VIP, s.server(n, "web")))
	n.start()
	c := n.capture(t, "-w", filepath.Join(t.TempDir(), "x"))
	check(t, n.stop())
	n.start()
	if name, err := strange(outside, fmt.Sprintf("%s:30080", n.V4)); name != "web" {
		t.Errorf("answered by %q, %v", name, err)
	}
	check(t, c.cmd.Process.Kill())
	_ = c.cmd.Wait()
	eventually(t, 5*time.Second, func() error {
		if got := n.beside(t); got != 0 {
			return fmt.Errorf("%d programs are left", got)
		}
		return nil
	})
	if name, err := strange(outside, fmt.Sprintf("%s:30080", n.V4)); name != "web" {
		t.Errorf("afterwards answered by %q, %v", name, err)
	}
}

func TestCaptureOfWhatIsNotThere(t *testing.T) {
	s := newStage(t, 1)
	n := s.nodes[0]
	for want, args := range map[int][]string{
		3: {"capture"},
		2: {"capture", "tcp"},
	} {
		if out, status := n.beeline(args...); status != want {
			t.Errorf("%v where Beeline never ran: status %d, want %d: %s", args, status, want, out)
		}
	}
	n.start("--packet-path=false")
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"capture"}, 3, "no packets to see"},
		{[]string{"capture", "svc/default/nobody"}, 3, "is not in the kernel"},
		{[]string{"capture", "--reason", "bad_luck"}, 2, "must be one of"},
		{[]string{"capture", "--snaplen", "100000"}, 2, "must be 1 to"},
		{[]string{"capture", "--backends"}, 2, "of which Service"},
	} {
		if out, status := n.beeline(c.args...); status != c.status || !strings.Contains(out, c.want) {
			t.Errorf("%v: status %d, want %d: %s", c.args, status, c.status, out)
		}
	}
}
