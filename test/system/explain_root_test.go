// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

// explained is what the tests read of `beeline explain -o json`.
func (n *node) explain(args ...string) (all []explain.Answer, status int) {
	n.t.Helper()
	out, errs, status := n.split(append([]string{"explain", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		n.t.Fatalf("explain %v: status %d: %v\n%s%s", args, status, err, out, errs)
	}
	return all, status
}

// split is beeline with the two outputs apart.
func (n *node) split(args ...string) (stdout, stderr string, status int) {
	n.t.Helper()
	var out, errs bytes.Buffer
	if args[0] != "version" && args[0] != "__complete" {
		args = append(args, "--bpffs", n.BPFFS)
	}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	check(n.t, lab.Start(cmd, n.NS, nil))
	_ = cmd.Wait()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// strange connects from a node without an agent, in that node's cgroup: no hook of
// ours sees its socket.
func strange(n *node, addr string) (name string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s && cat <&3", host, port))
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := lab.Start(cmd, n.NS, n.Cgroup); err != nil {
		return "", err
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return "", syscall.ETIMEDOUT
	case strings.Contains(errs.String(), "refused"):
		return "", syscall.ECONNREFUSED
	case err != nil:
		return "", fmt.Errorf("%w: %s", err, errs.String())
	}
	return out.String(), nil
}

// why is a row: a Service, a connection to it, and what explain must say of both.
type why struct {
	name string
	// spec, status and labels of the Service in YAML; endpoints of its slice.
	spec, status, labels string
	slice                string
	from                 string // "pod" or "outside"
	to                   string
	verdict              string
	reason               explain.Reason
	also                 explain.Reason // among the findings, may be empty
}

// The whole set of questions, each asked of explain and of the network: what one
// says the other does.
func TestExplainSaysWhatHappens(t *testing.T) {
	s := newStage(t, 3)
	n, outside := s.nodes[0], s.nodes[2]
	local, remote := s.server(n, "local"), s.server(s.nodes[1], "remote")
	here := fmt.Sprintf("- {addresses: [%q], nodeName: node1, targetRef: {kind: Pod, name: local}}\n", local.V4)
	there := fmt.Sprintf("- {addresses: [%q], nodeName: node2, targetRef: {kind: Pod, name: remote}}\n", remote.V4)
	ending := fmt.Sprintf("- {addresses: [%q], nodeName: node1, conditions: {ready: false, serving: true, terminating: true}}\n", local.V4)
	unready := fmt.Sprintf("- {addresses: [%q], nodeName: node1, conditions: {ready: false, serving: false}}\n", local.V4)
	lb := func(i int) string { return fmt.Sprintf("loadBalancer: {ingress: [{ip: 198.51.100.%d}]}", i) }
	rows := []why{
		{name: "works", slice: here, from: "pod", to: "10.96.7.0:80", verdict: "translate", reason: explain.Translated},
		{name: "nothing", from: "pod", to: "10.96.7.1:80", verdict: "reject", reason: explain.NoEndpoints},
		{name: "unready", slice: unready, from: "pod", to: "10.96.7.2:80", verdict: "reject", reason: explain.NotReady},
		{name: "portname", slice: strings.Replace(here, "- {", "#wrongport\n- {", 1), from: "pod", to: "10.96.7.3:80", verdict: "reject", reason: explain.WrongPortName},
		{name: "local-outside", spec: "externalTrafficPolicy: Local", status: lb(4), slice: there, from: "outside", to: "198.51.100.4:80", verdict: "drop", reason: explain.NoLocalEndpoints},
		{name: "local-inside", spec: "internalTrafficPolicy: Local", slice: there, from: "pod", to: "10.96.7.5:80", verdict: "drop", reason: explain.NoLocalEndpoints},
		{name: "ranges", spec: "loadBalancerSourceRanges: [203.0.113.0/24]", status: lb(6), slice: here, from: "outside", to: "198.51.100.6:80", verdict: "drop", reason: explain.SourceRange},
		{name: "ranges-pod", spec: "loadBalancerSourceRanges: [203.0.113.0/24]", status: lb(7), slice: here, from: "pod", to: "198.51.100.7:80", verdict: "drop", reason: explain.SourceRange},
		{name: "ipmode", status: "loadBalancer: {ingress: [{ip: 198.51.100.8, ipMode: Proxy}]}", slice: here, from: "pod", to: "198.51.100.8:80", verdict: "pass", reason: explain.IPModeProxy},
		{name: "theirs", labels: "service.kubernetes.io/service-proxy-name: other", slice: here, from: "pod", to: "10.96.7.9:80", verdict: "pass", reason: explain.OtherProxy},
		{name: "first", spec: "externalIPs: [192.0.2.10]", slice: here, from: "pod", to: "192.0.2.10:80", verdict: "translate", reason: explain.Translated},
		{name: "wrong-port", slice: here, from: "pod", to: "10.96.7.11:8080", verdict: "reject", reason: explain.UnknownPort},
		{name: "ending", slice: ending, from: "pod", to: "10.96.7.12:80", verdict: "translate", reason: explain.Translated, also: explain.TerminatingOnly},
		{name: "pinned", spec: "sessionAffinity: ClientIP", slice: here + there, from: "pod", to: "10.96.7.13:80", verdict: "translate", reason: explain.Translated, also: explain.AffinityPins},
		{name: "cluster-outside", slice: here, from: "outside", to: "10.96.7.14:80", verdict: "translate", reason: explain.Translated},
		{name: "nodeport", spec: "type: NodePort", slice: here + there, from: "outside", to: n.V4.String() + ":30915", verdict: "translate", reason: explain.Translated},
		{name: "nodeport-elsewhere", spec: "type: NodePort", slice: here, from: "outside", to: "10.244.1.1:30916", verdict: "pass", reason: explain.NodePortAddress},
		{name: "nodeport-empty", spec: "type: NodePort", from: "outside", to: n.V4.String() + ":30917", verdict: "reject", reason: explain.NoEndpoints},
		{name: "pinned-outside", spec: "sessionAffinity: ClientIP\n  type: NodePort", slice: here + there, from: "outside", to: n.V4.String() + ":30918", verdict: "translate", reason: explain.Translated, also: explain.AffinityPins},
	}
	for i, r := range rows {
		n.write(r.name+".yaml", r.manifest(i))
	}
	n.start("--packet-path", "--cluster-cidr", "10.244.0.0/16", "--nodeport-addresses", "192.168.77.0/24")
	for _, prefix := range []string{"198.51.100.0/24", "10.96.0.0/16", "10.244.1.0/24"} {
		if prefix != "10.244.1.0/24" { // the lab has that route
			check(t, outside.NS.Route(prefix, n.V4.String()))
		}
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { s.compare(t, r, outside) })
	}
	t.Run("a Service whose address another one has", func(t *testing.T) {
		n.write("second.yaml", why{name: "zsecond", spec: "externalIPs: [192.0.2.10]", slice: there}.manifest(40))
		eventually(t, 5*time.Second, func() error {
			all, _ := n.explain("svc/default/zsecond")
			for _, a := range all {
				if a.Works() {
					return nil
				}
			}
			return errors.New("not there yet")
		})
		all, _ := n.explain("tcp", "192.0.2.10:80", "--from", s.client.V4.String())
		if len(all) != 1 || all[0].Service != "default/first" {
			t.Errorf("192.0.2.10:80 is said to be of %+v", all)
		}
	})
	t.Run("a flow that exists", func(t *testing.T) {
		at := fmt.Sprintf("%s:30915", n.V4) // of row nodeport
		cmd := exec.Command("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/30915 && sleep 60", n.V4))
		check(t, lab.Start(cmd, outside.NS, outside.Cgroup))
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		var source string
		eventually(t, 5*time.Second, func() error {
			out, _ := n.beeline("flow", "list", "-o", "json", "--service", "default/nodeport", "--state", "half-closed")
			var flows []inspect.Flow
			if err := json.Unmarshal([]byte(out), &flows); err != nil {
				return err
			}
			if len(flows) != 1 {
				return fmt.Errorf("%d flows", len(flows))
			}
			source = flows[0].Client.Address
			return nil
		})
		all, _ := n.explain("tcp", at, "--from", source, "--netns", "/none")
		if a := all[0]; a.Reason != explain.EstablishedFlow || len(a.Disagreements) > 0 {
			t.Errorf("from %s: %s, %+v", source, a.Reason, a.Findings)
		}
	})
	t.Run("a pod whose namespace cannot be looked at", func(t *testing.T) {
		all, status := n.explain("tcp", "10.96.7.0:80", "--from", s.client.V4.String(), "--netns", "/none")
		if status != 0 || all[0].Paths[0].Name != "sockets" {
			t.Errorf("status %d: %+v", status, all)
		}
	})
	t.Run("by name", func(t *testing.T) {
		all, status := n.explain("svc/works:http", "--from", "pod/default/local")
		if status != 0 || len(all) != 1 || !all[0].Works() || all[0].Backends[0].Pod != "local" {
			t.Errorf("status %d: %+v", status, all)
		}
		if _, _, status := n.split("explain", "svc/works:nonsense"); status != 3 {
			t.Errorf("a port that is not there: status %d", status)
		}
		if _, _, status := n.split("explain", "svc/nobody"); status != 3 {
			t.Errorf("a Service that is not there: status %d", status)
		}
		if _, _, status := n.split("explain", "tcp"); status != 2 {
			t.Errorf("half a question: status %d", status)
		}
	})
	t.Run("without an agent", func(t *testing.T) {
		check(t, n.stop())
		all, status := n.explain("tcp", "10.96.7.2:80")
		if status != 4 || all[0].Reason != explain.NoEndpoints || len(all[0].Unknown) == 0 {
			t.Errorf("without objects: status %d: %+v", status, all)
		}
		all, _ = n.explain("tcp", "10.96.7.2:80", "--manifests", n.manifests, "--node-name", "node1")
		if all[0].Reason != explain.NotReady {
			t.Errorf("with the folder: %+v", all)
		}
	})
}

func (r why) manifest(i int) string {
	ports := "- {name: http, port: 80, protocol: TCP"
	switch {
	case strings.Contains(r.spec, "type: NodePort"):
		ports += fmt.Sprintf(", nodePort: %d", 30900+i)
	case r.status != "":
		r.spec = "type: LoadBalancer\n  " + r.spec
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default, labels: {%s}}
spec:
  clusterIP: 10.96.7.%d
  clusterIPs: [10.96.7.%[3]d]
  ipFamilies: [IPv4]
  selector: {app: %[1]s}
  %[4]s
  ports:
  %[5]s}
status: {%[6]s}
`, r.name, r.labels, i, r.spec, ports, r.status)
	if r.slice == "" {
		return text
	}
	port := "http"
	if strings.Contains(r.slice, "#wrongport") {
		port = "web"
	}
	return text + fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-x, namespace: default, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: %s, port: 8080, protocol: TCP}]
endpoints:
%s`, r.name, port, r.slice)
}

