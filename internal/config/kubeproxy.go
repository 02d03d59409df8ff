// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// proxyMode is kube-proxy's "mode".
type proxyMode string

const (
	modeIPTables proxyMode = "iptables"
	modeIPVS     proxyMode = "ipvs"
	modeNFTables proxyMode = "nftables"
)

// alias is a field or flag of kube-proxy and what becomes of it.
type alias struct {
	name  string
	shape shape
	// to is the path of the setting it stands for; empty for none.
	to string
	// modes are those of kube-proxy in which it counts; nil for all.
	modes []proxyMode
	// ownZero: 0 or false is a value. Elsewhere kube-proxy takes a zero value
	// for "default", and so does this package.
	ownZero bool
	// comma: the text is a comma-separated list.
	comma bool
	// rule judges the items of one that stands for no setting.
	rule rule
	// take replaces the usual treatment, for those that are special.
	take func(*merge, given) []given
	// why says why it stands for no setting, or what is special about it.
	why string
}

// rule is what is allowed where no setting says so; the zero rule allows all.
type rule struct {
	ok      func(string) bool
	allowed string
}

func ruleOf[T any](c codec[T]) rule {
	return rule{func(s string) bool { _, ok := c.parse(s); return ok }, c.allowed}
}

// outcome says in a few words what becomes of it.
func (a alias) outcome() string {
	switch {
	case a.to == "":
		return a.why
	case a.why == "":
		return "sets `" + a.to + "`"
	}
	return "sets `" + a.to + "`: " + a.why
}

// modeRule allows kube-proxy's modes on Linux.
func modeRule() rule {
	modes := oneOf(modeIPTables, modeIPVS, modeNFTables)
	return rule{
		func(s string) bool { _, ok := modes.parse(s); return ok || s == "" },
		modes.allowed + ", or empty",
	}
}

const (
	whyWindows   = "ignored: Windows only"
	whyLogging   = "ignored: logs are not buffered or split"
	whyIPVS      = "ignored: there is no IPVS"
	whyNoMark    = "ignored: packets are translated without a mark, and no rule looks for one"
	whyFlowTimes = "ignored: IPVS's own timeouts; see `conntrack`"
)

// kubeProxyFields lists every field of KubeProxyConfiguration v1alpha1.
func kubeProxyFields() []alias {
	return slices.Concat(kubeProxyGeneral(), kubeProxyModes(), kubeProxyLogging(), kubeProxyWindows())
}

func kubeProxyGeneral() []alias {
	return []alias{
		{name: "featureGates", shape: shapeGates, take: (*merge).featureGates, why: "AllowServiceExternalIPs sets `claims.externalIPs`; others are ignored"},
		{name: "clientConnection.kubeconfig", to: "kubernetes.kubeconfig"},
		{name: "clientConnection.acceptContentTypes", to: "kubernetes.acceptContentTypes"},
		{name: "clientConnection.contentType", to: "kubernetes.contentType"},
		{name: "clientConnection.qps", shape: shapeNumber, to: "kubernetes.qps"},
		{name: "clientConnection.burst", shape: shapeInteger, to: "kubernetes.burst"},
		{name: "hostnameOverride", to: "node.name"},
		{name: "bindAddress", to: "node.ip"},
		{name: "healthzBindAddress", to: "health.bindAddress"},
		{name: "metricsBindAddress", to: "metrics.bindAddress"},
		{name: "bindAddressHardFail", shape: shapeBoolean, to: "bindAddressHardFail"},
		{name: "enableProfiling", shape: shapeBoolean, to: "metrics.profiling"},
		{name: "showHiddenMetricsForVersion", why: "ignored: no metric is hidden"},
		{name: "mode", rule: modeRule(), take: (*merge).mode, why: "accepted; eBPF runs in any case. It picks which of the sections below counts, and the defaults of NodePorts"},
		{name: "detectLocalMode", to: "localTraffic.mode"},
		{name: "detectLocal.bridgeInterface", to: "localTraffic.bridgeInterface"},
		{name: "detectLocal.interfaceNamePrefix", to: "localTraffic.interfaceNamePrefix"},
		{name: "clusterCIDR", comma: true, to: "localTraffic.clusterCIDRs"},
		{name: "nodePortAddresses", shape: shapeList, to: "nodePorts.addresses"},
		{name: "oomScoreAdj", shape: shapeInteger, ownZero: true, to: "oomScoreAdj"},
		{name: "conntrack.maxPerCore", shape: shapeInteger, ownZero: true, to: "conntrack.maxPerCore"},
		{name: "conntrack.min", shape: shapeInteger, ownZero: true, to: "conntrack.min"},
		{name: "conntrack.tcpEstablishedTimeout", ownZero: true, to: "conntrack.tcpEstablishedTimeout"},
		{name: "conntrack.tcpCloseWaitTimeout", ownZero: true, to: "conntrack.tcpCloseWaitTimeout"},
		{name: "conntrack.tcpBeLiberal", shape: shapeBoolean, to: "conntrack.tcpBeLiberal"},
		{name: "conntrack.udpTimeout", to: "conntrack.udpTimeout"},
		{name: "conntrack.udpStreamTimeout", to: "conntrack.udpStreamTimeout"},
		{name: "configSyncPeriod", to: "kubernetes.resyncPeriod"},
		{name: "portRange", why: "ignored, by kube-proxy too"},
	}
}

