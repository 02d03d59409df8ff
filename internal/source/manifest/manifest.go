// SPDX-License-Identifier: Apache-2.0

// Package manifest reads Services, EndpointSlices, ServiceCIDRs and this node
// from a folder of YAML and JSON files into a snapshot, and follows its changes.
//
// The files are the documents that kubectl apply takes. No API server has
// checked them, filled in defaults or allocated addresses, so this package
// does the first two and reports what lacks the third. Its rules:
//
//   - A file counts as a whole. If it cannot be read, is not valid YAML or JSON,
//     or has a field that the API does not know, then all of it is reported and
//     its last good content stays in force.
//   - In a file that can be read, an object with something wrong in it keeps its
//     last good version: a slip must not cost a Service that works. Where there
//     is none, package object's rule says what of it is used.
//   - Nothing remembers a last good content across a restart. Until every file
//     has been readable once, the snapshot is read but not synced, so that
//     nothing which the kernel still holds from a broken file is pruned.
//   - Of one object in two files, the file whose name sorts first wins.
//   - Deleting a file deletes its objects. An empty file is taken for one that
//     is being written, and is an error. A folder that vanishes while the agent
//     runs deletes nothing.
package manifest

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

const (
	defaultMaxFileSize = 64 << 20
	defaultRescan      = 5 * time.Second

	// debounce is how long the folder must be quiet after an event, and
	// debounceLimit for how long it is waited for at most: one save is a
	// handful of events, and a thousand copied files are one change.
	debounce      = 5 * time.Millisecond
	debounceLimit = 50 * time.Millisecond

	// folderKey is where the book has what is wrong with the folder itself.
	folderKey = "folder"
)

// Config is what a Source needs.
type Config struct {
	// Dir is the folder. Only files directly in it count, named *.yaml, *.yml
	// or *.json and not beginning with a dot. Links are followed.
	Dir string
	// NodeName selects this node's Node document; others are ignored.
	NodeName string
	Store    *snapshot.Store
	Log      *slog.Logger
	// Report is called once for each new problem; may be nil.
	Report func(object.Problem)
	// MaxFileSize is the largest file that is read, in bytes; 0 means 64 MiB.
	MaxFileSize int64
	// Rescan is how often the folder is looked through without any event, for
	// what the kernel does not tell: a link's target that is written in place,
	// a folder that was replaced. 0 means 5 s.
	Rescan time.Duration
}

// Source keeps a snapshot in step with a folder.
type Source struct {
	cfg  Config
	book *object.Book

	mu      sync.Mutex // one scan at a time
	folder  fileID
	files   map[string]*file
	owners  map[key][]string // the files that have an object, sorted
	touched map[string]bool  // files that an event named since the last scan
}

var _ snapshot.Source = (*Source)(nil)

// New prepares a Source; nothing is read before Load or Run.
func New(cfg Config) *Source {
	if cfg.MaxFileSize == 0 {
		cfg.MaxFileSize = defaultMaxFileSize
	}
	if cfg.Rescan == 0 {
		cfg.Rescan = defaultRescan
	}
	return &Source{
		cfg: cfg, book: object.NewBook(cfg.Log, cfg.Report),
		files: map[string]*file{}, owners: map[key][]string{}, touched: map[string]bool{},
	}
}

// Load brings the snapshot in step with the folder once. Its error is about
// the folder; what is wrong with files is in Problems.
func (s *Source) Load() error {
	for {
		again, err := s.scan()
		if err != nil || !again {
			return err
		}
		time.Sleep(settle)
	}
}

// Run loads the folder and follows it until ctx ends. It fails only if the
// folder cannot be read at the start.
func (s *Source) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil { // most often the limit of inotify instances of this user
		s.unwatched(err)
		w = nil
	} else {
		defer func() { _ = w.Close() }()
		// Before the first look, so that nothing in between is missed. What is
		// wrong with the folder Load says better.
		_ = w.Add(s.cfg.Dir)
	}
	if err := s.Load(); err != nil {
		return err
	}
	s.follow(ctx, w)
	return nil
}

func (s *Source) unwatched(err error) {
	s.cfg.Log.Warn("folder is not watched, only looked through", "dir", s.cfg.Dir, "every", s.cfg.Rescan, "err", err)
}

// Problems lists what is wrong at present.
func (s *Source) Problems() []object.Problem { return s.book.All() }

// Unread lists the files that have not been readable yet. While there are any
// at the start, the snapshot is not synced.
func (s *Source) Unread() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, f := range s.files {
		if f.content == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// follow scans after events and from time to time. The watcher may be nil.
func (s *Source) follow(ctx context.Context, w *fsnotify.Watcher) {
	var events <-chan fsnotify.Event
	var lost <-chan error
	if w != nil {
		events, lost = w.Events, w.Errors
	}
	rescan := time.NewTicker(s.cfg.Rescan)
	defer rescan.Stop()
	due := time.NewTimer(s.cfg.Rescan)
	defer due.Stop()
	var first time.Time // of the events that wait for a scan
	watched := s.folderID()
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-events:
			s.touch(ev.Name)
			if first.IsZero() {
				first = time.Now()
			}
			due.Reset(min(debounce, max(0, debounceLimit-time.Since(first))))
			continue
		case err := <-lost:
			s.cfg.Log.Warn("events of the folder were lost", "dir", s.cfg.Dir, "err", err)
		case <-due.C:
		case <-rescan.C:
		}
		first = time.Time{}
		if again := s.rescan(); again {
			due.Reset(settle)
		}
		if folder := s.folderID(); w != nil && folder != watched && s.rewatch(w) {
			watched = folder
			due.Reset(0) // for what happened between the scan and the watch
		}
	}
}

// rescan scans while there is something in force that must survive a folder
// which cannot be read.
func (s *Source) rescan() (again bool) {
	again, err := s.scan()
	if err != nil {
		s.book.Set(folderKey, []object.Problem{{Object: s.cfg.Dir, Message: err.Error() + "; what was read of it stays in force"}})
		return false
	}
	s.book.Set(folderKey, nil)
	return again
}

// rewatch watches the folder that now has the name.
func (s *Source) rewatch(w *fsnotify.Watcher) bool {
	_ = w.Remove(s.cfg.Dir) // the old one may be gone, and its watch with it
	if err := w.Add(s.cfg.Dir); err != nil {
		s.unwatched(err)
		return false
	}
	return true
}

func (s *Source) folderID() fileID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.folder
}