// compare connects, and asks explain about the same connection.
func (s *stage) compare(t *testing.T, r why, outside *node) {
	t.Helper()
	n := s.nodes[0]
	args := []string{"tcp", r.to, "--from", s.client.V4.String(), "--netns", "/run/netns/" + s.client.NS.Name}
	connect := func() (string, error) { return s.ask("tcp", r.to) }
	if r.from == "outside" {
		args = []string{"tcp", r.to, "--from", outside.V4.String(), "--netns", "/none"}
		connect = func() (string, error) { return strange(outside, r.to) }
	}
	name, err := connect()
	all, status := n.explain(args...)
	a := all[0]
	if a.Verdict != r.verdict || a.Reason != r.reason {
		t.Errorf("explain says %s, %s; want %s, %s: %+v", a.Verdict, a.Reason, r.verdict, r.reason, a.Findings)
	}
	if wrong := (status == 0) != (r.verdict == "translate"); wrong || status != 0 && status != 4 {
		t.Errorf("exit status %d for %s", status, r.verdict)
	}
	if len(a.Disagreements) > 0 {
		t.Errorf("disagreement: %v\n%+v\n%+v", a.Disagreements, a, a.Paths[len(a.Paths)-1].Run)
	}
	if r.also != "" && !slices.ContainsFunc(a.Findings, func(f explain.Finding) bool { return f.Reason == r.also }) {
		t.Errorf("no finding %s: %+v", r.also, a.Findings)
	}
	if r.from == "outside" && !slices.ContainsFunc(a.Paths, func(p explain.Path) bool { return p.Run != nil && !p.Run.OtherThanLive }) {
		t.Errorf("the program was not asked: %v, %+v", a.Unknown, a.Paths)
	}
	if got := outcome(err); got != a.Verdict && !(a.Verdict == "pass" && err != nil) {
		t.Errorf("explain says %s, and the connection: %s (%q, %v)", a.Verdict, got, name, err)
	}
	if err == nil && !slices.ContainsFunc(a.Backends, func(b explain.Backend) bool {
		return b.Eligible && b.Pod == name || b.Eligible && r.reason == explain.Translated && b.Pod == ""
	}) {
		t.Errorf("%q answered, which explain does not find eligible: %+v", name, a.Backends)
	}
}

func outcome(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "translate"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "reject"
	case errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &timeout) && timeout.Timeout():
		return "drop"
	}
	return err.Error()
}
