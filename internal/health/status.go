// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
)

// ProxyMode is what /proxyMode answers. kube-proxy's own answers are iptables,
// ipvs and nftables; its e2e tests want status 200, and take "iptables" for
// leave to look for iptables' metrics.
const ProxyMode = "ebpf"

// Status is what the metrics port serves beside kube-proxy's metrics.
type Status struct {
	// Metrics serves /metrics.
	Metrics http.Handler
	// Config returns the configuration in use for /configz, under its API
	// group.
	Config func() (group string, document any)
	// Profiling adds /debug/pprof and /debug/flags.
	Profiling bool
	// SetVerbosity changes how much is logged, on klog's scale.
	SetVerbosity func(int)
}

// Handler serves the paths of kube-proxy's metrics port.
func (s Status) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", ping)
	mux.HandleFunc("/healthz/ping", ping)
	mux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, ProxyMode)
	})
	mux.Handle("/metrics", s.Metrics)
	mux.HandleFunc("/configz", s.configz)
	if s.Profiling {
		// The package also puts these on the default mux, which nobody serves.
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("/debug/flags/v", s.flagV)
	}
	return mux
}

// ping answers that the process runs, as Kubernetes' healthz package does.
func ping(w http.ResponseWriter, r *http.Request) {
	text := "ok"
	if r.URL.Query().Has("verbose") && r.URL.Path == "/healthz" {
		text = "[+]ping ok\nhealthz check passed\n"
	}
	writeText(w, http.StatusOK, text)
}

func (s Status) configz(w http.ResponseWriter, _ *http.Request) {
	group, document := s.Config()
	text, err := json.Marshal(map[string]any{group: document})
	if err != nil {
		http.Error(w, fmt.Sprintf("encode configuration: %v", err), http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, text)
}

// flagV changes the verbosity: curl -X PUT -d 4 …/debug/flags/v
func (s Status) flagV(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		writeText(w, http.StatusNotAcceptable, "unsupported http method\n")
		return
	}
	const longest = 16
	text, err := io.ReadAll(io.LimitReader(r.Body, longest))
	if err != nil {
		writeText(w, http.StatusBadRequest, fmt.Sprintf("error reading request body: %v\n", err))
		return
	}
	verbosity, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 31)
	if err != nil {
		writeText(w, http.StatusBadRequest, fmt.Sprintf("verbosity %q: must be an integer of 0 or more\n", text))
		return
	}
	s.SetVerbosity(int(verbosity))
	writeText(w, http.StatusOK, fmt.Sprintf("verbosity set to %d\n", verbosity))
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text)
}
