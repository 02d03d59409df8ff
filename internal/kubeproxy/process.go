// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// metricsURL is where kube-proxy answers on its node unless it is told otherwise.
const metricsURL = "http://127.0.0.1:10249"

// answerTime is how long it may take to answer.
const answerTime = 500 * time.Millisecond

// longestAnswer bounds what is read of an answer, in bytes.
const longestAnswer = 1 << 20

// Running reports whether a kube-proxy works in this network namespace, and how
// that is known. In a container without the node's processes only a kube-proxy
// with its metrics at the usual place is noticed.
func Running(ctx context.Context) (how string, running bool) {
	if pid := process(); pid != "" {
		return "process " + pid, true
	}
	text, err := get(ctx, "/proxyMode")
	if err != nil {
		return "", false
	}
	switch mode := strings.TrimSpace(string(text)); mode {
	case "iptables", "nftables", "ipvs":
		return "answers at " + metricsURL + ", mode " + mode, true
	}
	return "", false
}

// process returns the id of a process of that name in this network namespace.
func process() string {
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return ""
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return ""
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(comm)) != "kube-proxy" {
			continue
		}
		dir := filepath.Dir(name)
		if theirs, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil && theirs == ours {
			return filepath.Base(dir)
		}
	}
	return ""
}

func get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s%s: %s", metricsURL, path, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, longestAnswer))
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
	text, err := get(ctx, "/configz")
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
