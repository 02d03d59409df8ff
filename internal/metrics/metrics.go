// SPDX-License-Identifier: Apache-2.0

// Package metrics counts what the agent does, for Prometheus: under kube-proxy's
// names where the meaning is the same (pkg/proxy/metrics of Kubernetes 1.37),
// so that its dashboards and alerts go on working, and under beeline_ for the
// rest. Every registry is the caller's; nothing here is global.
package metrics

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/beeline-net/beeline/internal/model"
)

// Metrics are all metrics of an agent. Its methods are safe for concurrent use.
type Metrics struct {
	sync, fullSync, partialSync, programming *prometheus.HistogramVec
	lastSync, lastQueued, noLocalEndpoints   *prometheus.GaugeVec
	endpointChanges, serviceChanges          prometheus.Counter
	endpointsPending, servicesPending        prometheus.Gauge
	healthz, livez                           *prometheus.CounterVec

	mapEntries, mapCapacity, refusals, restored   *prometheus.GaugeVec
	mapWrites                                     *prometheus.CounterVec
	mapSyscalls, writeFailures, drifted           prometheus.Counter
	restoredDevices                               prometheus.Counter
	failingServices, heldServices, sourceProblems prometheus.Gauge
	endedSockets                                  prometheus.Counter
	missedSockets                                 prometheus.Gauge
	sourcesSynced, startDuration                  prometheus.Gauge
	configRejected, configNeedsRestart            prometheus.Gauge
}

// Reads are functions that are called at every scrape, from any goroutine;
// any of them may be nil.
type Reads struct {
	// Events returns the counters of the kernel programs, by the names that
	// package abi has for them.
	Events func() (map[string]uint64, error)
	// Services returns what Service ports have had that had anything, and
	// ServiceLimit is how many have series of their own: 0 for none.
	Services     func() ([]ServiceTraffic, error)
	ServiceLimit int
	// Checks returns whether each health check passes.
	Checks func() map[string]bool
}

// Build says which program this is.
type Build struct {
	Version, Commit, Go string
}

// New registers all metrics. It panics if one of them is registered already,
// as that is a mistake in the program.
func New(reg prometheus.Registerer, build Build, reads Reads) *Metrics {
	m, _ := describe(reg, build, reads)
	return m
}

