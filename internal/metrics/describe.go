// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/beeline-net/beeline/internal/model"
)

// Labels.
const (
	labelFamily = "ip_family"
	labelPolicy = "traffic_policy"
	labelCode   = "code"
	labelMap    = "map"
	labelOp     = "op"
	labelEvent  = "event"
	labelReason = "reason"
	labelCheck  = "check"

	labelPath      = "path"
	labelDirection = "direction"
)

// description is a metric as the reference page has it.
type description struct {
	name, kind, help string
	labels           []string
	// group is the page's section.
	group string
}

// The sections of the reference page.
const (
	groupKubeProxy = "kube-proxy's metrics"
	groupKernel    = "The kernel maps and programs"
	groupServices  = "Services"
	groupAgent     = "The agent"
)

// builder makes metrics, registers them and remembers what they are.
type builder struct {
	reg   prometheus.Registerer
	group string
	all   []description
}

func (b *builder) add(kind, name, help string, labels []string, c prometheus.Collector) {
	b.reg.MustRegister(c)
	b.all = append(b.all, description{name, kind, help, labels, b.group})
}

func (b *builder) counters(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	b.add("counter", name, help, labels, v)
	return v
}

func (b *builder) counter(name, help string) prometheus.Counter {
	return b.counters(name, help).WithLabelValues()
}

func (b *builder) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	b.add("gauge", name, help, labels, v)
	return v
}

func (b *builder) gauge(name, help string) prometheus.Gauge {
	return b.gauges(name, help).WithLabelValues()
}

// histograms makes a histogram for each family, both there from the start.
func (b *builder) histograms(name, help string, buckets []float64) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{labelFamily})
	b.add("histogram", name, help, []string{labelFamily}, v)
	for _, f := range model.Families {
		v.WithLabelValues(f.String())
	}
	return v
}

// syncBuckets are those of kube-proxy's durations: 1 ms to 16.4 s.
func syncBuckets() []float64 { return prometheus.ExponentialBuckets(0.001, 2, 15) }

// programmingBuckets are those of the network programming SLO: 0.25 s to 5
// minutes.
func programmingBuckets() []float64 {
	return slices.Concat(
		prometheus.LinearBuckets(0.25, 0.25, 2),
		prometheus.LinearBuckets(1, 1, 59),
		prometheus.LinearBuckets(60, 5, 12),
		prometheus.LinearBuckets(120, 30, 7),
	)
}

// describe makes and registers every metric.
func describe(reg prometheus.Registerer, build Build, reads Reads) (*Metrics, []description) {
	m, b := &Metrics{}, &builder{reg: reg}
	b.kubeProxy(m)
	b.kernel(m, reads)
	b.services(reads)
	b.agent(m, build, reads)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m, b.all
}

func (b *builder) kubeProxy(m *Metrics) {
	b.group = groupKubeProxy
	m.sync = b.histograms("kubeproxy_sync_proxy_rules_duration_seconds",
		"How long a pass over changed Services took, in seconds.", syncBuckets())
	m.fullSync = b.histograms("kubeproxy_sync_full_proxy_rules_duration_seconds",
		"The same, only passes over all Services: at the start, and after changes of the node or the configuration.", syncBuckets())
	m.partialSync = b.histograms("kubeproxy_sync_partial_proxy_rules_duration_seconds",
		"The same, only passes over the Services that changed.", syncBuckets())
	m.lastSync = b.gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds",
		"When everything known was last in the kernel, in seconds since 1970.", labelFamily)
	m.lastQueued = b.gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
		"When the last change came in, in seconds since 1970. Much later than the last sync: something hangs.", labelFamily)
	m.programming = b.histograms("kubeproxy_network_programming_duration_seconds",
		"From a change of endpoints in the cluster (endpoints.kubernetes.io/last-change-trigger-time) until the kernel knew it, in seconds. The clocks of two machines are compared.", programmingBuckets())
	m.endpointsPending = b.gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending",
		"Changes of EndpointSlices that are not in the kernel yet.")
	m.endpointChanges = b.counter("kubeproxy_sync_proxy_rules_endpoint_changes_total",
		"Changes of EndpointSlices so far.")
	m.servicesPending = b.gauge("kubeproxy_sync_proxy_rules_service_changes_pending",
		"Changes of Services that are not in the kernel yet.")
	m.serviceChanges = b.counter("kubeproxy_sync_proxy_rules_service_changes_total",
		"Changes of Services so far.")
	m.noLocalEndpoints = b.gauges("kubeproxy_sync_proxy_rules_no_local_endpoints_total",
		"Service ports with traffic policy Local that have endpoints, but none on this node.", labelPolicy, labelFamily)
	m.healthz = b.counters("kubeproxy_proxy_healthz_total",
		"Answers of /healthz.", labelCode)
	m.livez = b.counters("kubeproxy_proxy_livez_total",
		"Answers of /livez.", labelCode)
}

