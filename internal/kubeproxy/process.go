// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// metricsURL is where kube-proxy answers on its node unless it is told otherwise.
const metricsURL = "http://127.0.0.1:10249"

// MetricsPort and HealthPort are what kube-proxy listens on unless it is told
// otherwise (pkg/cluster/ports).
const (
	MetricsPort = 10249
	HealthPort  = 10256
)

// Server is the header by which Beeline's own answers are told from kube-proxy's,
// whose ports and answers they have.
const Server = "beeline"

// answerTime is how long it may take to answer.
const answerTime = 500 * time.Millisecond

// longestAnswer bounds what is read of an answer, in bytes.
const longestAnswer = 1 << 20

// freshTime is how long a change of kube-proxy's rules tells that it works.
const freshTime = 5 * time.Second

// Detector finds out whether a kube-proxy works in this network namespace. There
// are three signs, and each is enough:
//
//   - a process of that name, where the node's processes can be seen (a container
//     needs the host's PID namespace for that, and is not given it);
//   - an answer at the addresses where it serves metrics and health, which a
//     container in the node's network namespace can reach;
//   - rules of kube-proxy that change between two looks.
//
// A kube-proxy that serves neither metrics nor health, seen from a container, shows
// only by its rules: that it has stopped cannot be told from that it has nothing to
// do. Package takeover allows for that. It is not safe for concurrent use.
type Detector struct {
	// Metrics and Health are where kube-proxy may answer beside the usual places,
	// as it was told to listen: unspecified addresses stand for loopback.
	Metrics, Health []netip.AddrPort
	// Proc is where the process file system is; empty: /proc.
	Proc string
	// Now is a clock; nil: time.Now.
	Now func() time.Time

	looked  bool
	rules   string
	changed time.Time
}

// Running reports whether a kube-proxy works here, whose rules were just found,
// and how that is known.
func (d *Detector) Running(ctx context.Context, rules Presence) (how string, running bool) {
	now := time.Now
	if d.Now != nil {
		now = d.Now
	}
	if d.looked && rules.fingerprint != d.rules && rules.fingerprint != "" {
		d.changed = now()
	}
	d.looked, d.rules = true, rules.fingerprint
	if pid := d.process(); pid != "" {
		return "process " + pid, true
	}
	if how, ok := d.answers(ctx); ok {
		return how, true
	}
	if !d.changed.IsZero() && now().Sub(d.changed) < freshTime {
		return "its rules change", true
	}
	return "", false
}

// answers asks wherever it may listen.
func (d *Detector) answers(ctx context.Context) (how string, yes bool) {
	usual := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	for _, at := range places(usual(MetricsPort), d.Metrics) {
		text, _, err := get(ctx, fmt.Sprintf("http://%v/proxyMode", at))
		if err != nil {
			continue
		}
		switch mode := strings.TrimSpace(string(text)); mode {
		case "iptables", "nftables", "ipvs":
			return fmt.Sprintf("answers at %v, mode %s", at, mode), true
		}
	}
	for _, at := range places(usual(HealthPort), d.Health) {
		// 503 as well: it runs, and is late, or its node is not eligible.
		text, server, err := get(ctx, fmt.Sprintf("http://%v/healthz", at), http.StatusServiceUnavailable)
		if err == nil && server != Server && bytes.Contains(text, []byte(`"lastUpdated"`)) && bytes.Contains(text, []byte(`"currentTime"`)) {
			return fmt.Sprintf("answers health checks at %v", at), true
		}
	}
	return "", false
}

// places are where to ask, each once.
func places(usual netip.AddrPort, told []netip.AddrPort) []netip.AddrPort {
	all := []netip.AddrPort{usual}
	for _, at := range told {
		switch {
		case !at.IsValid():
			continue
		case at.Addr().IsUnspecified() && at.Addr().Is4():
			at = netip.AddrPortFrom(usual.Addr(), at.Port())
		case at.Addr().IsUnspecified():
			at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
		}
		if !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

// process returns the id of a process of that name in this network namespace. One
// that does not let its namespace be seen counts: it may have more capabilities
// than this process.
func (d *Detector) process() string {
	proc := cmp.Or(d.Proc, "/proc")
	ours, err := os.Readlink(filepath.Join(proc, "thread-self/ns/net"))
	if err != nil {
		return ""
	}
	names, err := filepath.Glob(filepath.Join(proc, "[0-9]*/comm"))
	if err != nil {
		return ""
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(comm)) != "kube-proxy" {
			continue
		}
		dir := filepath.Dir(name)
		theirs, err := os.Readlink(filepath.Join(dir, "ns/net"))
		if err == nil && theirs == ours || errors.Is(err, fs.ErrPermission) {
			return filepath.Base(dir)
		}
	}
	return ""
}

// get returns an answer and the server that gave it. Statuses other than 200 and
// those that are allowed are errors.
func get(ctx context.Context, url string, allowed ...int) (text []byte, server string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	// No proxy of the environment, and no connection that stays.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK && !slices.Contains(allowed, resp.StatusCode) {
		return nil, "", fmt.Errorf("%s: %s", url, resp.Status)
	}
	text, err = io.ReadAll(io.LimitReader(resp.Body, longestAnswer))
	return text, resp.Header.Get("Server"), err
}

// Settings are those of a kube-proxy's configuration that decide who reaches
// what.
type Settings struct {
	Mode              string   `json:"mode"`
	NodePortAddresses []string `json:"nodePortAddresses"`
	DetectLocalMode   string   `json:"detectLocalMode"`
	ClusterCIDR       string   `json:"clusterCIDR"`
	IPTables          struct {
		LocalhostNodePorts *bool `json:"localhostNodePorts"`
		MasqueradeAll      bool  `json:"masqueradeAll"`
		MasqueradeBit      *int  `json:"masqueradeBit"`
	} `json:"iptables"`
	NFTables struct {
		MasqueradeAll bool `json:"masqueradeAll"`
		MasqueradeBit *int `json:"masqueradeBit"`
	} `json:"nftables"`
}

// ReadSettings asks a running kube-proxy for its configuration.
func ReadSettings(ctx context.Context) (Settings, error) {
	text, _, err := get(ctx, metricsURL+"/configz")
	if err != nil {
		return Settings{}, fmt.Errorf("kube-proxy's configuration: %w", err)
	}
	var groups map[string]Settings
	if err := json.Unmarshal(text, &groups); err != nil {
		return Settings{}, fmt.Errorf("kube-proxy's configuration: %w", err)
	}
	s, ok := groups["kubeproxy.config.k8s.io"]
	if !ok {
		return Settings{}, fmt.Errorf("kube-proxy's configuration: %s answers, but is no kube-proxy", metricsURL)
	}
	return s, nil
}
