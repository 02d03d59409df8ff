// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestChanges(t *testing.T) {
	old := Default()
	changed := Default()
	changed.Maps.Peers = 99
	changed.Logging.Verbosity = 4
	changed.NodePorts.Addresses = []NodePortAddress{{Keyword: Primary}}
	changes := Changes(old, changed)
	want := []Change{
		{"maps.peers", "262144", "99", Restart},
		{"nodePorts.addresses", `["all"]`, `["primary"]`, Live},
		{"logging.verbosity", "0", "4", Live},
	}
	if diff := cmp.Diff(want, changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:1], NeedRestart(changes)); diff != "" {
		t.Errorf("changes that need a restart (-want +got):\n%s", diff)
	}
	if same := Changes(old, Default()); len(same) > 0 {
		t.Errorf("changes of nothing: %v", same)
	}
	running := old.Adopt(changed)
	if diff := cmp.Diff(want[1:], Changes(old, running)); diff != "" {
		t.Errorf("changes that are adopted (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[:1], Changes(running, changed)); diff != "" {
		t.Errorf("changes that are not adopted (-want +got):\n%s", diff)
	}
}

// TestWatcherFollowsAConfigMap replaces the file as the kubelet does: by
// renaming the link to the folder that holds it.
func TestWatcherFollowsAConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version, content string) {
		t.Helper()
		folder := filepath.Join(dir, ".."+version)
		next := filepath.Join(dir, "..next")
		for _, err := range []error{
			os.Mkdir(folder, 0o700),
			os.WriteFile(filepath.Join(folder, "config.conf"), []byte(content), 0o600),
			os.Symlink(filepath.Base(folder), next),
			os.Rename(next, filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	publish("1", kubeProxyFile("oomScoreAdj: 1"))
	path := filepath.Join(dir, "config.conf")
	if err := os.Symlink("..data/config.conf", path); err != nil {
		t.Fatal(err)
	}
	events := watch(t, path, "--node-name=a")

	publish("2", kubeProxyFile("oomScoreAdj: 2", "logging: {verbosity: 4}"))
	expectEvent(t, events, `oomScoreAdj: 1 -> 2, logging.verbosity: 0 -> 4`)
	publish("3", kubeProxyFile("oomScoreAdj: 5000"))
	expectEvent(t, events, `rejected: configuration: `+path+`: oomScoreAdj 5000: must be an integer from -1000 to 1000`)
	publish("4", kubeProxyFile("oomScoreAdj: 2"))
	expectEvent(t, events, `logging.verbosity: 4 -> 0`)
	publish("5", kubeProxyFile("# a comment", "oomScoreAdj: 2"))
	expectEvent(t, events, "")
}

func TestWatcherFollowsAnEditedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(beelineFile("oomScoreAdj: 1"))
	events := watch(t, path, "--oom-score-adj=7")
	write(beelineFile("oomScoreAdj: 2", "sync: {period: 1m}"))
	expectEvent(t, events, `sync.period: "30s" -> "1m"`)
	write(beelineFile("oomScoreAdj: 2", "sync: {periods: 1m}"))
	expectEvent(t, events, "rejected: configuration: "+path+": sync.periods: unknown field (did you mean sync.period?)")
	write(beelineFile("oomScoreAdj: 2", "sync: {period: 1m}"))
	expectEvent(t, events, "")
}

func TestWatcherWithoutFilesWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w := Watcher{Loader: NewLoader(pflag.NewFlagSet("agent", pflag.ContinueOnError))}
	if err := w.Run(ctx); err != nil {
		t.Error(err)
	}
}

// watch runs a watcher until the test ends and tells what it reports.
func watch(t *testing.T, path string, args ...string) <-chan string {
	t.Helper()
	l := newLoader(t, nil, append(args, "--config="+path)...)
	loaded, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 10)
	w := Watcher{
		Loader: l, Current: loaded, Log: slog.New(slog.DiscardHandler),
		Changed: func(_ Loaded, changes []Change) {
			var all []string
			for _, c := range changes {
				all = append(all, c.String())
			}
			events <- strings.Join(all, ", ")
		},
		Rejected: func(err error) { events <- "rejected: " + err.Error() },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return events
}

func expectEvent(t *testing.T, events <-chan string, want string) {
	t.Helper()
	select {
	case got := <-events:
		if got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no event, want %q", want)
	}
}
