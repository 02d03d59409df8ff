// SPDX-License-Identifier: Apache-2.0

package web

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/lab"
)

// TestABrowserShowsThePage looks at the page as Chromium has it once it was told
// what goes on twice: names and rates are there, and names that are markup stay
// text.
func TestABrowserShowsThePage(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv(lab.StrictEnv) != "" {
			t.Fatal("needs chromium: hack/install-deps test")
		}
		t.Skip("needs chromium: hack/install-deps test")
	}
	const hostile = `<img src=x onerror="document.title='owned'">`
	told := uint64(0)
	page := Page{Node: "node-1", Log: slog.New(slog.DiscardHandler), Read: func() (inspect.Overview, error) {
		told++
		empty := serving("broken", "10.96.0.11:80", 0, 5)
		empty.Backends, empty.Working, empty.Cluster, empty.State = []inspect.Backend{}, []inspect.Working{}, inspect.Set{}, "no endpoints"
		all := []inspect.Serving{serving("web", "10.96.0.10:80", 1e6*told, 0), empty, serving(hostile, "10.96.0.12:80", 0, 0)}
		for i := range all {
			all[i].Index = uint32(i)
		}
		return inspect.Overview{
			Time: time.Now(), Services: all,
			Meanings: []inspect.NamedThing{{Name: "source_range", Meaning: "told in words"}},
		}, nil
	}}
	handler, err := page.Handler()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(slowly(handler, 2*refresh))
	t.Cleanup(s.Close)
	dom := dump(t, chromium, s.URL)
	for _, want := range []string{
		"<title>Beeline</title>", "node-1", ">live<", "default/web:http", "web-7d4b", "10.96.0.10:80", "ClusterIP",
		"no endpoints", "source_range × 5", "told in words", `class="busy"`, "k new/s",
		"default/&lt;img src=x", // as text
	} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(dom, "<img src=x") || strings.Contains(dom, "owned</title>") {
		t.Error("the name of a Service became markup")
	}
	if t.Failed() {
		t.Log(dom)
	}
}

// slowly gives the page an image that takes its time: a browser asked for what
// it shows answers when all is loaded.
func slowly(next http.Handler, wait time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow.png":
			time.Sleep(wait)
		case "/":
			page := httptest.NewRecorder()
			next.ServeHTTP(page, r)
			w.Header().Set("Content-Security-Policy", page.Header().Get("Content-Security-Policy"))
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write(bytes.Replace(page.Body.Bytes(), []byte("</main>"), []byte(`</main><img alt="" src="/slow.png">`), 1))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func dump(t *testing.T, chromium, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+t.TempDir(), "--dump-dom", url)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, errs.String())
	}
	return string(out)
}