// Handler serves what has been registered. A metric that cannot be read is
// logged and left out.
func Handler(reg prometheus.Gatherer, log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// Sync notes that a pass has written everything known in a family at end, and
// took that long. full: it was about all Services, not only about changed ones.
func (m *Metrics) Sync(family model.Family, full bool, end time.Time, took time.Duration) {
	which := m.partialSync
	if full {
		which = m.fullSync
	}
	which.WithLabelValues(name(family)).Observe(took.Seconds())
	m.sync.WithLabelValues(name(family)).Observe(took.Seconds())
	m.lastSync.WithLabelValues(name(family)).Set(seconds(end))
}

// Queued notes that a change in a family came at that time.
func (m *Metrics) Queued(family model.Family, at time.Time) {
	m.lastQueued.WithLabelValues(name(family)).Set(seconds(at))
}

// Programmed notes how long it took from a change in the cluster (an
// EndpointSlice's Trigger) until the kernel knew it; once for each slice. Like
// kube-proxy, leave out triggers from before the agent's start.
func (m *Metrics) Programmed(family model.Family, took time.Duration) {
	m.programming.WithLabelValues(name(family)).Observe(took.Seconds())
}

// Changed counts changes of Services and of EndpointSlices that came in.
func (m *Metrics) Changed(services, slices int) {
	m.serviceChanges.Add(float64(services))
	m.endpointChanges.Add(float64(slices))
}

// SetWaiting says how many changes of Services and of EndpointSlices have come
// and are not written yet.
func (m *Metrics) SetWaiting(services, slices int) {
	m.servicesPending.Set(float64(services))
	m.endpointsPending.Set(float64(slices))
}

// Policy is a traffic policy of a Service.
type Policy string

// The traffic policies, as labels have them.
const (
	Internal Policy = "internal"
	External Policy = "external"
)

// SetNoLocalEndpoints says how many Service ports have a traffic policy of
// Local, endpoints, and none of them on this node.
func (m *Metrics) SetNoLocalEndpoints(policy Policy, family model.Family, ports int) {
	m.noLocalEndpoints.WithLabelValues(string(policy), name(family)).Set(float64(ports))
}

// Healthz counts an answer of /healthz.
func (m *Metrics) Healthz(code int) { m.healthz.WithLabelValues(strconv.Itoa(code)).Inc() }

// Livez counts an answer of /livez.
func (m *Metrics) Livez(code int) { m.livez.WithLabelValues(strconv.Itoa(code)).Inc() }

// SetMap says how full a kernel map is.
func (m *Metrics) SetMap(table string, entries, capacity int) {
	m.mapEntries.WithLabelValues(table).Set(float64(entries))
	m.mapCapacity.WithLabelValues(table).Set(float64(capacity))
}

// Wrote counts what was written to kernel maps: entries put and deleted, words
// stored, and the system calls it took.
func (m *Metrics) Wrote(puts, deletes, stores, syscalls int) {
	m.mapWrites.WithLabelValues("put").Add(float64(puts))
	m.mapWrites.WithLabelValues("delete").Add(float64(deletes))
	m.mapWrites.WithLabelValues("store").Add(float64(stores))
	m.mapSyscalls.Add(float64(syscalls))
}

// WriteFailed counts writes to kernel maps that failed.
func (m *Metrics) WriteFailed(writes int) { m.writeFailures.Add(float64(writes)) }

// Drifted counts entries of kernel maps that were not what they were left as.
func (m *Metrics) Drifted(entries int) { m.drifted.Add(float64(entries)) }

// RestoredDevices counts devices that had their programs put back, because
// somebody had taken them off.
func (m *Metrics) RestoredDevices(devices int) { m.restoredDevices.Add(float64(devices)) }

// EndedSockets counts sockets that were ended, and says how many more should be.
func (m *Metrics) EndedSockets(ended, missed int) {
	m.endedSockets.Add(float64(ended))
	m.missedSockets.Set(float64(missed))
}

// SetFailing says how many Services are not in the kernel as they should be.
func (m *Metrics) SetFailing(services int) { m.failingServices.Set(float64(services)) }

// SetHeld says of how many Services an update is held.
func (m *Metrics) SetHeld(services int) { m.heldServices.Set(float64(services)) }

// SetSourceProblems says how many objects or files a source cannot use as they
// are.
func (m *Metrics) SetSourceProblems(objects int) { m.sourceProblems.Set(float64(objects)) }

// SetRefusals says how many parts of Services are not served, for each reason
// (package plan's Reason) that there is or was: 0 if none is any more.
func (m *Metrics) SetRefusals(byReason map[string]int) {
	for reason, n := range byReason {
		m.refusals.WithLabelValues(reason).Set(float64(n))
	}
}

// SetSynced says whether every source has told everything it knows.
func (m *Metrics) SetSynced(synced bool) { m.sourcesSynced.Set(truth(synced)) }

// Restored notes how many entries of a kernel map a start has taken over.
func (m *Metrics) Restored(table string, entries int) {
	m.restored.WithLabelValues(table).Set(float64(entries))
}

// InStep notes how long it took from the start until the kernel had everything.
func (m *Metrics) InStep(took time.Duration) { m.startDuration.Set(took.Seconds()) }

// SetConfigRejected says whether the configuration files are not valid as they
// are, so that the agent goes on with what they said before.
func (m *Metrics) SetConfigRejected(rejected bool) { m.configRejected.Set(truth(rejected)) }

// SetNeedsRestart says how many changed settings wait for a restart.
func (m *Metrics) SetNeedsRestart(settings int) { m.configNeedsRestart.Set(float64(settings)) }

func name(family model.Family) string { return family.String() }

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / float64(time.Second) }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