func kubeProxyModes() []alias {
	iptables, nftables := []proxyMode{modeIPTables}, []proxyMode{modeNFTables}
	ipvs, notNFTables := []proxyMode{modeIPVS}, []proxyMode{modeIPTables, modeIPVS}
	const minPeriod = "0s is taken literally; kube-proxy makes it 1s"
	return []alias{
		{name: "iptables.masqueradeBit", shape: shapeInteger, ownZero: true, modes: notNFTables, rule: ruleOf(integer(0, 31)), why: whyNoMark},
		{name: "iptables.masqueradeAll", shape: shapeBoolean, modes: notNFTables, to: "masquerade.all"},
		{name: "iptables.localhostNodePorts", shape: shapeBoolean, ownZero: true, modes: iptables, to: "nodePorts.localhost"},
		{name: "iptables.syncPeriod", modes: iptables, to: "sync.period"},
		{name: "iptables.minSyncPeriod", modes: iptables, to: "sync.minPeriod", why: minPeriod},
		{name: "nftables.masqueradeBit", shape: shapeInteger, ownZero: true, modes: nftables, rule: ruleOf(integer(0, 31)), why: whyNoMark},
		{name: "nftables.masqueradeAll", shape: shapeBoolean, modes: nftables, to: "masquerade.all"},
		{name: "nftables.syncPeriod", modes: nftables, to: "sync.period"},
		{name: "nftables.minSyncPeriod", modes: nftables, to: "sync.minPeriod", why: minPeriod},
		{name: "ipvs.syncPeriod", modes: ipvs, to: "sync.period"},
		{name: "ipvs.minSyncPeriod", modes: ipvs, to: "sync.minPeriod"},
		{name: "ipvs.scheduler", modes: ipvs, why: "ignored: each new connection picks at random among the backends"},
		{name: "ipvs.excludeCIDRs", shape: shapeList, modes: ipvs, rule: ruleOf(prefix()), why: whyIPVS},
		{name: "ipvs.strictARP", shape: shapeBoolean, modes: ipvs, why: "ignored: Service addresses are on no device, so there is no ARP to be strict about"},
		{name: "ipvs.tcpTimeout", modes: ipvs, rule: ruleOf(duration(0)), why: whyFlowTimes},
		{name: "ipvs.tcpFinTimeout", modes: ipvs, rule: ruleOf(duration(0)), why: whyFlowTimes},
		{name: "ipvs.udpTimeout", modes: ipvs, rule: ruleOf(duration(0)), why: whyFlowTimes},
	}
}