func (b *builder) kernel(m *Metrics, reads Reads) {
	b.group = groupKernel
	m.mapEntries = b.gauges("beeline_map_entries",
		"Entries in use of a kernel map.", labelMap)
	m.mapCapacity = b.gauges("beeline_map_capacity",
		"Entries that a kernel map has room for.", labelMap)
	m.mapWrites = b.counters("beeline_map_writes_total",
		"What was written to kernel maps: entries put and deleted, and words stored without a system call.", labelOp)
	m.mapSyscalls = b.counter("beeline_map_syscalls_total",
		"System calls made to write to kernel maps.")
	m.writeFailures = b.counter("beeline_map_write_failures_total",
		"Writes to kernel maps that failed. They are tried again.")
	m.drifted = b.counter("beeline_map_drift_total",
		"Entries of kernel maps that somebody else had changed, found when all were read back. They are repaired.")
	m.restoredDevices = b.counter("beeline_devices_restored_total",
		"Devices whose packet programs somebody else had taken off. They are put back within seconds.")
	m.heldServices = b.gauge("beeline_services_held",
		"Services of which an update is held, because it takes most backends from many of them at once.")
	m.failingServices = b.gauge("beeline_services_failing",
		"Services that are not in the kernel as they should be.")
	m.restored = b.gauges("beeline_restored_entries",
		"Entries of a kernel map that the last start took over from the agent before.", labelMap)
	m.endedSockets = b.counter("beeline_sockets_terminated_total",
		"UDP sockets that were ended because they were connected to a removed backend.")
	m.missedSockets = b.gauge("beeline_sockets_not_terminated",
		"UDP sockets that should have been, but whose network namespace the agent cannot find or enter.")
	const events, help = "beeline_datapath_events_total", "What happened in the kernel instead of a translation."
	b.add("counter", events, help, []string{labelEvent},
		read{prometheus.NewDesc(events, help, []string{labelEvent}, nil), prometheus.CounterValue, eventValues(reads)})
}

func (b *builder) agent(m *Metrics, build Build, reads Reads) {
	b.group = groupAgent
	m.refusals = b.gauges("beeline_refusals",
		"Parts of Services that are not served, such as addresses that they may not have.", labelReason)
	m.sourceProblems = b.gauge("beeline_source_problems",
		"Objects or files that cannot be used as they are; what they said before stays.")
	m.sourcesSynced = b.gauge("beeline_sources_synced",
		"1 once every source has told everything it knows. Nothing is removed from the kernel before.")
	m.startDuration = b.gauge("beeline_start_duration_seconds",
		"From the agent's start until the kernel had everything, in seconds; 0 before.")
	m.configRejected = b.gauge("beeline_config_rejected",
		"1 while the configuration files are not valid, and the agent goes on with what they said before.")
	m.configNeedsRestart = b.gauge("beeline_config_needs_restart",
		"Changed settings that take effect only after a restart.")
	const checks, help = "beeline_check_passing", "1 if a health check passes, 0 if it does not; it is part of /healthz."
	b.add("gauge", checks, help, []string{labelCheck},
		read{prometheus.NewDesc(checks, help, []string{labelCheck}, nil), prometheus.GaugeValue, checkValues(reads)})
	b.gauges("beeline_build_info", "1, with what this is as labels.", "version", "commit", "goversion").
		WithLabelValues(build.Version, build.Commit, build.Go).Set(1)
}
