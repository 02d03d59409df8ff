// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// loadReport is what a load generator saw.
type loadReport struct {
	Requests   int                  `json:"requests"`
	Failed     int                  `json:"failed"`
	FirstError string               `json:"firstError,omitempty"`
	Slowest    time.Duration        `json:"slowestNanoseconds"`
	Last       map[string]time.Time `json:"lastByPod"`
}

// Load asks a URL again and again, a new connection each time, until ctx ends,
// and writes what happened to out as JSON. The answer is taken for the name of
// the pod that gave it. The demo runs it as a process inside a pod.
func Load(ctx context.Context, url string, out io.Writer) error {
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	r := loadReport{Last: map[string]time.Time{}}
	for ctx.Err() == nil {
		start := time.Now()
		pod, err := ask(client, url)
		r.Requests++
		r.Slowest = max(r.Slowest, time.Since(start))
		if err != nil {
			r.Failed++
			if r.FirstError == "" {
				r.FirstError = err.Error()
			}
		} else {
			// When the connection was asked for, not when the answer came: a
			// request under way may outlive its backend's removal.
			r.Last[pod] = start
		}
		time.Sleep(time.Millisecond)
	}
	return json.NewEncoder(out).Encode(r)
}

func ask(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("HTTP status %s", resp.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

// load is a running load generator.
type load struct {
	cmd *exec.Cmd
	out *strings.Builder
}

// startLoad runs Load in the client pod.
func (c *cluster) startLoad() (*load, error) {
	l := &load{out: &strings.Builder{}}
	l.cmd = exec.CommandContext(c.ctx, c.self, "demo", "load", "http://"+nginxVIP+"/pod")
	l.cmd.Stdout, l.cmd.Stderr = l.out, l.out
	if err := lab.Start(l.cmd, c.client.NS, c.client.Cgroup); err != nil {
		return nil, err
	}
	return l, nil
}

// finish ends the load and returns what it saw.
func (l *load) finish() (r loadReport, err error) {
	if err := l.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return r, fmt.Errorf("end load: %w", err)
	}
	if err := l.cmd.Wait(); err != nil {
		return r, fmt.Errorf("load: %w: %s", err, l.out)
	}
	if err := json.Unmarshal([]byte(l.out.String()), &r); err != nil {
		return r, fmt.Errorf("load report: %w", err)
	}
	return r, nil
}