func kubeProxyLogging() []alias {
	return []alias{
		{name: "logging.format", to: "logging.format"},
		{name: "logging.verbosity", shape: shapeInteger, to: "logging.verbosity"},
		{name: "logging.flushFrequency", shape: shapeAny, why: whyLogging},
		{name: "logging.vmodule", shape: shapeAny, why: "ignored: verbosity is not set file by file"},
		{name: "logging.options.text.splitStream", shape: shapeBoolean, why: whyLogging},
		{name: "logging.options.text.infoBufferSize", shape: shapeAny, why: whyLogging},
		{name: "logging.options.json.splitStream", shape: shapeBoolean, why: whyLogging},
		{name: "logging.options.json.infoBufferSize", shape: shapeAny, why: whyLogging},
	}
}

func kubeProxyWindows() []alias {
	return []alias{
		{name: "winkernel.networkName", why: whyWindows},
		{name: "winkernel.sourceVip", why: whyWindows},
		{name: "winkernel.enableDSR", shape: shapeBoolean, why: whyWindows},
		{name: "winkernel.rootHnsEndpointName", why: whyWindows},
		{name: "winkernel.forwardHealthCheckVip", shape: shapeBoolean, why: whyWindows},
		{name: "windowsRunAsService", shape: shapeBoolean, why: whyWindows},
	}
}

// kubeProxyFlags lists the flags of kube-proxy that have another name here or
// stand for no setting. All its other flags are Beeline's own, by the same name.
func kubeProxyFlags() []alias {
	notIPVS, ipvs := []proxyMode{modeIPTables, modeNFTables}, []proxyMode{modeIPVS}
	return []alias{
		{name: "hostname-override", to: "node.name"},
		{name: "proxy-mode", rule: modeRule(), take: (*merge).mode, why: "accepted; eBPF runs in any case"},
		{name: "feature-gates", shape: shapeList, take: (*merge).featureGates, why: "AllowServiceExternalIPs sets `claims.externalIPs`; others are ignored"},
		{name: "iptables-masquerade-bit", shape: shapeInteger, rule: ruleOf(integer(0, 31)), why: whyNoMark},
		{name: "iptables-localhost-nodeports", shape: shapeBoolean, to: "nodePorts.localhost"},
		{name: "iptables-sync-period", modes: notIPVS, to: "sync.period"},
		{name: "iptables-min-sync-period", modes: notIPVS, to: "sync.minPeriod"},
		{name: "ipvs-sync-period", modes: ipvs, to: "sync.period"},
		{name: "ipvs-min-sync-period", modes: ipvs, to: "sync.minPeriod"},
		{name: "ipvs-scheduler", why: "ignored: each new connection picks at random among the backends"},
		{name: "ipvs-exclude-cidrs", shape: shapeList, rule: ruleOf(prefix()), why: whyIPVS},
		{name: "ipvs-strict-arp", shape: shapeBoolean, why: "ignored: Service addresses are on no device"},
		{name: "ipvs-tcp-timeout", rule: ruleOf(duration(0)), why: whyFlowTimes},
		{name: "ipvs-tcpfin-timeout", rule: ruleOf(duration(0)), why: whyFlowTimes},
		{name: "ipvs-udp-timeout", rule: ruleOf(duration(0)), why: whyFlowTimes},
		{name: "healthz-port", shape: shapeInteger, take: (*merge).port, why: "0 switches `health.bindAddress` off, another number is its port"},
		{name: "metrics-port", shape: shapeInteger, take: (*merge).port, why: "0 switches `metrics.bindAddress` off, another number is its port"},
		{name: "show-hidden-metrics-for-version", why: "ignored: no metric is hidden"},
		{name: "vmodule", why: "ignored: verbosity is not set file by file"},
		{name: "log-flush-frequency", why: whyLogging},
		{name: "log-json-split-stream", shape: shapeBoolean, why: whyLogging},
		{name: "log-json-info-buffer-size", why: whyLogging},
		{name: "log-text-split-stream", shape: shapeBoolean, why: whyLogging},
		{name: "log-text-info-buffer-size", why: whyLogging},
		{name: "boot-id-file", why: "ignored: not needed"},
		{name: "machine-id-file", why: "ignored: not needed"},
	}
}

