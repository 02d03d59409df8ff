// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/beeline-net/beeline/internal/config"
)

var comment = regexp.MustCompile(`(?m)^ *#.*\n?`)

func TestLint(t *testing.T) {
	if out, err := helm("lint", "--strict", "--kube-version", kubeVersion, dir); err != nil {
		t.Error(out, err)
	}
}

func TestDaemonSetNeedsNoMoreThanItSays(t *testing.T) {
	all := objects(t, mustRender(t, ""))
	pod := one[*appsv1.DaemonSet](t, all).Spec.Template.Spec
	agent := pod.Containers[0]
	security := agent.SecurityContext
	least := []corev1.Capability{"BPF", "PERFMON", "NET_ADMIN"}
	if want := append(slices.Clone(least), "SYS_ADMIN"); !slices.Equal(security.Capabilities.Add, want) ||
		!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("capabilities %+v, want %v and no other", security.Capabilities, want)
	}
	without := one[*appsv1.DaemonSet](t, objects(t, mustRender(t, "terminateUDPSockets: false"))).Spec.Template.Spec.Containers[0]
	if !slices.Equal(without.SecurityContext.Capabilities.Add, least) || !slices.Contains(without.Args, "--terminate-udp-sockets=false") {
		t.Errorf("without ending UDP sockets: capabilities %v, arguments %v", without.SecurityContext.Capabilities.Add, without.Args)
	}
	if security.Privileged != nil || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem ||
		security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault || pod.HostPID || pod.HostIPC || !pod.HostNetwork {
		t.Errorf("more rights than needed: %+v, hostPID %v", security, pod.HostPID)
	}
	role := one[*rbacv1.ClusterRoleBinding](t, all).RoleRef
	if role.Kind != "ClusterRole" || role.Name != "system:node-proxier" {
		t.Errorf("role %+v; a service proxy's role is part of every cluster", role)
	}
}

// A selector is part of the object for good: what an upgrade may not change.
func TestSelectorMatchesAndStaysTheSame(t *testing.T) {
	ds := one[*appsv1.DaemonSet](t, objects(t, mustRender(t, "podLabels: {team: net}")))
	want := map[string]string{"app.kubernetes.io/name": "beeline", "app.kubernetes.io/instance": "beeline"}
	for k, v := range want {
		if ds.Spec.Selector.MatchLabels[k] != v || ds.Spec.Template.Labels[k] != v {
			t.Errorf("label %s: selector %q, pods %q, want %q", k, ds.Spec.Selector.MatchLabels[k], ds.Spec.Template.Labels[k], v)
		}
	}
	if len(ds.Spec.Selector.MatchLabels) != len(want) || ds.Spec.Template.Labels["team"] != "net" {
		t.Errorf("selector %v, labels %v", ds.Spec.Selector.MatchLabels, ds.Spec.Template.Labels)
	}
}

func TestValuesReachTheAgent(t *testing.T) {
	for _, c := range []struct {
		name, values  string
		args, missing []string
	}{
		{"as it is", "", []string{"agent", "--config=/var/lib/kube-proxy/config.conf", "--node-name=$(NODE_NAME)"}, []string{"--config=/etc/beeline/config.yaml", "--master="}},
		{"no kube-proxy", "kubeProxy: {configMap: ''}\napiServer: {url: 'https://10.0.0.1:6443'}", []string{"--master=https://10.0.0.1:6443"}, []string{"--config=/var/lib/kube-proxy/config.conf"}},
		{"cgroup v1 beside v2", "cgroupRoot: /sys/fs/cgroup/unified", []string{"--cgroup-root=/sys/fs/cgroup/unified"}, nil},
		{"conntrack", "", []string{"--sysctl-root=/host/proc/sys"}, nil},
		{"conntrack left alone", "conntrackSettings: false", nil, []string{"--sysctl-root=/host/proc/sys"}},
		{"another BPF file system", "bpffs: /run/bpf", []string{"--bpffs=/run/bpf"}, nil},
		{"settings", "config: {masquerade: {all: true}}", []string{"--config=/etc/beeline/config.yaml", "--config=/var/lib/kube-proxy/config.conf"}, nil},
		{"arguments", "extraArgs: ['--v=4']", []string{"--v=4"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := one[*appsv1.DaemonSet](t, objects(t, mustRender(t, c.values))).Spec.Template.Spec
			args := pod.Containers[0].Args
			for _, a := range c.args {
				if !slices.Contains(args, a) {
					t.Errorf("no %q among %v", a, args)
				}
			}
			for _, a := range c.missing {
				if slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, a) }) {
					t.Errorf("%q is among %v", a, args)
				}
			}
			mountsAreThere(t, pod)
		})
	}
}

// mountsAreThere: every mount names a volume and every volume is mounted.
func mountsAreThere(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	var volumes, mounts []string
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range pod.Containers[0].VolumeMounts {
		mounts = append(mounts, m.Name)
	}
	if !slices.Equal(volumes, mounts) {
		t.Errorf("volumes %v, mounts %v", volumes, mounts)
	}
}

// What stands under `config` must be a file that the agent takes.
func TestSettingsAreAFileForTheAgent(t *testing.T) {
	all := objects(t, mustRender(t, "config:\n  masquerade: {all: true}\n  nodePorts: {addresses: [primary]}\n"))
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(one[*corev1.ConfigMap](t, all).Data["config.yaml"]), 0o644); err != nil {
		t.Fatal(err)
	}
	loader := config.NewLoader(pflag.NewFlagSet("agent", pflag.ContinueOnError))
	loader.Files = []string{file}
	loaded, err := loader.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !loaded.Masquerade.All || loaded.NodePorts.Addresses[0].Keyword != config.Primary {
		t.Errorf("the agent understood %+v, %+v", loaded.Masquerade, loaded.NodePorts)
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for _, values := range []string{
		"imagee: {}",
		"image: {pullPolicy: Sometimes}",
		"image: {digest: abc}",
		"apiServer: {url: kubernetes.default}",
		"cgroupRoot: sys",
		"extraArgs: --v=4",
		"probes: {readinessPeriodSeconds: 0}",
		"monitoring: {podMonitor: {interval: often}}",
		"monitoring: {dashboards: {}}",
		"socketOptOut: maybe",
	} {
		if out, err := render(t, values); err == nil {
			t.Errorf("%q is taken:\n%s", values, out)
		}
	}
}

func mustRender(t *testing.T, values string) string {
	t.Helper()
	out, err := render(t, values)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
