// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"
)

var compareAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// newLoader parses args, in which FILE0, FILE1, … stand for files with the
// given contents, on a host named "Host-1".
func newLoader(t *testing.T, contents []string, args ...string) *Loader {
	t.Helper()
	dir := t.TempDir()
	for i, content := range contents {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config="+path)
	}
	set := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	l := NewLoader(set)
	l.Hostname = func() (string, error) { return "Host-1", nil }
	if err := set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return l
}

// expected is Default with changes.
func expected(change func(*Config)) Config {
	c := Default()
	c.Node.Name = "host-1"
	if change != nil {
		change(&c)
	}
	return c
}

func kubeProxyFile(lines ...string) string {
	return "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n" + strings.Join(lines, "\n") + "\n"
}

func beelineFile(lines ...string) string {
	return "apiVersion: beeline.dev/v1alpha1\nkind: AgentConfiguration\n" + strings.Join(lines, "\n") + "\n"
}

func TestLoad(t *testing.T) {
	primary := []NodePortAddress{{Keyword: Primary}}
	for name, test := range map[string]struct {
		files []string
		args  []string
		want  func(*Config)
	}{
		"nothing given": {},
		"kubeadm's ConfigMap changes only what it sets": {
			files: []string{kubeadmConfig},
			args:  []string{"--hostname-override=Worker-7"},
			want: func(c *Config) {
				c.Node.Name = "worker-7"
				c.Kubernetes.Kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"
				c.LocalTraffic.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
			},
		},
		"a flag beats Beeline's file, which beats kube-proxy's": {
			files: []string{
				kubeProxyFile("healthzBindAddress: 0.0.0.0:1", "metricsBindAddress: 0.0.0.0:1", "oomScoreAdj: 1"),
				beelineFile("health: {bindAddress: 0.0.0.0:2}", "metrics: {bindAddress: 0.0.0.0:2}"),
			},
			args: []string{"--metrics-bind-address=0.0.0.0:3"},
			want: func(c *Config) {
				c.OOMScoreAdj = 1
				c.Health.Bind = netip.MustParseAddrPort("0.0.0.0:2")
				c.Metrics.Bind = netip.MustParseAddrPort("0.0.0.0:3")
			},
		},
		"and does so in whichever order the files come": {
			files: []string{beelineFile("oomScoreAdj: 2"), kubeProxyFile("oomScoreAdj: 1")},
			want:  func(c *Config) { c.OOMScoreAdj = 2 },
		},
		"JSON is YAML": {
			files: []string{`{"apiVersion":"beeline.dev/v1alpha1","kind":"AgentConfiguration","maps":{"frontends":64}}`},
			want:  func(c *Config) { c.Maps.Frontends = 64 },
		},
		"null counts as not given": {
			files: []string{beelineFile("maps: {frontends: null}", "node:", "claims: {allowed: null}")},
		},
		"every setting of our own has a flag": {
			args: []string{
				"--node-name=N1", "--manifests=/m", "--cgroup-root=/c", "--bpffs=/b",
				"--max-frontends=16", "--max-services=17", "--max-slots=18", "--max-backends=19", "--max-peers=20", "--max-affinities=21", "--max-flows=22", "--max-service-counts=23", "--metrics-service-limit=24",
				"--refuse-unknown-ports=false", "--tcp-peer-records=false", "--terminate-udp-sockets=false", "--socket-balancing=all", "--packet-path=false", "--cluster-ip-from-outside=false", "--echo-reply", "--service-counts=false",
				"--masquerade-local", "--masquerade-ports=2000-3000", "--sysctl-root=/s", "--strict-claims", "--claim-cidrs=10.1.2.3/8,fd00::/8", "--claim-cidrs=11.0.0.0/8", "--leave-cidrs=10.96.0.10/32",
				"-v", "4", "--logging-format=json", "--sync-period=1m", "--min-sync-period=5ms",
			},
			want: func(c *Config) {
				c.Node.Name, c.Manifests, c.Kernel = "n1", "/m", Kernel{"/c", "/b", "/s"}
				c.Maps = Maps{16, 17, 18, 19, 20, 21, 22, 23}
				c.Metrics.ServiceLimit = 24
				c.Datapath, c.Masquerade = Datapath{EchoReply: true, SocketBalancing: AllSockets}, Masquerade{Local: true, Ports: PortRange{2000, 3000}}
				c.Claims = Claims{ExternalIPs: true, Strict: true, Allowed: []netip.Prefix{
					netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("11.0.0.0/8")},
					Leave: []netip.Prefix{netip.MustParsePrefix("10.96.0.10/32")}}
				c.Logging = Logging{4, "json"}
				c.Sync = Sync{time.Minute, 5 * time.Millisecond, 30 * time.Second}
			},
		},
		"everything of kube-proxy's in mode iptables": {
			files: []string{kubeProxyFile(
				"mode: iptables", "bindAddress: 192.0.2.1", "bindAddressHardFail: true", "enableProfiling: true",
				"clientConnection: {kubeconfig: /k, acceptContentTypes: a, contentType: b, qps: 7.5, burst: 9}",
				"clusterCIDR: 10.0.0.0/8,fd00::/8", "configSyncPeriod: 1m", "detectLocalMode: BridgeInterface",
				"detectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}", "featureGates: {AllowServiceExternalIPs: false}",
				"hostnameOverride: N2", "nodePortAddresses: [192.0.2.0/24, localhost]", "oomScoreAdj: 0",
				"iptables: {masqueradeBit: 0, masqueradeAll: true, localhostNodePorts: false, syncPeriod: 5s, minSyncPeriod: 2s}",
				"nftables: {masqueradeBit: 3, syncPeriod: 7s}", "ipvs: {syncPeriod: 8s}",
				"conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 1s, tcpBeLiberal: true, udpTimeout: 2s, udpStreamTimeout: 3s}",
				"logging: {format: json, verbosity: 2}")},
			want: func(c *Config) {
				c.Node = Node{"n2", netip.MustParseAddr("192.0.2.1")}
				c.BindHardFail, c.Metrics.Profiling = true, true
				c.Kubernetes = Kubernetes{Kubeconfig: "/k", AcceptContentTypes: "a", ContentType: "b", QPS: 7.5, Burst: 9, Resync: time.Minute,
					AddressFrom: c.Kubernetes.AddressFrom, ServerCache: c.Kubernetes.ServerCache}
				c.LocalTraffic = LocalTraffic{BridgeInterface, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}, "cni0", "veth"}
				c.Claims.ExternalIPs = false
				c.NodePorts = NodePorts{Addresses: []NodePortAddress{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}, {Keyword: Localhost}}}
				c.OOMScoreAdj, c.Masquerade.All = 0, true
				c.Sync = Sync{5 * time.Second, 2 * time.Second, 30 * time.Second}
				c.Conntrack = Conntrack{TCPCloseWait: time.Second, TCPLiberal: true, UDPUnreplied: 2 * time.Second, UDPStream: 3 * time.Second}
				c.Logging = Logging{2, "json"}
			},
		},
		"mode nftables has sections and defaults of its own": {
			files: []string{kubeProxyFile("mode: nftables", "nftables: {masqueradeBit: 3, masqueradeAll: true, syncPeriod: 7s, minSyncPeriod: 1s}",
				"iptables: {masqueradeBit: 4, localhostNodePorts: true, syncPeriod: 1s}")},
			want: func(c *Config) {
				c.NodePorts = NodePorts{Addresses: primary}
				c.Masquerade.All, c.Sync = true, Sync{7 * time.Second, time.Second, 30 * time.Second}
			},
		},
		"mode nftables with addresses": {
			files: []string{kubeProxyFile("mode: nftables", "nodePortAddresses: [all]")},
			want:  func(c *Config) { c.NodePorts.Localhost = false },
		},
		"mode ipvs": {
			files: []string{kubeProxyFile("mode: ipvs", "ipvs: {syncPeriod: 8s, minSyncPeriod: 4s, scheduler: lc, strictARP: true}", "iptables: {masqueradeBit: 5, syncPeriod: 1s}")},
			want: func(c *Config) {
				c.NodePorts.Localhost = false
				c.Sync = Sync{8 * time.Second, 4 * time.Second, 30 * time.Second}
			},
		},
		"the mode of the flag picks the file's section": {
			files: []string{kubeProxyFile("mode: iptables", "iptables: {syncPeriod: 1s}", "nftables: {syncPeriod: 2s}")},
			args:  []string{"--proxy-mode=nftables"},
			want: func(c *Config) {
				c.NodePorts, c.Sync.Period = NodePorts{Addresses: primary}, 2*time.Second
			},
		},
		"kube-proxy's flags in mode ipvs": {
			args: []string{"--proxy-mode=ipvs", "--ipvs-sync-period=9s", "--ipvs-min-sync-period=1s", "--iptables-sync-period=3s",
				"--iptables-masquerade-bit=1", "--iptables-localhost-nodeports", "--feature-gates=AllowServiceExternalIPs=false,Foo=true", "--ipvs-scheduler=rr"},
			want: func(c *Config) {
				c.Sync, c.Claims.ExternalIPs = Sync{9 * time.Second, time.Second, 30 * time.Second}, false
			},
		},
		"an IPv6 node listens on IPv6": {
			args: []string{"--bind-address=::"},
			want: func(c *Config) {
				c.Node.IP = netip.IPv6Unspecified()
				c.Health.Bind = netip.MustParseAddrPort("[::]:10256")
				c.Metrics.Bind = netip.MustParseAddrPort("[::1]:10249")
			},
		},
		"unless told where": {
			args: []string{"--bind-address=2001:db8::1", "--healthz-bind-address=192.0.2.1", "--metrics-bind-address=[::]:1"},
			want: func(c *Config) {
				c.Node.IP = netip.MustParseAddr("2001:db8::1")
				c.Health.Bind = netip.MustParseAddrPort("192.0.2.1:10256")
				c.Metrics.Bind = netip.MustParseAddrPort("[::]:1")
			},
		},
		"an address without a port gets the usual one": {
			files: []string{kubeProxyFile("healthzBindAddress: '::'", "metricsBindAddress: 0.0.0.0")},
			want: func(c *Config) {
				c.Health.Bind = netip.MustParseAddrPort("[::]:10256")
				c.Metrics.Bind = netip.MustParseAddrPort("0.0.0.0:10249")
			},
		},
		"servers can be switched off": {
			args: []string{"--healthz-bind-address=", "--metrics-port=0"},
			want: func(c *Config) { c.Health, c.Metrics.Bind = Health{}, netip.AddrPort{} },
		},
		"the deprecated ports": {
			args: []string{"--healthz-port=1", "--metrics-port=2", "--metrics-bind-address=0.0.0.0:3"},
			want: func(c *Config) {
				c.Health.Bind = netip.MustParseAddrPort("0.0.0.0:1")
				c.Metrics.Bind = netip.MustParseAddrPort("0.0.0.0:3")
			},
		},
		"an empty list of NodePort addresses is the default": {
			args: []string{"--nodeport-addresses="},
		},
		"two flags for one setting may agree": {
			args: []string{"--node-name=a", "--hostname-override=a"},
			want: func(c *Config) { c.Node.Name = "a" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newLoader(t, test.files, test.args...).Load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(expected(test.want), got.Config, compareAddrs); diff != "" {
				t.Errorf("configuration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	for name, test := range map[string]struct {
		files []string
		args  []string
		want  []string
	}{
		"all at once, flags and files": {
			files: []string{beelineFile("maps: {frontends: 3, slots: many}", "health: {bindAddress: 'nowhere:1'}", "sync: {period: 0s}")},
			args:  []string{"--max-peers=-1", "--oom-score-adj=2000", "--profiling=maybe"},
			want: []string{
				`FILE0: maps.slots "many": must be an integer from 16 to 67108864`,
				`FILE0: health.bindAddress "nowhere:1": must be an address and a port such as 0.0.0.0:10256 or [::]:10256, or empty to switch it off`,
				`FILE0: maps.frontends 3: must be an integer from 16 to 67108864`,
				`FILE0: sync.period "0s": must be a duration of more than 0s, such as 30s or 1h30m`,
				`--oom-score-adj "2000": must be an integer from -1000 to 1000`,
				`--max-peers "-1": must be an integer from 16 to 67108864`,
				`--profiling "maybe": must be true or false`,
			},
		},
		"an unknown field in our file": {
			files: []string{beelineFile("maps: {frontend: 64}", "nodePort: {}", "frobnicate: 1")},
			want: []string{
				`FILE0: frobnicate: unknown field`,
				`FILE0: maps.frontend: unknown field (did you mean maps.frontends?)`,
				`FILE0: nodePort: unknown field`,
			},
		},
		"a field given twice in our file": {
			files: []string{beelineFile("oomScoreAdj: 1", "oomScoreAdj: 2")},
			want:  []string{"FILE0: yaml: unmarshal errors:\n  line 4: key \"oomScoreAdj\" already set in map"},
		},
		"a value where a mapping belongs": {
			files: []string{beelineFile("maps: 1"), kubeProxyFile("conntrack: none")},
			want:  []string{"FILE1: conntrack: must be a mapping", "FILE0: maps: must be a mapping"},
		},
		"wrong types in kube-proxy's file": {
			files: []string{kubeProxyFile("oomScoreAdj: low", "bindAddressHardFail: 'true'", "nodePortAddresses: all", "configSyncPeriod: 5", "featureGates: {A: 1}")},
			want: []string{
				`FILE0: featureGates {"A":1}: must be a mapping of names to booleans`,
				`FILE0: bindAddressHardFail "true": must be a boolean`,
				`FILE0: nodePortAddresses "all": must be a list of strings`,
				`FILE0: oomScoreAdj "low": must be an integer`,
				`FILE0: configSyncPeriod 5: must be a string`,
			},
		},
		"what kube-proxy refuses": {
			files: []string{kubeProxyFile("mode: userspace", "iptables: {masqueradeBit: 32, syncPeriod: -1s}", "nodePortAddresses: [all, foo]",
				"bindAddress: eth0", "detectLocalMode: Guess", "conntrack: {min: -1, udpTimeout: -1s}", "clientConnection: {burst: -1}", "healthzBindAddress: 0.0.0.0:70000")},
			want: []string{
				`FILE0: mode "userspace": must be one of iptables, ipvs, nftables, or empty`,
				`FILE0: clientConnection.burst -1: must be an integer from 0 to 2147483647`,
				`FILE0: bindAddress "eth0": must be an IPv4 or IPv6 address`,
				`FILE0: healthzBindAddress "0.0.0.0:70000": must be an address and a port such as 0.0.0.0:10256 or [::]:10256, or empty to switch it off`,
				`FILE0: detectLocalMode "Guess": must be one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`,
				`FILE0: nodePortAddresses ["all","foo"]: must be a list, each a CIDR or one of primary, localhost, all`,
				`FILE0: conntrack.min -1: must be an integer from 0 to 2147483647`,
				`FILE0: conntrack.udpTimeout "-1s": must be a duration of 0s or more, such as 30s or 1h30m`,
			},
		},
		"sections of the mode in use are judged": {
			files: []string{kubeProxyFile("iptables: {masqueradeBit: 32, syncPeriod: -1s, localhostNodePorts: 1}")},
			want: []string{
				`FILE0: iptables.masqueradeBit 32: must be an integer from 0 to 31`,
				`FILE0: iptables.localhostNodePorts 1: must be a boolean`,
				`FILE0: iptables.syncPeriod "-1s": must be a duration of more than 0s, such as 30s or 1h30m`,
			},
		},
		"sockets that are left alone, and nobody to serve their packets": {
			args: []string{"--packet-path=false", "--socket-balancing=host", "--socket-opt-out", "--manifests=/m"},
			want: []string{
				`--socket-balancing "host": needs datapath.packetPath (flag --packet-path): without it, sockets that are left alone reach no Service`,
				`--socket-opt-out "true": needs datapath.packetPath (flag --packet-path): without it, sockets that are left alone reach no Service`,
				`--socket-opt-out "true": needs a Kubernetes API server: a folder of manifests has no Pods`,
			},
		},
		"settings that do not fit together": {
			files: []string{kubeProxyFile("detectLocalMode: BridgeInterface", "nodePortAddresses: [all, all]", "clusterCIDR: 10.0.0.0/8,11.0.0.0/8",
				"iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", "clientConnection: {kubeconfig: /k}")},
			args: []string{"--manifests=/m"},
			want: []string{
				`FILE0: nodePortAddresses ["all","all"]: must name "all" only once`,
				`localTraffic.bridgeInterface: must not be empty in mode BridgeInterface (flag --pod-bridge-interface)`,
				`FILE0: clusterCIDR "10.0.0.0/8,11.0.0.0/8": must be one CIDR, or one of each family`,
				`FILE0: iptables.minSyncPeriod "2s": must not be more than sync.period, 1s`,
				`--manifests "/m": must not be given together with a kubeconfig or master: there is one source`,
			},
		},
		"two flags that disagree": {
			args: []string{"--node-name=a", "--hostname-override=b"},
			want: []string{`--hostname-override "b": must not differ from --node-name "a", which is the same setting`},
		},
		"values of flags that are ignored": {
			args: []string{"--ipvs-exclude-cidrs=10.0.0.0/8,x", "--proxy-mode=fast", "--healthz-port=http", "--feature-gates=Foo", "--ipvs-udp-timeout=soon"},
			want: []string{
				`--proxy-mode "fast": must be one of iptables, ipvs, nftables, or empty`,
				`--feature-gates "Foo": must be Name=true or Name=false`,
				`--ipvs-exclude-cidrs "10.0.0.0/8,x": must be a CIDR such as 10.0.0.0/8 or fd00::/8`,
				`--ipvs-udp-timeout "soon": must be a duration of 0s or more, such as 30s or 1h30m`,
				`--healthz-port "http": must be a port, or 0 to switch the server off`,
			},
		},
		"a name that no Node has": {
			args: []string{"--node-name=a/b"},
			want: []string{`--node-name "a/b": must be the name of a Node: letters, digits, '-' and '.'; or empty for the host's name`},
		},
		"another kind of file": {
			files: []string{"kind: Pod\napiVersion: v1\n"},
			want:  []string{`FILE0 apiVersion "v1", kind "Pod": must be AgentConfiguration of beeline.dev/v1alpha1 or KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1`},
		},
		"another version": {
			files: []string{"kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1beta1\n"},
			want:  []string{`FILE0 apiVersion "kubeproxy.config.k8s.io/v1beta1", kind "KubeProxyConfiguration": must be AgentConfiguration of beeline.dev/v1alpha1 or KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1`},
		},
		"an empty file": {
			files: []string{""},
			want:  []string{`FILE0 apiVersion null, kind null: must be AgentConfiguration of beeline.dev/v1alpha1 or KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1`},
		},
		"no mapping": {
			files: []string{"- a\n"},
			want:  []string{`FILE0: must be a YAML mapping`},
		},
		"two of a kind": {
			files: []string{beelineFile(), beelineFile()},
			want:  []string{`FILE1: must be the only file of kind AgentConfiguration`},
		},
		"two documents in a file": {
			files: []string{"---\n# comment\n" + beelineFile() + "---\n" + kubeProxyFile()},
			want:  []string{`FILE0: must be one YAML document; give each document a file of its own`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoader(t, test.files, test.args...)
			_, err := l.Load()
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("error %v: want Problems", err)
			}
			var got []string
			for _, p := range problems {
				text := p.String()
				for i, path := range l.Files {
					text = strings.ReplaceAll(text, path, fmt.Sprintf("FILE%d", i))
				}
				got = append(got, text)
			}
			sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
			if diff := cmp.Diff(test.want, got, sorted); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProblemsReadAsOneMessage(t *testing.T) {
	one := Problems{{"--a", `"b"`, "must be c"}}
	if got, want := one.Error(), `configuration: --a "b": must be c`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	two := Problems{{"--a", `"b"`, "must be c"}, {"d", "", "must be e"}}
	if got, want := two.Error(), "configuration: 2 problems\n  --a \"b\": must be c\n  d: must be e"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNotes(t *testing.T) {
	for name, test := range map[string]struct {
		files []string
		args  []string
		want  []string
	}{
		"kubeadm's ConfigMap": {
			files: []string{kubeadmConfig},
			args:  []string{"--hostname-override=n", "-v=2"},
		},
		"unknown and repeated fields of kube-proxy": {
			files: []string{kubeProxyFile("udpIdleTimeout: 250ms", "healthzbindAddress: 0.0.0.0:1", "oomScoreAdj: 1", "oomScoreAdj: 2")},
			want: []string{
				"WARN FILE0: yaml: unmarshal errors:\n  line 6: key \"oomScoreAdj\" already set in map",
				"WARN FILE0: healthzbindAddress: unknown field, ignored (did you mean healthzBindAddress?)",
				"WARN FILE0: udpIdleTimeout: unknown field, ignored",
			},
		},
		"modes and what they bring": {
			files: []string{kubeProxyFile("mode: ipvs", "ipvs: {scheduler: lc, strictARP: true, excludeCIDRs: [10.0.0.0/8], tcpTimeout: 5s, minSyncPeriod: 4s}", "winkernel: {enableDSR: true}", "portRange: 1-2")},
			want: []string{
				`INFO FILE0: mode: "ipvs" accepted: Services run on eBPF in every mode`,
				"INFO FILE0: ipvs.minSyncPeriod: delays every change up to 4s; Beeline writes a change alone and needs no delay",
				"WARN FILE0: ipvs.scheduler: ignored: each new connection picks at random among the backends",
				"WARN FILE0: ipvs.excludeCIDRs: ignored: there is no IPVS",
				"WARN FILE0: ipvs.strictARP: ignored: Service addresses are on no device, so there is no ARP to be strict about",
				"WARN FILE0: ipvs.tcpTimeout: ignored: IPVS's own timeouts; see `conntrack`",
				"WARN FILE0: winkernel.enableDSR: ignored: Windows only",
				"WARN FILE0: portRange: ignored, by kube-proxy too",
			},
		},
		"sections of another mode are passed over": {
			files: []string{kubeProxyFile("ipvs: {scheduler: lc}", "nftables: {masqueradeAll: true}")},
		},
		"feature gates": {
			args: []string{"--feature-gates=Foo=true,MultiCIDRServiceAllocator=false,PreferSameTrafficDistribution=true"},
			want: []string{
				"WARN --feature-gates: Foo ignored: not a feature of Beeline",
				"WARN --feature-gates: MultiCIDRServiceAllocator=false ignored: it is always on, as in kube-proxy",
			},
		},
		"flags that kube-proxy would ignore beside a file": {
			files: []string{kubeProxyFile()},
			args:  []string{"--profiling", "--masquerade-all", "--node-name=a", "--max-peers=100", "-v=1", "--master=https://a"},
			want: []string{
				"INFO --profiling: takes effect, and overrides the file; kube-proxy would ignore it beside --config",
				"INFO --masquerade-all: takes effect, and overrides the file; kube-proxy would ignore it beside --config",
			},
		},
		"flags without effect": {
			args: []string{"--ipvs-sync-period=1s", "--vmodule=a=1", "--healthz-port=1", "--healthz-bind-address=0.0.0.0:2", "--strict-claims"},
			want: []string{
				"WARN --ipvs-sync-period: without effect in mode iptables, as in kube-proxy",
				"WARN --vmodule: ignored: verbosity is not set file by file",
				"WARN --healthz-port: deprecated: use --healthz-bind-address",
				"WARN --healthz-port: without effect beside --healthz-bind-address",
				"INFO --strict-claims: claims.allowed is empty: no Service gets an ExternalIP or a LoadBalancer address",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoader(t, test.files, test.args...)
			loaded, err := l.Load()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range loaded.Notes {
				text := fmt.Sprintf("%s %s: %s", n.Level, n.Where, n.Text)
				for i, path := range l.Files {
					text = strings.ReplaceAll(text, path, fmt.Sprintf("FILE%d", i))
				}
				got = append(got, text)
			}
			sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
			if diff := cmp.Diff(test.want, got, sorted); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	l := newLoader(t, nil, "--config=/does/not/exist")
	if _, err := l.Load(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

func TestNoHostname(t *testing.T) {
	l := newLoader(t, nil)
	l.Hostname = func() (string, error) { return "", errors.New("no name") }
	if _, err := l.Load(); err == nil || !strings.Contains(err.Error(), "--node-name") {
		t.Errorf("got %v, want one that names --node-name", err)
	}
	l.Hostname = func() (string, error) { return "(none)", nil }
	if _, err := l.Load(); err == nil || !strings.Contains(err.Error(), `"(none)"`) {
		t.Errorf("got %v, want one that names the host's name", err)
	}
}

func TestUnknownFlag(t *testing.T) {
	for arg, want := range map[string]string{
		"--node-nam=x":    "unknown flag --node-nam (did you mean node-name?)",
		"--frobnicate":    "unknown flag --frobnicate",
		"--Metrics-port0": "unknown flag --Metrics-port0 (did you mean metrics-port?)",
	} {
		set := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		l := NewLoader(set)
		if err := l.FlagError(set.Parse([]string{arg})); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", arg, err, want)
		}
	}
}

func TestWrittenConfigurationReadsTheSame(t *testing.T) {
	l := newLoader(t, []string{kubeadmConfig}, "--node-name=a", "--strict-claims", "--claim-cidrs=10.0.0.0/8,fd00::/8",
		"--healthz-bind-address=", "--nodeport-addresses=primary,192.0.2.0/24", "--sync-period=90m")
	loaded, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	again, err := newLoader(t, []string{string(loaded.YAML())}).Load()
	if err != nil {
		t.Fatalf("%v\nin:\n%s", err, loaded.YAML())
	}
	if diff := cmp.Diff(loaded.Config, again.Config, compareAddrs); diff != "" {
		t.Errorf("configuration (-written +read):\n%s\nfrom:\n%s", diff, loaded.YAML())
	}
}

func TestDocumentIsWhatAFileHolds(t *testing.T) {
	c := expected(nil)
	doc := document{fields: c.Document()}
	var known []string
	for _, f := range fields() {
		known = append(known, f.path)
	}
	found := doc.find(known)
	if len(found.unknown) > 0 || len(found.scalars) > 0 || len(found.leaves) != len(known) {
		t.Errorf("document: unknown %v, not groups %v, %d of %d settings", found.unknown, found.scalars, len(found.leaves), len(known))
	}
	if !doc.is(APIVersion, Kind) {
		t.Error("document does not say what it is")
	}
}