// sharedFlags lists the flags that Beeline has under kube-proxy's name.
func sharedFlags() []string {
	return []string{
		"bind-address", "bind-address-hard-fail", "cluster-cidr", "config-sync-period",
		"conntrack-max-per-core", "conntrack-min", "conntrack-tcp-be-liberal",
		"conntrack-tcp-timeout-close-wait", "conntrack-tcp-timeout-established",
		"conntrack-udp-timeout", "conntrack-udp-timeout-stream", "detect-local-mode",
		"healthz-bind-address", "kube-api-burst", "kube-api-content-type", "kube-api-qps",
		"kubeconfig", "logging-format", "masquerade-all", "master", "metrics-bind-address",
		"nodeport-addresses", "oom-score-adj", "pod-bridge-interface",
		"pod-interface-name-prefix", "profiling", "v",
	}
}

// ignoredWithConfig tells of a flag whether kube-proxy ignores it beside
// --config. It heeds the node's name, the API server's address and logging.
func ignoredWithConfig(flag string) bool {
	switch flag {
	case "hostname-override", "master", "v", "logging-format":
		return false
	}
	return slices.Contains(sharedFlags(), flag) ||
		slices.ContainsFunc(kubeProxyFlags(), func(a alias) bool { return a.name == flag })
}

// kubeProxyMode is the mode that kube-proxy would run in: of the flag, the
// file, or its default.
func (l *Loader) kubeProxyMode(doc *document) proxyMode {
	mode := ""
	if doc != nil {
		mode, _ = doc.fields["mode"].(string)
	}
	if values, ok := l.given("proxy-mode"); ok {
		mode = values[0]
	}
	if mode == "" {
		return modeIPTables
	}
	return proxyMode(mode)
}

// modeDefaults are the defaults that depend on kube-proxy's mode: who moves
// from it keeps what was reachable before.
func modeDefaults(mode proxyMode, where string) []given {
	noLocalhost := given{where, "nodePorts.localhost", []string{"false"}, quote(mode)}
	switch mode {
	case modeNFTables:
		return []given{noLocalhost, {where, "nodePorts.addresses", []string{string(Primary)}, quote(mode)}}
	case modeIPVS:
		return []given{noLocalhost}
	}
	return nil
}

// fromKubeProxy reads a KubeProxyConfiguration. As in kube-proxy, unknown
// fields are no problem, and a zero value means the default.
func (m *merge) fromKubeProxy(doc *document, mode proxyMode) []given {
	if doc == nil {
		return modeDefaults(mode, "--proxy-mode")
	}
	if doc.duplicate != nil {
		m.note(slog.LevelWarn, doc.name, doc.duplicate.Error())
	}
	table := kubeProxyFields()
	var known []string
	for _, a := range table {
		known = append(known, a.name)
	}
	f := doc.find(known)
	for _, path := range f.unknown {
		m.note(slog.LevelWarn, doc.where(path), "unknown field, ignored"+suggestion(path, known))
	}
	for _, path := range f.scalars {
		m.problem(doc.where(path), "", "must be a mapping")
	}
	settings := modeDefaults(mode, doc.where("mode"))
	for _, a := range table {
		if raw, ok := f.leaves[a.name]; ok {
			settings = append(settings, m.kubeProxyField(doc, a, raw, mode)...)
		}
	}
	return settings
}

