// SPDX-License-Identifier: Apache-2.0

package system

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

const page = "http://127.0.0.1:10259"

// What people watch, of an agent with traffic: top, the web page as a browser has
// it, and that the page tells what the metrics tell.
func TestWatchingTraffic(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		lab.SkipOrFail(t, "needs chromium: hack/install-deps test")
	}
	s := newStage(t, 2)
	n, outside := s.nodes[0], s.nodes[1]
	n.write("web.yaml", nodePortService("web", v4VIP, s.server(n, "web")))
	n.start("--packet-path", "--debug-bind-address", "127.0.0.1:10259")
	clients := []*client{
		startClient(t, s.client.NS, s.client.Cgroup, job{"connect", access[0].addr}),
		startClient(t, outside.NS, outside.Cgroup, job{"connect", n.V4.String() + ":30080"}),
	}
	t.Run("top", func(t *testing.T) {
		out, errs, status := n.split("top", "--interval", "1s", "-o", "json")
		var o inspect.Overview
		if err := json.Unmarshal([]byte(out), &o); status != 0 || err != nil {
			t.Fatalf("status %d, %v: %s", status, err, errs)
		}
		busy, quiet := serving(t, o, "tcp"), serving(t, o, "udp")
		if r := busy.Rates; r.Connections < 1 || r.Packets < r.Connections || r.RequestBytes < 40 || r.ReplyBytes < 40 || r.Refusals > 0 {
			t.Errorf("rates of a Service with traffic: %+v", r)
		}
		if o.Services[0].Port.Port != "tcp" || quiet.Rates != (inspect.Rates{}) {
			t.Errorf("first is %s; rates without traffic: %+v", o.Services[0].Port.Port, quiet.Rates)
		}
	})
	t.Run("a browser", func(t *testing.T) {
		dom := n.look(t, chromium)
		for _, want := range []string{"default/web:tcp", access[0].addr, "*:30080", "new/s", `class="busy"`, ">live<"} {
			if !strings.Contains(dom, want) {
				t.Errorf("the page has no %q", want)
			}
		}
		if t.Failed() {
			t.Log(dom)
		}
	})
	for _, c := range clients {
		c.finish()
	}
	t.Run("the page and the metrics", func(t *testing.T) {
		had, told := serving(t, n.live(t), "tcp").Traffic, n.metrics(t)
		for metric, want := range map[string]uint64{
			`beeline_service_connections_total{path="socket"}`:   had.Sockets,
			`beeline_service_connections_total{path="packet"}`:   had.Flows,
			`beeline_service_packets_total{direction="request"}`: had.RequestPackets,
			`beeline_service_packets_total{direction="reply"}`:   had.ReplyPackets,
			`beeline_service_bytes_total{direction="request"}`:   had.RequestBytes,
			`beeline_service_bytes_total{direction="reply"}`:     had.ReplyBytes,
			`beeline_service_endpoints{}`:                        1,
		} {
			if got, ok := told[metric]; !ok || got != want || want == 0 {
				t.Errorf("%s is %d (%v), the page has %d", metric, got, ok, want)
			}
		}
	})
}

// serving picks a port of Service default/web.
func serving(t *testing.T, o inspect.Overview, port string) inspect.Serving {
	t.Helper()
	for _, s := range o.Services {
		if s.Name == "web" && s.Port.Port == port {
			return s
		}
	}
	t.Fatalf("no port %s among %+v", port, o.Services)
	return inspect.Serving{}
}

// live is the first that the page is told.
func (n *node) live(t *testing.T) (o inspect.Overview) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, page+"/live", nil)
	check(t, err)
	answer, err := (&http.Client{Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true}}).Do(r)
	check(t, err)
	defer func() { _ = answer.Body.Close() }()
	line, err := bufio.NewReader(answer.Body).ReadString('\n')
	check(t, err)
	check(t, json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &o))
	return o
}

// metrics are those of port tcp of Service default/web, by what else tells them
// apart.
func (n *node) metrics(t *testing.T) map[string]uint64 {
	t.Helper()
	_, text, err := n.get(status + "/metrics")
	check(t, err)
	all := map[string]uint64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, "{")
		labels, value, ok2 := strings.Cut(rest, "} ")
		if !ok || !ok2 || !strings.Contains(labels, `service="web"`) || !strings.Contains(labels, `port="tcp"`) {
			continue
		}
		var other []string
		for _, l := range strings.Split(labels, ",") {
			if key, _, _ := strings.Cut(l, "="); key == "path" || key == "direction" {
				other = append(other, l)
			}
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		check(t, err)
		all[fmt.Sprintf("%s{%s}", name, strings.Join(other, ","))] += uint64(f)
	}
	return all
}

// look returns the page as a browser on the node has it, after it was told what
// goes on twice: a browser asked for what it shows answers when all is loaded, so
// the page gets an image that takes its time.
func (n *node) look(t *testing.T, chromium string) string {
	t.Helper()
	target, err := url.Parse(page)
	check(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Header.Del("Accept-Encoding") },
		Transport:     &http.Transport{DialContext: n.dial, DisableKeepAlives: true},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path != "/" {
				return nil
			}
			var b bytes.Buffer
			_, err := b.ReadFrom(r.Body)
			b.WriteString(`<img alt="" src="/slow.png">`)
			r.Body, r.ContentLength = http.NoBody, int64(b.Len())
			r.Header.Set("Content-Length", strconv.Itoa(b.Len()))
			r.Body = readCloser{&b}
			return err
		},
	}
	var l net.Listener
	check(t, n.NS.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow.png" {
			time.Sleep(5 * time.Second)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	cmd := exec.Command("timeout", "90", chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+t.TempDir(), "--dump-dom", "http://"+l.Addr().String())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	check(t, lab.Start(cmd, n.NS, n.Cgroup))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, errs.String())
	}
	return out.String()
}

// readCloser has nothing to close.
type readCloser struct{ *bytes.Buffer }

func (readCloser) Close() error { return nil }
