// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Kept is how it went with a target for as long as somebody watched.
type Kept struct {
	// Done are connections, or answers on the one connection of a stream.
	Done int `json:"done"`
	// Failed is how many did not come about.
	Failed int `json:"failed"`
	// Longest is what the slowest took, in nanoseconds.
	Longest time.Duration `json:"longest"`
	// LastError tells what was wrong with one of them.
	LastError string `json:"lastError,omitempty"`
}

func (k *Kept) note(began time.Time, err error) {
	k.Done++
	k.Longest = max(k.Longest, time.Since(began))
	if err != nil {
		k.Failed++
		k.LastError = fmt.Sprintf("%s: %v", time.Now().UTC().Format(time.TimeOnly), err)
	}
}

// Loop makes connections to each target until ctx ends, at most a thousand a
// second.
func Loop(ctx context.Context, targets []Target) map[string]*Kept {
	return each(targets, func(to netip.AddrPort, k *Kept) {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			began := time.Now()
			_, err := request(context.WithoutCancel(ctx), to, requestTimeout)
			k.note(began, err)
			<-tick.C
		}
	})
}

// Stream holds a connection to each target until ctx ends, and sends a line in it
// every 10 ms, which has to come back.
func Stream(ctx context.Context, targets []Target) map[string]*Kept {
	return each(targets, func(to netip.AddrPort, k *Kept) {
		conn, err := net.DialTimeout("tcp", to.String(), requestTimeout)
		if err != nil {
			k.note(time.Now(), err)
			return
		}
		defer func() { _ = conn.Close() }()
		lines := bufio.NewReader(conn)
		_ = conn.SetDeadline(time.Now().Add(requestTimeout))
		_, err = conn.Write([]byte{'?'})
		if err == nil {
			_, err = lines.ReadString('\n') // its name
		}
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; err == nil && ctx.Err() == nil; n++ {
			began := time.Now()
			_ = conn.SetDeadline(began.Add(requestTimeout))
			var line string
			if _, err = fmt.Fprintf(conn, "%d\n", n); err == nil {
				line, err = lines.ReadString('\n')
			}
			if err == nil && strings.TrimSpace(line) != fmt.Sprint(n) {
				err = fmt.Errorf("sent %d, got %q", n, line)
			}
			k.note(began, err)
			<-tick.C
		}
		if err != nil && k.Failed == 0 {
			k.note(time.Now(), err)
		}
	})
}

// each does the same for all targets at once.
func each(targets []Target, f func(netip.AddrPort, *Kept)) map[string]*Kept {
	results := map[string]*Kept{}
	var group sync.WaitGroup
	for _, t := range targets {
		k := &Kept{}
		results[t.Name] = k
		group.Go(func() { f(t.Addr, k) })
	}
	group.Wait()
	return results
}
