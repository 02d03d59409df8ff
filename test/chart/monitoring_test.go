// SPDX-License-Identifier: Apache-2.0

package chart

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const allMonitoring = `
monitoring:
  podMonitor: {create: true, labels: {release: prometheus}, interval: 15s}
  alerts: {create: true, labels: {release: prometheus}}
  dashboard: {create: true, namespace: grafana, annotations: {grafana_folder: Network}}
`

// custom is an object of the Prometheus operator, whose types are in no library
// that is here.
type custom struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name, Namespace string
		Labels          map[string]string
	} `json:"metadata"`
	Spec map[string]any `json:"spec"`
}

// ofTheOperator takes the operator's objects out of manifests.
func ofTheOperator(t *testing.T, manifests string) (all map[string]custom, rest string) {
	t.Helper()
	all = map[string]custom{}
	var others []string
	for _, document := range strings.Split(manifests, "\n---\n") {
		if !strings.Contains(document, "apiVersion: monitoring.coreos.com/v1") {
			others = append(others, document)
			continue
		}
		var c custom
		if err := yaml.UnmarshalStrict([]byte(document), &c); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		all[c.Kind] = c
	}
	return all, strings.Join(others, "\n---\n")
}

func TestNothingToMonitorUnlessAsked(t *testing.T) {
	out := mustRender(t, "")
	for _, word := range []string{"monitoring.coreos.com", "grafana", "10249"} {
		if strings.Contains(out, word) {
			t.Errorf("%s is in it", word)
		}
	}
}

func TestAlertsAreThoseOfTheFile(t *testing.T) {
	all, _ := ofTheOperator(t, mustRender(t, allMonitoring))
	rule := all["PrometheusRule"]
	if rule.Metadata.Labels["release"] != "prometheus" || rule.Metadata.Namespace != "kube-system" {
		t.Errorf("%+v", rule.Metadata)
	}
	var want map[string]any
	read(t, "files/alerts.yaml", func(b []byte) error { return yaml.Unmarshal(b, &want) })
	if diff := cmp.Diff(want, rule.Spec); diff != "" || len(want) == 0 {
		t.Errorf("-file +rule\n%s", diff)
	}
}

func TestDashboardIsThatOfTheFile(t *testing.T) {
	_, rest := ofTheOperator(t, mustRender(t, allMonitoring))
	cm := one[*corev1.ConfigMap](t, objects(t, rest))
	if cm.Namespace != "grafana" || cm.Labels["grafana_dashboard"] != "1" || cm.Annotations["grafana_folder"] != "Network" {
		t.Errorf("%+v", cm.ObjectMeta)
	}
	var got, want any
	if err := json.Unmarshal([]byte(cm.Data["beeline.json"]), &got); err != nil {
		t.Fatal(err)
	}
	read(t, "files/dashboard.json", func(b []byte) error { return json.Unmarshal(b, &want) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-file +ConfigMap\n%s", diff)
	}
}

// What Prometheus is told to fetch is there: the port has a name, and metrics are
// served on the node's address, which may be of either family and so has no port behind
// it.
func TestPodMonitorFindsTheMetrics(t *testing.T) {
	all, rest := ofTheOperator(t, mustRender(t, allMonitoring))
	var spec struct {
		Selector            struct{ MatchLabels map[string]string }
		PodMetricsEndpoints []struct{ Port, Interval string }
	}
	b, err := json.Marshal(all["PodMonitor"].Spec)
	if err == nil {
		err = json.Unmarshal(b, &spec)
	}
	if err != nil || len(spec.PodMetricsEndpoints) != 1 || spec.PodMetricsEndpoints[0].Interval != "15s" {
		t.Fatalf("%v: %+v", err, spec)
	}
	pods := one[*appsv1.DaemonSet](t, objects(t, rest)).Spec.Template
	for k, v := range spec.Selector.MatchLabels {
		if pods.Labels[k] != v {
			t.Errorf("pods have the label %s=%q, not %q", k, pods.Labels[k], v)
		}
	}
	agent := pods.Spec.Containers[0]
	named := func(p corev1.ContainerPort) bool {
		return p.Name == spec.PodMetricsEndpoints[0].Port && p.ContainerPort == 10249
	}
	if !slices.ContainsFunc(agent.Ports, named) || !slices.Contains(agent.Args, "--metrics-bind-address=$(NODE_IP)") ||
		!slices.ContainsFunc(agent.Env, func(e corev1.EnvVar) bool { return e.Name == "NODE_IP" }) {
		t.Errorf("ports %v, arguments %v, environment %v", agent.Ports, agent.Args, agent.Env)
	}
}

// The opt-out takes a right that a service proxy has not, and no more than the
// file says that is there for kubectl.
func TestSocketOptOut(t *testing.T) {
	all := objects(t, mustRender(t, "socketOptOut: true"))
	file, err := os.ReadFile("../../deploy/socket-opt-out.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, got := one[*rbacv1.ClusterRole](t, objects(t, string(file))), one[*rbacv1.ClusterRole](t, all)
	if diff := cmp.Diff(want.Rules, got.Rules); diff != "" {
		t.Errorf("-file +chart\n%s", diff)
	}
	bound := false
	for _, o := range all {
		b, ok := o.(*rbacv1.ClusterRoleBinding)
		bound = bound || ok && b.RoleRef.Name == got.Name && b.Subjects[0].Name == "beeline"
	}
	args := one[*appsv1.DaemonSet](t, all).Spec.Template.Spec.Containers[0].Args
	if !bound || !slices.Contains(args, "--socket-opt-out") {
		t.Errorf("bound %v, arguments %v", bound, args)
	}
	if out := mustRender(t, ""); strings.Contains(out, "opt-out") {
		t.Error("it is there without being asked for")
	}
}
