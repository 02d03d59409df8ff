// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/config"
)

// fakeLoopback is a folder of settings with this one.
func fakeLoopback(t *testing.T, value string) sysctl {
	t.Helper()
	root := sysctl(t.TempDir())
	path := filepath.Join(string(root), loopbackAccepts)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value), 0o644)); err != nil {
		t.Fatal(err)
	}
	return root
}

// The programs send packets by the loopback device only if it takes them.
func TestLoopbackIsOpened(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	closed := fakeLoopback(t, "0\n")
	if diff := cmp.Diff(map[string]setting{loopbackAccepts: {0, 1}}, openLoopback(closed, log)); diff != "" {
		t.Error(diff)
	}
	forbidden := fakeLoopback(t, "0\n")
	path := filepath.Join(string(forbidden), loopbackAccepts)
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil { // not even root writes a folder
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		root sysctl
		open bool
	}{
		"opened": {closed, true}, "open already": {fakeLoopback(t, "1\n"), true},
		"not to be written": {forbidden, false}, "no such setting": {sysctl(t.TempDir()), false},
	} {
		if changed := openLoopback(c.root, log); len(changed) != 0 {
			t.Errorf("%s: changed %v", name, changed)
		}
		conf := config.Default()
		conf.Kernel.Sysctl = string(c.root)
		if got := packetOptions(conf).CutByLoopback; got != c.open {
			t.Errorf("%s: packets are sent there: %v", name, got)
		}
	}
}

func TestWhereSettingsAre(t *testing.T) {
	if got := settingPath("max"); got != netfilter+"max" {
		t.Errorf("max is %s", got)
	}
	if got := settingPath(loopbackAccepts); got != loopbackAccepts {
		t.Errorf("%s is %s", loopbackAccepts, got)
	}
}
