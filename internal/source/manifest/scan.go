// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/beeline-net/beeline/internal/source/object"
)

const (
	// settle is how long a file must have been left alone before it is read.
	// A file that is written in place is empty, then half there, then whole.
	// Longer than a tick of the kernel's coarse clock, which dates files.
	settle = 15 * time.Millisecond
	// settleLimit is when a file that never rests is read all the same.
	settleLimit = 2 * time.Second
	// racy is the age below which a file's date does not prove that it is
	// still what was read: some file systems count in seconds.
	racy = 2 * time.Second
)

// fileID tells whether a file may have changed.
type fileID struct {
	dev, inode uint64
	size       int64
	modified   time.Time
}

func identify(info fs.FileInfo) fileID {
	id := fileID{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.dev, id.inode = uint64(st.Dev), st.Ino //nolint:unconvert // narrower on some architectures
	}
	return id
}

// file is one manifest file.
type file struct {
	id       fileID
	hash     hash
	racy     bool      // id does not prove anything
	restless time.Time // since when it has been found being written
	// content is what is in force: the last good one, nil if there was none.
	content *content
	// broken says why the present version is not in force.
	broken []object.Problem
}

// reading is one file on its way from the folder to content.
type reading struct {
	name string
	id   fileID
	racy bool
	hash hash
	same bool // as last time
	docs []*document
	err  error
}

// scan looks the folder through, reads what may have changed and applies it.
// It asks to be called again soon if a file was being written.
func (s *Source) scan() (again bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	folder, names, err := s.list()
	if err != nil {
		return false, err
	}
	s.folder = folder
	present := map[string]bool{}
	var changed []*reading
	for _, name := range names {
		r, busy := s.look(name)
		if r != nil && errors.Is(r.err, fs.ErrNotExist) && !linkExists(s.path(name)) {
			continue // deleted since the folder was listed
		}
		if r != nil {
			changed = append(changed, r)
		}
		present[name] = true
		again = again || busy
	}
	clear(s.touched)
	s.decode(changed)
	s.apply(changed, present, again)
	return again, nil
}

// list returns the folder's identity and its manifest files, sorted.
func (s *Source) list() (fileID, []string, error) {
	fail := func(err error) (fileID, []string, error) { return fileID{}, nil, fmt.Errorf("manifests: %w", err) }
	info, err := os.Stat(s.cfg.Dir)
	if err != nil {
		return fail(err)
	}
	if !info.IsDir() {
		return fail(fmt.Errorf("%s is not a directory", s.cfg.Dir))
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fail(err)
	}
	var names []string
	for _, e := range entries {
		if isManifest(e.Name()) {
			names = append(names, e.Name())
		}
	}
	id := identify(info)
	folder := fileID{dev: id.dev, inode: id.inode}
	if len(names) == 0 && len(s.files) > 0 && folder != s.folder {
		// Most likely a volume that is not mounted any more.
		return fail(fmt.Errorf("%s was replaced by an empty folder", s.cfg.Dir))
	}
	return folder, names, nil
}

func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

func (s *Source) path(name string) string { return filepath.Join(s.cfg.Dir, name) }

// touch notes a file that an event named: its date may not have changed though
// its content has.
func (s *Source) touch(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched[filepath.Base(path)] = true
}

// look reads a file if it may have changed; nil if not. Busy means that it is
// being written and left for the next scan.
func (s *Source) look(name string) (r *reading, busy bool) {
	known := s.files[name]
	info, err := os.Stat(s.path(name))
	if err != nil {
		return &reading{name: name, err: err}, false
	}
	id, now := identify(info), time.Now()
	if known != nil && known.id == id && !known.racy && !s.touched[name] {
		return nil, false
	}
	if age := now.Sub(id.modified); age >= 0 && age < settle && s.rests(name, now) {
		return nil, true
	}
	r = &reading{name: name, id: id, racy: now.Sub(id.modified) < racy}
	data, err := s.read(name, info)
	if err != nil {
		// Permissions may change without the date: look again every time.
		r.id, r.err = fileID{}, err
		return r, false
	}
	r.hash = sha256.Sum256(data)
	if known != nil && known.hash == r.hash {
		r.same = true
		return r, false
	}
	r.docs, r.err = split(name, data)
	return r, false
}

// rests reports whether a file that has just changed may be left for a moment,
// and notes since when it has been changing.
func (s *Source) rests(name string, now time.Time) bool {
	f := s.files[name]
	if f == nil {
		f = &file{broken: []object.Problem{{Object: display(name), Message: "is being written"}}}
		s.files[name] = f
	}
	if f.restless.IsZero() {
		f.restless = now
	}
	return now.Sub(f.restless) < settleLimit
}

// read returns a file's content, which is text that is not empty.
func (s *Source) read(name string, info fs.FileInfo) ([]byte, error) {
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("is %s and no regular file", describe(info.Mode()))
	case info.Size() > s.cfg.MaxFileSize:
		return nil, fmt.Errorf("has %d bytes; %d are allowed", info.Size(), s.cfg.MaxFileSize)
	}
	// Not blocking, should it have become a pipe meanwhile.
	f, err := os.OpenFile(s.path(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var text bytes.Buffer
	text.Grow(int(info.Size()) + bytes.MinRead)
	if _, err := text.ReadFrom(io.LimitReader(f, s.cfg.MaxFileSize+1)); err != nil {
		return nil, err
	}
	data := bytes.TrimPrefix(text.Bytes(), []byte("\ufeff"))
	switch {
	case int64(len(data)) > s.cfg.MaxFileSize:
		return nil, fmt.Errorf("has more than %d bytes", s.cfg.MaxFileSize)
	case !utf8.Valid(data):
		return nil, errors.New("is not UTF-8")
	case len(bytes.TrimSpace(data)) == 0:
		return nil, errors.New("is empty; delete the file to delete its objects")
	}
	return data, nil
}

func describe(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// decode decodes all documents of all files, on all processors.
func (s *Source) decode(files []*reading) {
	type job struct {
		doc   *document
		sound map[hash][]found
	}
	var jobs []job
	for _, r := range files {
		var sound map[hash][]found
		if f := s.files[r.name]; f != nil && f.content != nil {
			sound = f.content.sound
		}
		for _, d := range r.docs {
			jobs = append(jobs, job{d, sound})
		}
	}
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(jobs)); i = next.Add(1) - 1 {
				jobs[i].doc.decode(s.cfg.NodeName, jobs[i].sound)
			}
		})
	}
	workers.Wait()
}

func linkExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
