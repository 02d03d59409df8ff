// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/pki"
)

const containerdSocket = "/run/containerd/containerd.sock"

// startNodes makes all nodes' networks, joins them, and starts the nodes.
func (c *Cluster) startNodes() error {
	var spaces []*lab.Namespace
	for n, plan := range c.plans {
		ns, err := buildNodeNetwork(c.lab, c.control, NodeName(n+1), plan)
		if err != nil {
			return err
		}
		spaces = append(spaces, ns)
	}
	for n, ns := range spaces {
		if err := c.joinNode(n, ns); err != nil {
			return err
		}
		if err := c.startNode(n, ns); err != nil {
			return fmt.Errorf("%s: %w", NodeName(n+1), err)
		}
	}
	return nil
}

// joinNode tells a node the way to the other nodes' pods, and the control plane
// the way to this node's.
func (c *Cluster) joinNode(n int, ns *lab.Namespace) error {
	if err := routePods(c.control, c.plans[n]); err != nil {
		return err
	}
	others := slices.Delete(slices.Clone(c.plans), n, n+1)
	if c.cfg.CNI == VXLAN {
		return buildVXLAN(ns, c.plans[n], others)
	}
	var errs []error
	for _, other := range others {
		errs = append(errs, routePods(ns, other))
	}
	return errors.Join(errs...)
}

// startNode starts node number n, from 0: containerd and the kubelet.
func (c *Cluster) startNode(n int, ns *lab.Namespace) error {
	name, plan := NodeName(n+1), c.plans[n]
	files, err := c.nodeFiles(name, plan)
	if err != nil {
		return err
	}
	state := filepath.Join(c.dirs.State, name)
	return c.startBox(ns, box.Spec{
		Name:  name,
		Files: files,
		// An overlay cannot lie on an overlay, so these are on the disk itself.
		Binds: []box.Bind{
			{From: filepath.Join(state, "containerd"), To: "/var/lib/containerd"},
			{From: filepath.Join(state, "kubelet"), To: "/var/lib/kubelet"},
		},
		Pretend: kubeletSysctls,
		Processes: []box.Process{
			{Name: "containerd", Args: []string{"containerd", "--config=/etc/containerd/config.toml"}},
			{Name: "kubelet", After: containerdSocket, Args: []string{
				path.Join(kubernetesDir, "kubelet"),
				"--config=" + inConfig("kubelet.yaml"), "--kubeconfig=" + inConfig("kubelet.conf"),
				"--node-ip=" + joinAddrs(plan.addresses()),
			}},
		},
	})
}

// kubeletSysctls are those of the whole machine that the kubelet sets, and does
// not start if it cannot. It finds them set.
var kubeletSysctls = map[string]string{
	"/proc/sys/vm/overcommit_memory":      "1",
	"/proc/sys/vm/panic_on_oom":           "0",
	"/proc/sys/kernel/panic":              "10",
	"/proc/sys/kernel/panic_on_oops":      "1",
	"/proc/sys/kernel/keys/root_maxkeys":  "1000000",
	"/proc/sys/kernel/keys/root_maxbytes": "25000000",
}

func joinAddrs(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, ",")
}

func (c *Cluster) nodeFiles(name string, plan nodeNetwork) (map[string]string, error) {
	kubeconfig, err := c.ca.Kubeconfig(c.server(), pki.Subject{CommonName: "system:node:" + name, Groups: []string{"system:nodes"}})
	if err != nil {
		return nil, err
	}
	network, err := c.cniConfig(plan)
	if err != nil {
		return nil, err
	}
	registry := fmt.Sprintf("http://%s:%d", controlPlaneV4, registryPort)
	pull := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", registry, registry)
	files := map[string]string{
		inConfig("ca.crt"):             string(c.ca.Cert),
		inConfig("kubelet.conf"):       kubeconfig,
		inConfig("kubelet.yaml"):       fmt.Sprintf(kubeletConfig, inConfig("ca.crt"), dnsAddress, containerdSocket, plan.v4),
		"/etc/containerd/config.toml":  fmt.Sprintf(containerdConfig, containerdSocket, cniDir, pullDir),
		cniDir + "/10-bridge.conflist": network,
		"/etc/resolv.conf":             "# Nobody to ask: this network has no uplink.\n",
		"/etc/hosts":                   fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", plan.v4, name),
	}
	for _, host := range registries() {
		files[path.Join(pullDir, host, "hosts.toml")] = pull
	}
	return files, nil
}

// registries are the hosts that the cluster's registry answers for. Others are
// themselves, such as localhost, where a NodePort may lead to a registry.
func registries() []string {
	return []string{"docker.io", "registry.k8s.io", "ghcr.io", "gcr.io", "quay.io"}
}

// kubeletConfig is filled with the CA, the cluster's DNS address, containerd's
// socket and the node's address.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: false}
  x509: {clientCAFile: %s}
authorization: {mode: AlwaysAllow}
clusterDNS: [%s]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://%s
address: %s
healthzBindAddress: 127.0.0.1
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
maxPods: 200
serializeImagePulls: false
`

// containerdConfig is filled with the socket, the folder of CNI configuration
// and the folder that says where images come from.
const containerdConfig = `version = 2
[grpc]
  address = "%s"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "registry.k8s.io/pause:3.10"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%s"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "%s"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

// cniConfig is a bridge with the node's pod ranges, and hostPorts.
func (c *Cluster) cniConfig(plan nodeNetwork) (string, error) {
	type object = map[string]any
	var ranges [][]object
	var routes []object
	for _, p := range plan.pods() {
		ranges = append(ranges, []object{{"subnet": p.String()}})
		routes = append(routes, object{"dst": netip.PrefixFrom(unspecified(p.Addr()), 0).String()})
	}
	network := object{
		"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
		"ipam": object{"type": "host-local", "ranges": ranges, "routes": routes},
	}
	if c.cfg.CNI == VXLAN {
		network["mtu"] = vxlanMTU
	}
	text, err := json.Marshal(object{
		"cniVersion": "0.4.0", "name": "beeline-cluster",
		"plugins": []object{network, {"type": "portmap", "capabilities": object{"portMappings": true}}},
	})
	return string(text), err
}

func unspecified(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}
