// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// TestEveryKubeProxyFieldIsKnown holds our table against kube-proxy's own type.
func TestEveryKubeProxyFieldIsKnown(t *testing.T) {
	want := map[string]shape{}
	kubeProxyLeaves(reflect.TypeFor[v1alpha1.KubeProxyConfiguration](), "", want)
	got := map[string]shape{}
	for _, a := range kubeProxyFields() {
		got[a.name] = a.shape
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields of KubeProxyConfiguration (-kube-proxy +ours):\n%s", diff)
	}
}

// kubeProxyLeaves finds the fields that hold a value, by path.
func kubeProxyLeaves(of reflect.Type, above string, leaves map[string]shape) {
	for _, f := range reflect.VisibleFields(of) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || len(f.Index) > 1 && name == "" || name == "kind" || name == "apiVersion" {
			continue
		}
		path, kind := above+name, f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch {
		case kind.Name() == "Duration":
			leaves[path] = shapeString
		case kind.Name() == "TimeOrMetaDuration", kind.Name() == "QuantityValue", kind.Name() == "VModuleConfiguration":
			leaves[path] = shapeAny
		case kind.Kind() == reflect.Struct:
			kubeProxyLeaves(kind, path+".", leaves)
		default:
			leaves[path] = shapeOf(kind.Kind())
		}
	}
}

func shapeOf(k reflect.Kind) shape {
	switch k {
	case reflect.Bool:
		return shapeBoolean
	case reflect.Int32, reflect.Uint32:
		return shapeInteger
	case reflect.Float32:
		return shapeNumber
	case reflect.Slice:
		return shapeList
	case reflect.Map:
		return shapeGates
	}
	return shapeString
}

// kubeProxy137Flags are the flags of kube-proxy 1.37 on Linux
// (cmd/kube-proxy/app/options.go and component-base/logs).
const kubeProxy137Flags = `bind-address bind-address-hard-fail cleanup cluster-cidr config config-sync-period
conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal conntrack-tcp-timeout-close-wait
conntrack-tcp-timeout-established conntrack-udp-timeout conntrack-udp-timeout-stream detect-local-mode
feature-gates healthz-bind-address healthz-port hostname-override init-only iptables-localhost-nodeports
iptables-masquerade-bit iptables-min-sync-period iptables-sync-period ipvs-exclude-cidrs ipvs-min-sync-period
ipvs-scheduler ipvs-strict-arp ipvs-sync-period ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout
kube-api-burst kube-api-content-type kube-api-qps kubeconfig log-flush-frequency log-json-info-buffer-size
log-json-split-stream log-text-info-buffer-size log-text-split-stream logging-format masquerade-all master
metrics-bind-address metrics-port nodeport-addresses oom-score-adj pod-bridge-interface
pod-interface-name-prefix profiling proxy-mode show-hidden-metrics-for-version v vmodule write-config-to`

func TestEveryKubeProxyFlagIsAccepted(t *testing.T) {
	set := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	NewLoader(set)
	own := []string{"cleanup", "config", "init-only", "write-config-to"}
	for _, name := range strings.Fields(kubeProxy137Flags) {
		if set.Lookup(name) == nil {
			t.Errorf("--%s is unknown", name)
		}
		renamed := slices.ContainsFunc(kubeProxyFlags(), func(a alias) bool { return a.name == name })
		if !renamed && !slices.Contains(sharedFlags(), name) && !slices.Contains(own, name) {
			t.Errorf("--%s is in none of the lists of the reference page", name)
		}
	}
	if set.ShorthandLookup("v") == nil {
		t.Error("-v is unknown")
	}
}

func TestAliasesStandForSettings(t *testing.T) {
	paths := map[string]bool{}
	flags := map[string]bool{}
	for _, f := range fields() {
		if paths[f.path] || flags[f.flag] {
			t.Errorf("%s --%s: twice", f.path, f.flag)
		}
		paths[f.path], flags[f.flag] = true, true
	}
	for _, a := range slices.Concat(kubeProxyFields(), kubeProxyFlags()) {
		if a.to != "" && !paths[a.to] {
			t.Errorf("%s: there is no setting %s", a.name, a.to)
		}
		if a.outcome() == "" {
			t.Errorf("%s: no word on what becomes of it", a.name)
		}
	}
	for _, name := range sharedFlags() {
		if !flags[name] {
			t.Errorf("--%s is no flag of a setting", name)
		}
	}
}

// kubeadmConfig is what kubeadm writes into the ConfigMap kube-proxy: every
// field, most of them at zero.
const kubeadmConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
`
