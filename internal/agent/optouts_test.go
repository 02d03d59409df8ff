// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A pod is known to the API before it has a cgroup: it is looked for until it
// has, often at first.
func TestA17OptOutsWaitForTheCgroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asked [][]string
		missing := []string{"a"}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(asked)
		}
		o := newOptOuts(func(pods []string) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, pods)
			return missing, nil
		}, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = o.run(ctx) }()
		o.pods <- []string{"a"}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := count(); n < 15 || n > 25 {
			t.Errorf("looked for a new pod %d times in a second, want 20", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		before := count()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n := count() - before; n < 9 || n > 11 {
			t.Errorf("looked for a pod that does not start %d times in 20 s, want 10", n)
		}
		mu.Lock()
		missing = nil
		mu.Unlock()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		before = count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := count() - before; n != 0 {
			t.Errorf("looked %d times more for what was found", n)
		}
		o.pods <- nil
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if last := asked[len(asked)-1]; !slices.Equal(last, nil) {
			t.Errorf("asked for %v at last, want none", last)
		}
		stop()
		<-ended
	})
}