// kubeProxyField turns one field of kube-proxy's file into settings.
func (m *merge) kubeProxyField(doc *document, a alias, raw any, mode proxyMode) []given {
	where := doc.where(a.name)
	list, ok := items(a.shape, raw)
	if !ok {
		m.problem(where, quote(raw), "must be "+a.shape.phrase())
		return nil
	}
	if zero(list) && !a.ownZero {
		return nil
	}
	return m.alias(a, given{where, a.to, list, quote(raw)}, mode, false)
}

// zero tells whether kube-proxy cannot tell a value from an absent one.
func zero(items []string) bool {
	if len(items) == 1 {
		if n, err := strconv.ParseFloat(items[0], 64); err == nil {
			return n == 0
		}
		if d, ok := duration(0).parse(items[0]); ok {
			return d == 0
		}
		return items[0] == "" || items[0] == "false"
	}
	return len(items) == 0
}

// fromKubeProxyFlags reads the flags that have another name here.
func (m *merge) fromKubeProxyFlags(l *Loader, mode proxyMode) []given {
	var settings []given
	for _, a := range kubeProxyFlags() {
		if values, ok := l.given(a.name); ok {
			settings = append(settings, m.alias(a, given{"--" + a.name, a.to, values, shown(values)}, mode, true)...)
		}
	}
	return settings
}

// alias judges what kube-proxy's field or flag was given and makes the settings
// it stands for. It notes what stands for none if told to, or if the mode in
// use would have heeded it.
func (m *merge) alias(a alias, g given, mode proxyMode, isFlag bool) []given {
	counts := a.modes == nil || slices.Contains(a.modes, mode)
	for _, item := range g.items {
		if a.rule.ok != nil && counts && !a.rule.ok(item) {
			m.problem(g.where, g.shown, "must be "+a.rule.allowed)
			return nil
		}
	}
	switch {
	case a.take != nil:
		return a.take(m, g)
	case !counts && isFlag:
		m.note(slog.LevelWarn, g.where, fmt.Sprintf("without effect in mode %s, as in kube-proxy", mode))
		return nil
	case !counts:
		return nil
	case a.to == "":
		m.note(slog.LevelWarn, g.where, a.why)
		return nil
	case a.to == "sync.minPeriod":
		m.note(slog.LevelInfo, g.where, "delays every change up to "+g.items[0]+"; Beeline writes a change alone and needs no delay")
	}
	if a.comma {
		g.items = strings.Split(g.items[0], ",")
	}
	return []given{g}
}

// mode takes kube-proxy's mode, which kubeProxyMode has looked at already.
func (m *merge) mode(g given) []given {
	m.note(slog.LevelInfo, g.where, g.shown+" accepted: Services run on eBPF in every mode")
	return nil
}

// port takes a deprecated flag that deprecatedPort honours later.
func (m *merge) port(g given) []given {
	m.note(slog.LevelWarn, g.where, "deprecated: use "+strings.TrimSuffix(g.where, "port")+"bind-address")
	return nil
}

// featureGates honours the one gate of kube-proxy that changes what Services
// do, and names the others.
func (m *merge) featureGates(g given) []given {
	wanted := map[string]bool{}
	for _, item := range g.items {
		name, value, _ := strings.Cut(item, "=")
		on, err := strconv.ParseBool(value)
		if err != nil {
			m.problem(g.where, fmt.Sprintf("%q", item), "must be Name=true or Name=false")
			continue
		}
		wanted[strings.TrimSpace(name)] = on
	}
	var settings []given
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		on := wanted[name]
		switch name {
		case "AllowServiceExternalIPs":
			settings = append(settings, given{g.where, "claims.externalIPs", []string{strconv.FormatBool(on)}, fmt.Sprintf("%q", fmt.Sprintf("%s=%t", name, on))})
		case "PreferSameTrafficDistribution", "MultiCIDRServiceAllocator":
			if !on {
				m.note(slog.LevelWarn, g.where, name+"=false ignored: it is always on, as in kube-proxy")
			}
		default:
			m.note(slog.LevelWarn, g.where, name+" ignored: not a feature of Beeline")
		}
	}
	return settings
}
