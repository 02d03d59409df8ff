// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/internal/lab"
)

// Proxy is who serves Services.
type Proxy string

// The proxies.
const (
	NoProxy           Proxy = "none"
	Beeline           Proxy = "beeline"
	KubeProxyNFTables Proxy = "kube-proxy-nftables"
	KubeProxyIPTables Proxy = "kube-proxy-iptables"
)

// Proxies are all of them.
func Proxies() []Proxy { return []Proxy{NoProxy, Beeline, KubeProxyNFTables, KubeProxyIPTables} }

// IsKubeProxy says whether it is, in whichever mode.
func (p Proxy) IsKubeProxy() bool { return p == KubeProxyNFTables || p == KubeProxyIPTables }

// beelineManifest is what users apply, below the work tree.
const beelineManifest = "deploy/beeline.yaml"

// InstallProxy applies a proxy's manifests and waits until it runs on every node.
func (c *Cluster) InstallProxy(ctx context.Context, p Proxy) error {
	var manifest, daemonSet string
	var err error
	switch p {
	case NoProxy:
		return nil
	case Beeline:
		daemonSet = "beeline"
		manifest, err = c.beelineManifest()
	case KubeProxyNFTables, KubeProxyIPTables:
		daemonSet = "kube-proxy"
		if err := c.applyAddons(ctx, strings.TrimPrefix(string(p), "kube-proxy-")); err != nil {
			return err
		}
		manifest, err = fill(kubeProxyManifest, c.values(""))
	default:
		return fmt.Errorf("no proxy has the name %q", p)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	if err := c.Apply(ctx, manifest); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	_, err = c.Kubectl(ctx, "--namespace=kube-system", "rollout", "status", "daemonset/"+daemonSet, "--timeout=90s")
	if err != nil {
		return fmt.Errorf("wait for %s: %w", p, err)
	}
	return nil
}

// daemonSet is the name of the proxy's; empty if it has none.
func (p Proxy) daemonSet() string {
	switch {
	case p == Beeline:
		return "beeline"
	case p.IsKubeProxy():
		return "kube-proxy"
	}
	return ""
}

// Process is the name of the proxy's process.
func (p Proxy) Process() string { return p.daemonSet() }

// RemoveProxy ends a proxy on every node and removes what it left in the
// kernels: the nodes are as if none had ever run.
func (c *Cluster) RemoveProxy(ctx context.Context, p Proxy) error {
	if p == NoProxy {
		return nil
	}
	_, err := c.Kubectl(ctx, "--namespace=kube-system", "delete", "daemonset/"+p.daemonSet(),
		"--cascade=foreground", "--ignore-not-found", "--timeout=90s")
	if err != nil {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	clean := []string{"nft", "flush", "ruleset"} // iptables is that of nftables, too
	if p == Beeline {
		program, err := c.Beeline()
		if err != nil {
			return err
		}
		clean = []string{program, "cleanup"}
	}
	for n := range c.cfg.Nodes {
		var said strings.Builder
		if err := c.RunIn(ctx, NodeName(n+1), &said, clean...); err != nil {
			return fmt.Errorf("remove %s from %s: %s: %w", p, NodeName(n+1), said.String(), err)
		}
	}
	return nil
}

// Beeline puts Beeline's program into every box, and returns where it is there.
func (c *Cluster) Beeline() (string, error) {
	outside, inside := c.SharedDir("bin")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		return "", err
	}
	// Renamed, since the last one may be running.
	temp := filepath.Join(outside, "beeline.new")
	if err := os.WriteFile(temp, c.kit.Beeline, 0o755); err != nil {
		return "", err
	}
	return filepath.Join(inside, "beeline"), os.Rename(temp, filepath.Join(outside, "beeline"))
}

// beelineManifest is the manifest as it is in the work tree, with the arguments
// that the configuration adds; on machines that still have cgroup v1 beside v2,
// also with the place where v2 is mounted there.
func (c *Cluster) beelineManifest() (string, error) {
	text, err := os.ReadFile(filepath.Join(c.kit.Tree, beelineManifest))
	if err != nil {
		return "", err
	}
	mount, err := lab.CgroupMount()
	if err != nil {
		return "", err
	}
	args := slices.Clone(c.cfg.AgentArgs)
	if mount != "/sys/fs/cgroup" {
		args = append(args, "--cgroup-root="+mount)
	}
	if len(args) == 0 {
		return string(text), nil
	}
	return addAgentArgs(string(text), args...)
}

// addAgentArgs adds arguments to the only container of the only DaemonSet.
func addAgentArgs(manifests string, args ...string) (string, error) {
	var objects []any
	for _, document := range strings.Split(manifests, "\n---\n") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(document), &o); err != nil {
			return "", err
		}
		if o["kind"] == "DaemonSet" {
			container := dig(o, "spec", "template", "spec", "containers").([]any)[0].(map[string]any)
			for _, arg := range args {
				container["args"] = append(container["args"].([]any), arg)
			}
		}
		objects = append(objects, o)
	}
	return toYAML(objects...)
}

func dig(o any, path ...string) any {
	for _, key := range path {
		o = o.(map[string]any)[key]
	}
	return o
}
