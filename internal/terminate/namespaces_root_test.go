// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// A process's first thread may have been left in another network namespace, by
// a goroutine that was locked to it: that is not where the others are. Here it
// is the other way round, which is the same to procfs.
func TestOwnNamespaceIsTheThreadsNotTheProcesss(t *testing.T) {
	lab.RequireRoot(t)
	beside(func() {
		check(t, unix.Unshare(unix.CLONE_NEWNET))
		own := threadNamespace(t)
		n := newNamespaces(Options{Namespaces: []string{}, Proc: "/nowhere"})
		files, err := n.find(map[uint32][]target{own: nil})
		check(t, err)
		if files[own] == "" {
			t.Fatalf("network namespace %d of this thread is not found", own)
		}
		// We are there already: nothing is to be entered.
		check(t, enter(files[own], func() error {
			if now := threadNamespace(t); now != own {
				t.Errorf("entered network namespace %d, want our own, %d", now, own)
			}
			return nil
		}))
	})
}

// beside runs f on a thread that is not the process's first, and ends it.
func beside(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlock: the thread dies with us
		defer close(done)
		if unix.Gettid() == unix.Getpid() {
			beside(f)
			return
		}
		f()
	}()
	<-done
}

func threadNamespace(t *testing.T) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		t.Error(err)
	}
	return uint32(st.Ino)
}
