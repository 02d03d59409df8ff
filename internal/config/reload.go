// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Change is one setting that differs between two configurations.
type Change struct {
	// Path is the setting's place in an AgentConfiguration file.
	Path string
	// Old and New are its values as they look in a file.
	Old, New string
	// Reload says whether New can take effect in a running agent.
	Reload Reload
}

func (c Change) String() string { return fmt.Sprintf("%s: %s -> %s", c.Path, c.Old, c.New) }

// Changes lists the settings that differ, in the order of the reference page.
func Changes(old, next Config) []Change {
	var changes []Change
	for _, f := range fields() {
		before, after := quote(f.value.get(&old)), quote(f.value.get(&next))
		if before != after {
			changes = append(changes, Change{f.path, before, after, f.reload})
		}
	}
	return changes
}

// NeedRestart picks the changes that a running agent cannot take.
func NeedRestart(changes []Change) []Change {
	return slices.DeleteFunc(slices.Clone(changes), func(c Change) bool { return c.Reload == Live })
}

// Adopt returns the configuration that an agent started with c runs with once
// next has come: the live settings of next, and all others as they were.
func (c Config) Adopt(next Config) Config {
	for _, f := range fields() {
		if f.reload == Live {
			f.value.copy(&c, &next)
		}
	}
	return c
}

const (
	// settle is how long a file must be quiet before it is read: editors and
	// the kubelet change files in several steps.
	settle = 100 * time.Millisecond
	// look is how often files are read without having been told to: a changed
	// target of a symbolic link tells nobody.
	look = 30 * time.Second
)

// Watcher notices when the files that a configuration came from change.
type Watcher struct {
	Loader *Loader
	// Current is what the agent runs with at the start of Run.
	Current Loaded
	// Changed gets every new valid content, and what it changes: nothing, if
	// only comments differ or if it takes back what was rejected.
	Changed func(Loaded, []Change)
	// Rejected gets the error of every new content that is not valid; the old
	// configuration stays.
	Rejected func(error)
	Log      *slog.Logger
}

// Run watches until ctx ends. Changed and Rejected are called from its
// goroutine. Without inotify it reads the files from time to time.
func (w *Watcher) Run(ctx context.Context) error {
	if len(w.Loader.Files) == 0 {
		<-ctx.Done()
		return nil
	}
	events, errs, stop := w.notifications()
	defer stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	quiet := time.NewTimer(settle)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			quiet.Reset(settle)
		case err := <-errs:
			w.Log.Warn("configuration files are read only from time to time", "every", look, "err", err)
			errs = nil
		case <-ticker.C:
			w.reload()
		case <-quiet.C:
			w.reload()
		}
	}
}

// notifications watches the folders of the files: a ConfigMap's file changes
// by renaming a link beside it. A channel that has nothing to say is nil.
func (w *Watcher) notifications() (<-chan fsnotify.Event, <-chan error, func()) {
	fail := func(err error) (<-chan fsnotify.Event, <-chan error, func()) {
		errs := make(chan error, 1)
		errs <- err
		return nil, errs, func() {}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fail(fmt.Errorf("watch configuration files: %w", err))
	}
	for _, file := range w.Loader.Files {
		if err := watcher.Add(filepath.Dir(file)); err != nil {
			_ = watcher.Close()
			return fail(fmt.Errorf("watch configuration file %s: %w", file, err))
		}
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
}

// reload reads the files and reports once for every new content.
func (w *Watcher) reload() {
	files, err := w.Loader.read()
	if err != nil {
		w.reject(nil, err)
		return
	}
	if maps.EqualFunc(files, w.Current.files, bytes.Equal) {
		return
	}
	next, err := w.Loader.merge(files)
	if err != nil {
		w.reject(files, err)
		return
	}
	changes := Changes(w.Current.Config, next.Config)
	w.Current = next
	w.Changed(next, changes)
}

// reject reports an error and remembers the content, so that it is reported
// once. A file that cannot be read is reported each time.
func (w *Watcher) reject(files map[string][]byte, err error) {
	if files != nil {
		w.Current.files = files
	}
	w.Rejected(err)
}
