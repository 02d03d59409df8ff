// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	gomaps "maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/datapath"
)

// traces are what agents have left outside of the BPF file system, for cleanup.
type traces struct {
	// Files they have written.
	Files []string `json:"files,omitempty"`
	// Sysctl is the folder of the system's settings, and Settings those that
	// they have changed, by name.
	Sysctl   sysctl             `json:"sysctl,omitempty"`
	Settings map[string]setting `json:"settings,omitempty"`
}

// settingPath is where one of traces.Settings is. Those of connection tracking
// go by the end of their name.
func settingPath(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return netfilter + name
}

// setting is a changed one.
type setting struct {
	// Before is what there was before the first agent, After what it was set to.
	Before int `json:"before"`
	After  int `json:"after"`
}

func readTraces(pins datapath.Pins) (t traces, err error) {
	text, err := pins.ReadNote(datapath.NoteTraces)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &t)
	}
	if err != nil {
		return t, fmt.Errorf("what agents have left: %w", err)
	}
	return t, nil
}

// tune changes the system's settings as the configuration wants, and adds to the
// traces of earlier agents.
func (h *handover) tune(c config.Config) {
	t := &h.traces
	t.Files, t.Sysctl = files(c), sysctl(c.Kernel.Sysctl)
	if t.Settings == nil {
		t.Settings = map[string]setting{}
	}
	changed := setConntrack(t.Sysctl, c.Conntrack, h.log)
	if c.Datapath.PacketPath {
		gomaps.Copy(changed, openLoopback(t.Sysctl, h.log))
	}
	for name, s := range changed {
		if before, ok := t.Settings[name]; ok {
			s.Before = before.Before
		}
		t.Settings[name] = s
	}
}

// here is where that folder is for this process: the agent may have been in a
// container, and this one on the node.
func (s sysctl) here() sysctl {
	if _, err := os.Stat(filepath.Join(string(s), "net")); err != nil {
		return "/proc/sys"
	}
	return s
}

// write leaves the traces for cleanup and for later agents.
func (t traces) write(pins datapath.Pins) error {
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return pins.WriteNote(datapath.NoteTraces, text)
}

// Undo returns what takes back what agents have left outside of the BPF file
// system: settings that are still as they set them, and files. Ask before the
// datapath is cleaned up: that forgets it.
func Undo(pins datapath.Pins) (func() error, error) {
	t, err := readTraces(pins)
	return func() error {
		var errs []error
		root := t.Sysctl.here()
		for name, s := range t.Settings {
			if have, err := root.get(settingPath(name)); err == nil && have == s.After && s.Before != s.After {
				errs = append(errs, root.set(settingPath(name), s.Before))
			}
		}
		for _, file := range t.Files {
			if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}, err
}

// files are those that an agent with that configuration writes.
func files(c config.Config) []string {
	if c.Manifests != "" || c.Kubernetes.ServerCache == "" {
		return nil
	}
	return []string{c.Kubernetes.ServerCache}
}
