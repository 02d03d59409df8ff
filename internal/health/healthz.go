// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/beeline-net/beeline/internal/model"
)

// body is what /healthz and /livez answer: kube-proxy's fields in its order,
// and one more that is there only if it has something to say.
type body struct {
	LastUpdated   time.Time             `json:"lastUpdated"`
	CurrentTime   time.Time             `json:"currentTime"`
	NodeEligible  *bool                 `json:"nodeEligible,omitempty"`
	Healthy       bool                  `json:"healthy"`
	Status        map[string]familyBody `json:"status,omitempty"`
	FailingChecks []Failure             `json:"failingChecks,omitempty"`
}

type familyBody struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// Probed learns the status code of each answer; either may be nil.
type Probed struct {
	Healthz, Livez func(code int)
}

// Handler serves /healthz and /livez.
//
// /healthz is for load balancers: 200 if connections to Services work here and
// the node is eligible. /livez is for whoever may restart the agent: 200 if it
// keeps up with changes. Failing checks do not count there, as a restart would
// only delay their repair.
func (r *Readiness) Handler(probed Probed) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		report := r.Report()
		answer := newBody(report)
		answer.NodeEligible = &report.NodeEligible
		answer.Healthy = report.Healthy()
		answer.FailingChecks = report.Failing
		answer.write(w, answer.Healthy && report.NodeEligible, probed.Healthz)
	})
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		report := r.Report()
		answer := newBody(report)
		answer.Healthy = report.InTime()
		answer.write(w, answer.Healthy, probed.Livez)
	})
	return mux
}

func newBody(r Report) body {
	b := body{CurrentTime: r.Now, Status: map[string]familyBody{}}
	for _, family := range model.Families {
		f, ok := r.Families[family]
		if !ok {
			continue
		}
		b.Status[family.String()] = familyBody{f.Updated, f.InTime}
		if f.Updated.After(b.LastUpdated) {
			b.LastUpdated = f.Updated
		}
	}
	return b
}

func (b body) write(w http.ResponseWriter, good bool, probed func(code int)) {
	code := http.StatusServiceUnavailable
	if good {
		code = http.StatusOK
		// Once it meant when the last pass ran, even if nothing had changed;
		// kube-proxy keeps it recent for those who read it so.
		b.LastUpdated = b.CurrentTime
	}
	if probed != nil {
		probed(code)
	}
	text, err := json.Marshal(b)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, code, text)
}

func writeJSON(w http.ResponseWriter, code int, text []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(text) // the client has gone; there is nobody to tell
}
