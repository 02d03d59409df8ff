// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// More threads than CPUs wait for one another, and a sleep is no waiting.
func TestRunDelayIsWaitingForACPU(t *testing.T) {
	delay := func(f func()) time.Duration {
		before, err := RunDelay(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		f()
		after, err := RunDelay(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return after - before
	}
	const span = 200 * time.Millisecond
	crowd := delay(func() {
		var all sync.WaitGroup
		ready := make(chan struct{})
		threads := 4 * runtime.NumCPU()
		previous := runtime.GOMAXPROCS(threads)
		defer runtime.GOMAXPROCS(previous)
		for range threads {
			all.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread() // or it would end, and be forgotten
				<-ready
				for end := time.Now().Add(span); time.Now().Before(end); {
				}
			})
		}
		close(ready)
		all.Wait()
	})
	if crowd < span {
		t.Errorf("four threads for each CPU waited for %v, want more than %v", crowd, span)
	}
	if alone := delay(func() { time.Sleep(span) }); alone > crowd/2 {
		t.Errorf("one thread that slept waited for %v, the crowd for %v", alone, crowd)
	}
}
